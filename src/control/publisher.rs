//! The only holder of the table's publisher: effects of commands, coalesced → build → publish → events and answers.
//!
//! The first change after a pause is published at once, the next ones at most each `interval`; a removal is never
//! delayed and takes everything that waits along. Invariants: events are emitted in the order of their commands, after
//! the publish that shows them, with its generation; every caller is answered. Next on the path: `table/build.rs`.

use crate::balance::EndpointStats;
use crate::clock;
use crate::control::Options;
use crate::control::addresses::Addresses;
use crate::control::events::Events;
use crate::control::registry::{self, Actor, Answer, Done, Draft, Handle, State, Step, Waiter};
use crate::model::{InstanceId, ListenerSpec, RouteSpec, ServiceName};
use crate::rng::Rng;
use crate::table::{self, Change, Changes, Snapshot};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What waits for the next publish.
#[derive(Debug, Default)]
struct Pending {
    services: BTreeSet<ServiceName>,
    routes: Option<Arc<[RouteSpec]>>,
    listeners: Option<Arc<[ListenerSpec]>>,
    drafts: Vec<Draft>,
    waiters: Vec<Waiter>,
    changes_table: bool,
    removal: bool,
}

/// Coalesces changes and publishes them.
#[derive(Debug)]
pub(super) struct Publisher {
    table: table::Publisher,
    events: Events,
    interval_ms: u64,
    /// When it last published, in `clock::now_ms` milliseconds; 0 before the first.
    last_ms: u64,
    pending: Pending,
    /// `None`: services have no addresses of their own.
    addresses: Option<Addresses>,
}

/// Starts the registry with its publisher on the current runtime; it ends when the last handle is dropped.
///
/// `rng` makes up the ids of instances that name none.
pub fn spawn(options: &Options, events: Events, table: table::Publisher, rng: Rng) -> Handle {
    spawn_with(options, Publisher::new(table, events, options.publish_interval), rng)
}

/// As [`spawn`], with a publisher that was made before.
pub(super) fn spawn_with(options: &Options, publisher: Publisher, rng: Rng) -> Handle {
    let (actor, handle) = registry::channel(options, rng);
    tokio::spawn(run(actor, publisher));
    handle
}

async fn run(mut actor: Actor, mut publisher: Publisher) {
    while let Some(steps) = actor.turn(publisher.due_ms(clock::now_ms())).await {
        for step in steps {
            publisher.stage(step);
        }
        publisher.publish_due(actor.state(), clock::now_ms());
    }
    publisher.publish_all(actor.state(), clock::now_ms());
}

impl Publisher {
    /// Makes the publisher of a table; publishes follow each other at least `interval` apart, removals apart.
    pub(super) fn new(table: table::Publisher, events: Events, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Self { table, events, interval_ms, last_ms: 0, pending: Pending::default(), addresses: None }
    }

    /// Has every service have an address of its own.
    pub(super) fn with_addresses(self, addresses: Option<Addresses>) -> Self {
        Self { addresses, ..self }
    }

    /// Takes the effects of one command and its caller.
    fn stage(&mut self, (effects, waiter): Step) {
        let pending = &mut self.pending;
        pending.changes_table |= effects.changes_table();
        pending.removal |= effects.removal;
        pending.services.extend(effects.touched);
        pending.routes = effects.routes.or(pending.routes.take());
        pending.listeners = effects.listeners.or(pending.listeners.take());
        pending.drafts.extend(effects.drafts);
        pending.waiters.extend(waiter);
        if !pending.changes_table {
            // Nothing that the table shows is pending: what happened is visible as it is.
            let snapshot = self.table.current();
            self.settle(&snapshot);
        }
    }

    /// Returns when the pending changes must be published; `None` when there are none.
    fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let pending = &self.pending;
        let not_before = if pending.removal || self.last_ms == 0 { 0 } else { self.last_ms + self.interval_ms };
        pending.changes_table.then_some(not_before.max(now_ms))
    }

    /// Publishes the pending changes if it is time.
    fn publish_due(&mut self, state: &State, now_ms: u64) {
        if self.due_ms(now_ms).is_some_and(|due_ms| due_ms <= now_ms) {
            self.publish_all(state, now_ms);
        }
    }

    /// Publishes the pending changes now, if there are any.
    fn publish_all(&mut self, state: &State, now_ms: u64) {
        if !self.pending.changes_table {
            return;
        }
        let services: Vec<Change> = self.pending.services.iter().map(|name| state.change(name)).collect();
        let previous = self.table.current();
        let changes = Changes {
            addresses: self
                .addresses
                .as_mut()
                .and_then(|addresses| settle(addresses, &previous, &services, clock::unix_ms())),
            services,
            routes: self.pending.routes.take(),
            listeners: self.pending.listeners.take(),
            now_ms: now_ms.max(1),
        };
        let next = table::build(&previous, changes);
        self.table.publish(next);
        self.last_ms = now_ms;
        let current = self.table.current();
        for name in std::mem::take(&mut self.pending.services) {
            wake_waiting(&previous, &current, &name);
        }
        self.settle(&current);
    }

    /// Emits the events and answers the callers whose changes `snapshot` shows.
    fn settle(&mut self, snapshot: &Snapshot) {
        let Pending { drafts, waiters, .. } = std::mem::take(&mut self.pending);
        let generation = snapshot.generation;
        for Draft { kind, service, instance, message } in drafts {
            self.events.emit(generation, kind, Some(service), instance, message);
        }
        for Waiter { reply, outcome } in waiters {
            let answer = outcome.map(|done| {
                let stats = match &done {
                    Done::Withdrawn(service, id) => draining(snapshot, service, id),
                    Done::Applied | Done::Registered(_) | Done::Renewed(_) | Done::TakenIn { .. } => None,
                };
                Answer { generation, done, stats }
            });
            // A caller that gave up is no error: the change stands.
            drop(reply.send(answer));
        }
    }
}

