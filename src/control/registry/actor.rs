//! The single writer: the state, its mailbox, and one turn over them.
//!
//! A turn takes what the mailbox holds (bounded), then expires what is due. Commands go before expiry, so that a renewal
//! which waits in the mailbox is never beaten by the end of its own lease. `publisher.rs::run` drives the turns and makes
//! their effects visible.

use crate::balance::EndpointStats;
use crate::clock;
use crate::control::Options;
use crate::control::registry::{Command, Done, Effects, Handle, Listing, Registration, RegistryError, Rules, State};
use crate::model::{Instance, InstanceId, ServiceName, ServiceSpec};
use crate::rng::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Commands that wait at most; whoever sends more waits for room.
const MAILBOX: usize = 1024;

/// Messages that one turn takes at most, so that a removal among them is published within about a millisecond.
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

/// A caller that is answered once its change is visible.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<Answer, RegistryError>>,
    /// What the registry said.
    pub(crate) outcome: Result<Done, RegistryError>,
}

/// One carried out command: what it changed and who waits for it.
pub(crate) type Step = (Effects, Option<Waiter>);

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
    Definitions(Vec<ServiceName>, oneshot::Sender<Vec<Option<Arc<ServiceSpec>>>>),
    Specs(oneshot::Sender<Vec<Arc<ServiceSpec>>>),
    /// Whether a registration would be accepted, and complete.
    Check(Box<Registration>, oneshot::Sender<Result<Registration, RegistryError>>),
}

/// The state with its mailbox.
#[derive(Debug)]
pub(crate) struct Actor {
    state: State,
    mailbox: mpsc::Receiver<Message>,
    notices: broadcast::Sender<ServiceName>,
}

/// Makes an empty registry and the handle to it.
pub(crate) fn channel(options: &Options, rng: Rng) -> (Actor, Handle) {
    let (sender, mailbox) = mpsc::channel(MAILBOX);
    let notices = broadcast::Sender::new(MAX_NOTICES);
    let rules = Rules { default_lease: options.default_lease, gone_listed: options.gone_listed };
    let handle = Handle::new(sender, notices.clone());
    (Actor { state: State::new(rules, rng), mailbox, notices }, handle)
}

impl Actor {
    /// Waits for messages, an expiry or `until_ms`, whatever comes first, and carries out what there is to do.
    ///
    /// Returns `None` when the last handle was dropped. Cancel-safe.
    pub(crate) async fn turn(&mut self, until_ms: Option<u64>) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let due_ms = [self.state.next_due_ms(), until_ms].into_iter().flatten().min();
        let wait = due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(clock::now_ms())));
        tokio::select! {
            biased;
            message = self.mailbox.recv() => self.take(message?, &mut steps),
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
        }
        if self.state.next_due_ms().is_some_and(|due_ms| due_ms <= clock::now_ms()) {
            steps.push((self.apply(Command::Expire).1, None));
        }
        Some(steps)
    }

    /// Returns the state, of which the publisher shows the changed services.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    fn take(&mut self, first: Message, steps: &mut Vec<Step>) {
        self.carry_out(first, steps);
        for _ in 1..MAX_TURN {
            let Ok(message) = self.mailbox.try_recv() else { return };
            self.carry_out(message, steps);
        }
    }

    fn carry_out(&mut self, message: Message, steps: &mut Vec<Step>) {
        match message {
            Message::Command(command, reply) => {
                let (outcome, effects) = self.apply(command);
                steps.push((effects, Some(Waiter { reply, outcome })));
            }
            Message::Query(query) => self.answer(query),
        }
    }

    fn apply(&mut self, command: Command) -> (Result<Done, RegistryError>, Effects) {
        let (outcome, effects) = self.state.apply(command, clock::now_ms());
        for name in &effects.noticed {
            // Nobody watches: no error.
            let _ = self.notices.send(name.clone());
        }
        (outcome, effects)
    }

    /// Answers from the state; a caller that no longer waits is no error.
    fn answer(&self, query: Query) {
        match query {
            Query::Instances(reply) => drop(reply.send(self.state.instances())),
            Query::Instance(id, reply) => drop(reply.send(self.state.instance(&id))),
            Query::Service(name, reply) => drop(reply.send(self.state.service(&name))),
            Query::Definitions(names, reply) => {
                drop(reply.send(names.iter().map(|name| self.state.spec(name)).collect()));
            }
            Query::Specs(reply) => drop(reply.send(self.state.specs())),
            Query::Check(registration, reply) => drop(reply.send(self.state.check(*registration))),
        }
    }
}
