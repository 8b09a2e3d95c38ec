//! The single writer: one task that owns the state and the publisher.
//!
//! Each turn takes what the mailbox holds (bounded), then expires what is due, then publishes if it is time. Commands go
//! before expiry, so that a renewal which waits in the mailbox is never beaten by the end of its own lease.

use crate::balance::EndpointStats;
use crate::clock;
use crate::control::Options;
use crate::control::events::Events;
use crate::control::publisher::{Publisher, Waiter};
use crate::control::registry::{Command, Done, Handle, Listing, RegistryError, Rules, State};
use crate::model::{Instance, InstanceId, ServiceName, ServiceSpec};
use crate::rng::Rng;
use crate::table;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Commands that wait at most; whoever sends more waits for room.
const MAILBOX: usize = 1024;

/// Commands that one turn takes at most, so that a removal among them is published within about a millisecond.
const MAX_TURN: usize = 256;

/// Names of changed services that a watcher may be behind before it must look at all.
const MAX_NOTICES: usize = 4096;

/// What a command is answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The generation that shows the change, or the current one when nothing changed.
    pub(crate) generation: u64,
    /// What was done.
    pub(crate) done: Done,
    /// The counters of a withdrawn endpoint.
    pub(crate) stats: Option<Arc<EndpointStats>>,
}

/// What the mailbox carries.
#[derive(Debug)]
pub(super) enum Message {
    Command(Command, oneshot::Sender<Result<Answer, RegistryError>>),
    Query(Query),
}

/// A question about the state.
#[derive(Debug)]
pub(super) enum Query {
    Instances(oneshot::Sender<Vec<Arc<Instance>>>),
    Instance(InstanceId, oneshot::Sender<Option<Arc<Instance>>>),
    Service(ServiceName, oneshot::Sender<Option<Listing>>),
    Specs(oneshot::Sender<Vec<Arc<ServiceSpec>>>),
}

struct Actor {
    state: State,
    publisher: Publisher,
    notices: broadcast::Sender<ServiceName>,
}

/// Starts the registry on the current runtime; it ends when the last handle is dropped.
pub fn spawn(options: &Options, events: Events, table: table::Publisher, rng: Rng) -> Handle {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let notices = broadcast::Sender::new(MAX_NOTICES);
    let rules = Rules { default_lease: options.default_lease, gone_listed: options.gone_listed };
    let actor = Actor {
        state: State::new(rules, rng),
        publisher: Publisher::new(table, events, options.publish_interval),
        notices: notices.clone(),
    };
    tokio::spawn(actor.run(mailbox));
    Handle::new(sender, notices)
}

impl Actor {
    async fn run(mut self, mut mailbox: mpsc::Receiver<Message>) {
        loop {
            let wait = self.wait(clock::now_ms());
            tokio::select! {
                biased;
                message = mailbox.recv() => match message {
                    Some(message) => self.take(message, &mut mailbox),
                    None => break,
                },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            }
            let now_ms = clock::now_ms();
            if self.state.next_due_ms().is_some_and(|due_ms| due_ms <= now_ms) {
                self.apply(Command::Expire, None);
            }
            self.publisher.publish_due(&self.state, now_ms);
        }
        self.publisher.publish_all(&self.state, clock::now_ms());
    }

    /// Returns how long nothing needs to be done unless a message comes; `None`: for ever.
    fn wait(&self, now_ms: u64) -> Option<Duration> {
        let due_ms = [self.state.next_due_ms(), self.publisher.due_ms(now_ms)].into_iter().flatten().min()?;
        Some(Duration::from_millis(due_ms.saturating_sub(now_ms)))
    }

    fn take(&mut self, first: Message, mailbox: &mut mpsc::Receiver<Message>) {
        let mut next = Some(first);
        for _ in 0..MAX_TURN {
            match next {
                Some(Message::Command(command, reply)) => self.apply(command, Some(reply)),
                Some(Message::Query(query)) => self.answer(query),
                None => return,
            }
            next = mailbox.try_recv().ok();
        }
        // The turn is full; the message in hand was taken already and must not be lost.
        match next {
            Some(Message::Command(command, reply)) => self.apply(command, Some(reply)),
            Some(Message::Query(query)) => self.answer(query),
            None => {}
        }
    }

    fn apply(&mut self, command: Command, reply: Option<oneshot::Sender<Result<Answer, RegistryError>>>) {
        let (outcome, effects) = self.state.apply(command, clock::now_ms());
        for name in &effects.noticed {
            // Nobody watches: no error.
            let _ = self.notices.send(name.clone());
        }
        self.publisher.stage(effects, reply.map(|reply| Waiter { reply, outcome }));
    }

    /// Answers from the state; a caller that no longer waits is no error.
    fn answer(&self, query: Query) {
        match query {
            Query::Instances(reply) => drop(reply.send(self.state.instances())),
            Query::Instance(id, reply) => drop(reply.send(self.state.instance(&id))),
            Query::Service(name, reply) => drop(reply.send(self.state.service(&name))),
            Query::Specs(reply) => drop(reply.send(self.state.specs())),
        }
    }
}