/// Gives addresses to services that come, and notes which go; returns all when the table lacks any.
fn settle(
    addresses: &mut Addresses,
    previous: &Snapshot,
    changes: &[Change],
    now_unix_ms: u64,
) -> Option<Arc<HashMap<ServiceName, IpAddr>>> {
    // Those of an earlier Weir are in no table yet.
    let mut is_news = previous.addresses.is_empty();
    for change in changes {
        match change {
            Change::Set { spec, .. } => is_news |= addresses.assign(&spec.name, now_unix_ms),
            Change::Remove(name) => addresses.release(name, now_unix_ms),
        }
    }
    is_news.then(|| addresses.all())
}

/// Lets requests that wait for a free replica try a new one.
fn wake_waiting(before: &Snapshot, after: &Snapshot, name: &ServiceName) {
    let Some(service) = after.services.get(name) else { return };
    let before = before.services.get(name);
    if before.is_some_and(|before| before.may_wake()) && !service.may_wake() {
        // Nothing comes any more: who waits is refused.
        service.stats.wake(usize::MAX);
        return;
    }
    let known = before.map_or(0, |service| service.endpoints.len());
    if service.stats.waiting() > 0 && service.endpoints.len() > known {
        let limit = service.spec.limits.concurrency.unwrap_or(u32::MAX) as usize;
        service.stats.wake(limit.saturating_mul(service.endpoints.len() - known));
    }
}

fn draining(snapshot: &Snapshot, service: &ServiceName, id: &InstanceId) -> Option<Arc<EndpointStats>> {
    let service = snapshot.services.get(service)?;
    let (_, candidate) = service.draining.iter().find(|(endpoint, _)| endpoint.id == *id)?;
    Some(candidate.stats.clone())
}

#[cfg(test)]
mod tests {
    use super::Publisher;
    use crate::control::addresses::Addresses;
    use crate::control::events::{EventKind, Events};
    use crate::control::registry::fixture::{check, registration, spec};
    use crate::control::registry::{Answer, Command, Contribution, RegistryError, Rules, State, Waiter};
    use crate::control::store::{AddressRecord, Contents};
    use crate::model::{InstanceId, ServiceName, Source, Transition, Verdict};
    use crate::rng::Rng;
    use crate::table::names::Names;
    use crate::table::{Snapshot, Table, channel};
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::oneshot;

    type Reply = oneshot::Receiver<Result<Answer, RegistryError>>;

    /// A publisher with an interval of 5 ms over a registry, at a time that tests move.
    struct World {
        publisher: Publisher,
        state: State,
        table: Table,
        events: Events,
        now_ms: u64,
    }

    impl World {
        fn new() -> Self {
            let (publisher, table) = channel(Snapshot::empty(Names::default()));
            let events = Events::default();
            let publisher = Publisher::new(publisher, events.clone(), Duration::from_millis(5));
            let rules = Rules { default_lease: Duration::from_secs(30), gone_listed: Duration::from_secs(60) };
            let state = State::new(rules, Rng::from_seed(1));
            let mut world = Self { publisher, state, table, events, now_ms: 1000 };
            let define = Contribution { define: vec![Arc::new(spec("web", Some(check())))], ..Contribution::default() };
            world.apply(Command::contribute(define));
            world
        }

        fn apply(&mut self, command: Command) -> Reply {
            let (reply, answer) = oneshot::channel();
            let (outcome, effects) = self.state.apply(command, self.now_ms);
            self.publisher.stage((effects, Some(Waiter { reply, outcome })));
            self.publisher.publish_due(&self.state, self.now_ms);
            answer
        }

        fn register(&mut self, instance: &str) -> Reply {
            self.apply(Command::Register(registration("web", instance, Source::Scheduler)))
        }

        fn report(&mut self, instance: &str, to: Verdict) -> Reply {
            let transition = Transition { from: Verdict::Unknown, to };
            let id = InstanceId::parse(instance).unwrap();
            self.apply(Command::Report { id, transition, reason: "said the check".to_owned() })
        }

        fn pass_ms(&mut self, ms: u64) {
            self.now_ms += ms;
            self.publisher.publish_due(&self.state, self.now_ms);
        }

        fn generation(&self) -> u64 {
            self.table.load().generation
        }
    }

    #[test]
    fn an_address_that_the_store_holds_is_in_the_first_table() {
        let (name, range) = (ServiceName::parse("web").unwrap(), (Ipv4Addr::new(198, 18, 0, 0), 16));
        let record = AddressRecord { address: Ipv4Addr::new(198, 18, 7, 7), prefix: 16, freed_ms: None };
        let contents = Contents { addresses: [(name.clone(), record)].into(), ..Contents::default() };
        let mut world = World::new();
        world.publisher = world.publisher.with_addresses(Some(Addresses::new(range, &contents, 0)));
        world.pass_ms(5);
        drop(world.register("a"));
        drop(world.report("a", Verdict::Healthy));
        let snapshot = world.table.load();
        let address = snapshot.services.get(&name).unwrap().address;
        assert_eq!(address, Some("198.18.7.7".parse().unwrap()));
    }

    #[test]
    fn publishes_at_once_after_a_pause_and_then_once_in_an_interval() {
        let mut world = World::new();
        assert_eq!(world.generation(), 1, "the first change waits for nothing");
        for instance in ["a", "b", "c"] {
            drop(world.register(instance));
        }
        world.pass_ms(5);
        let mut first = world.report("a", Verdict::Healthy);
        assert_eq!((world.generation(), first.try_recv().unwrap().unwrap().generation), (2, 2));
        let (mut second, mut third) = (world.report("b", Verdict::Healthy), world.report("c", Verdict::Healthy));
        assert_eq!(world.publisher.due_ms(world.now_ms), Some(world.now_ms + 5));
        world.pass_ms(4);
        assert!(second.try_recv().is_err() && third.try_recv().is_err());
        world.pass_ms(1);
        assert_eq!(second.try_recv().unwrap().unwrap().generation, 3);
        assert_eq!(third.try_recv().unwrap().unwrap().generation, 3);
        assert_eq!((world.generation(), world.publisher.due_ms(world.now_ms)), (3, None));
    }

    #[test]
    fn a_removal_is_never_delayed_and_takes_what_waits_along() {
        let mut world = World::new();
        for instance in ["a", "b"] {
            drop(world.register(instance));
        }
        world.pass_ms(5);
        drop(world.report("a", Verdict::Healthy));
        let mut waiting = world.report("b", Verdict::Healthy);
        let id = InstanceId::parse("a").unwrap();
        let mut gone = world.apply(Command::Gone { id, reason: "exit 1".to_owned() });
        assert_eq!(gone.try_recv().unwrap().unwrap().generation, 3);
        assert_eq!(waiting.try_recv().unwrap().unwrap().generation, 3);
        let snapshot = world.table.load();
        let service = snapshot.services.iter().next().unwrap();
        assert_eq!(service.endpoints.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_the_table_does_not_show_is_answered_at_once_without_a_publish() {
        let mut world = World::new();
        let mut answer = world.register("a");
        assert_eq!((answer.try_recv().unwrap().unwrap().generation, world.generation()), (1, 1));
        let mut refused = world.register("a");
        assert!(matches!(refused.try_recv().unwrap(), Err(RegistryError::Duplicate(_))));
    }

    #[test]
    fn events_carry_the_generation_that_shows_them_in_the_order_of_their_commands() {
        let mut world = World::new();
        for instance in ["a", "b"] {
            drop(world.register(instance));
        }
        drop(world.report("a", Verdict::Healthy));
        drop(world.report("b", Verdict::Healthy));
        drop(world.register("c"));
        world.pass_ms(5);
        let seen: Vec<_> = world.events.recent().iter().map(|e| (e.generation, e.kind)).collect();
        let expected = [
            (1, EventKind::ServiceDefined),
            (1, EventKind::InstanceRegistered),
            (1, EventKind::InstanceRegistered),
            (2, EventKind::InstanceReady),
            (2, EventKind::InstanceReady),
            (2, EventKind::InstanceRegistered),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_withdrawal_is_answered_with_the_counters_that_the_table_had() {
        let mut world = World::new();
        drop(world.register("a"));
        drop(world.report("a", Verdict::Healthy));
        world.pass_ms(5);
        let before = world.table.load().services.iter().next().unwrap().candidates[0].stats.serial();
        let id = InstanceId::parse("a").unwrap();
        let answer = world.apply(Command::Withdraw { id, reason: "drain".to_owned() }).try_recv().unwrap().unwrap();
        assert_eq!((answer.stats.unwrap().serial(), answer.generation), (before, world.generation()));
    }
}
