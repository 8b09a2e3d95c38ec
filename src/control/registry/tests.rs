//! The registry's rules, one by one: each command in each state, accepted and refused.

use crate::control::events::EventKind;
use crate::control::registry::fixture::{check, id, name, registration, spec};
use crate::control::registry::{Adopted, Command, Contribution, Done, Effects, Registration};
use crate::control::registry::{RegistryError, Rules, State};
use crate::model::{Instance, InstanceState, PortSpec, Protocol, ServiceSpec, Source, Transition, Verdict};
use crate::rng::Rng;
use crate::table::Change;
use std::sync::Arc;
use std::time::Duration;

use crate::control::registry::fixture::SECOND;
const HEALTHY: Transition = Transition { from: Verdict::Unknown, to: Verdict::Healthy };
const UNHEALTHY: Transition = Transition { from: Verdict::Healthy, to: Verdict::Unhealthy };
/// A registry with service `web` (checked) and `raw` (unchecked), at a time that tests move.
struct World {
    state: State,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let rules = Rules { default_lease: 30 * SECOND, gone_listed: 60 * SECOND };
        let mut world = Self { state: State::new(rules, Rng::from_seed(1)), now_ms: 1000 };
        world.define(spec("web", Some(check())));
        world.define(spec("raw", None));
        world
    }

    fn define(&mut self, spec: ServiceSpec) -> Effects {
        let contribution = Contribution { define: vec![Arc::new(spec)], ..Contribution::default() };
        self.ok(Command::contribute(contribution)).1
    }

    fn apply(&mut self, command: Command) -> (Result<Done, RegistryError>, Effects) {
        self.state.apply(command, self.now_ms)
    }

    fn ok(&mut self, command: Command) -> (Done, Effects) {
        let (outcome, effects) = self.apply(command);
        (outcome.unwrap(), effects)
    }

    /// Asserts a refusal that changes nothing.
    fn refused(&mut self, command: Command) -> RegistryError {
        let (outcome, effects) = self.apply(command);
        assert!(effects.touched.is_empty() && effects.drafts.is_empty() && effects.noticed.is_empty());
        outcome.unwrap_err()
    }

    fn register(&mut self, service: &str, instance: &str, source: Source) {
        self.ok(Command::Register(registration(service, instance, source)));
    }

    /// Registers and opens the gate.
    fn ready(&mut self, service: &str, instance: &str, source: Source) {
        self.register(service, instance, source);
        self.report(instance, HEALTHY);
        assert_eq!(self.get(instance).state, InstanceState::Ready);
    }

    fn report(&mut self, instance: &str, transition: Transition) -> Effects {
        self.ok(report(instance, transition)).1
    }

    fn pass(&mut self, time: Duration) -> Effects {
        self.now_ms += u64::try_from(time.as_millis()).unwrap();
        self.ok(Command::Expire).1
    }

    fn get(&self, instance: &str) -> Arc<Instance> {
        self.state.instance(&id(instance)).unwrap()
    }

    fn in_table(&self, service: &str) -> Vec<(String, InstanceState)> {
        match self.state.change(&name(service)) {
            Change::Set { instances, .. } => instances.into_iter().map(|i| (i.id.to_string(), i.state)).collect(),
            Change::Remove(_) => Vec::new(),
        }
    }
}

fn report(instance: &str, transition: Transition) -> Command {
    Command::Report { id: id(instance), transition, reason: "said the check".to_owned() }
}

fn gone(instance: &str) -> Command {
    Command::Gone { id: id(instance), reason: "exit 1".to_owned() }
}

fn withdraw(instance: &str) -> Command {
    Command::Withdraw { id: id(instance), reason: "drain".to_owned() }
}

fn kinds(effects: &Effects) -> Vec<EventKind> {
    effects.drafts.iter().map(|draft| draft.kind).collect()
}

#[test]
fn a_new_instance_starts_outside_the_table_and_the_first_pass_makes_it_ready() {
    for service in ["web", "raw"] {
        let mut world = World::new();
        let (done, effects) = world.ok(Command::Register(registration(service, "a", Source::Scheduler)));
        assert!(matches!(done, Done::Registered(i) if i.state == InstanceState::Starting && i.ports == [8000, 0]));
        assert_eq!((kinds(&effects), effects.changes_table()), (vec![EventKind::InstanceRegistered], false));
        assert_eq!(world.in_table(service), []);
        world.now_ms += 70;
        let effects = world.report("a", HEALTHY);
        assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::InstanceReady], false));
        assert_eq!(effects.touched, [name(service)]);
        assert_eq!(world.in_table(service), [("a".to_owned(), InstanceState::Ready)]);
        let instance = world.get("a");
        assert_eq!((instance.created_ms, instance.ready_ms, &*instance.reason), (1000, 1070, "said the check"));
        assert_eq!(instance.verdict, if service == "web" { Verdict::Healthy } else { Verdict::Unknown });
    }
}

#[test]
fn what_offers_nothing_to_connect_to_is_ready_at_once() {
    let mut world = World::new();
    let mut udp = spec("udp", None);
    udp.ports = vec![PortSpec { protocol: Protocol::Udp, ..PortSpec::tcp("dns") }];
    world.define(udp);
    let (_, effects) = world.ok(Command::Register(registration("udp", "u", Source::File)));
    assert_eq!(kinds(&effects), [EventKind::InstanceRegistered, EventKind::InstanceReady]);
    assert_eq!(world.get("u").ready_ms, 1000);
    assert!(effects.changes_table());
}

#[test]
fn an_id_is_made_up_from_the_service_when_none_is_given() {
    let mut world = World::new();
    for _ in 0..100 {
        let nameless = Registration { id: None, ..registration("web", "x", Source::Api) };
        let (Done::Registered(instance), _) = world.ok(Command::Register(nameless)) else { panic!("no instance") };
        assert!(instance.id.as_str().starts_with("web-"));
    }
    assert_eq!(world.state.instances().len(), 100);
}

#[test]
fn refuses_registrations_that_contradict_themselves_or_the_service() {
    let mut world = World::new();
    let good = registration("web", "a", Source::Api);
    let cases = [
        (Registration { ports: vec![1, 2, 3], ..good.clone() }, "3 ports given, but service web has 2"),
        (Registration { ports: vec![], ..good.clone() }, "no port given"),
        (Registration { ports: vec![0, 0], ..good.clone() }, "no port given"),
        (Registration { ports: vec![0, 9000], ..good.clone() }, "no number given for port \"http\""),
        (Registration { weight: 0, ..good.clone() }, "weight 0 is not in 1..=1000"),
        (Registration { weight: 1001, ..good.clone() }, "weight 1001"),
        (Registration { lease: Some(Duration::ZERO), ..good.clone() }, "a lease of 0ns"),
        (Registration { lease: Some(90_000 * SECOND), ..good.clone() }, "a lease of 90000s"),
        (Registration { address: "0.0.0.0".parse().unwrap(), ..good.clone() }, "is no address to connect to"),
        (Registration { address: "::".parse().unwrap(), ..good.clone() }, "is no address to connect to"),
        (Registration { address: "224.0.0.1".parse().unwrap(), ..good.clone() }, "is a group address"),
        (Registration { address: "255.255.255.255".parse().unwrap(), ..good.clone() }, "is a group address"),
        (Registration { address: "169.254.169.254".parse().unwrap(), ..good.clone() }, "link-local"),
        (Registration { address: "::ffff:169.254.169.254".parse().unwrap(), ..good.clone() }, "link-local"),
        (Registration { address: "fe80::1".parse().unwrap(), ..good.clone() }, "link-local"),
    ];
    for (case, expected) in cases {
        let message = world.refused(Command::Register(case)).to_string();
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
    let unknown = Registration { service: name("nope"), ..good.clone() };
    assert_eq!(world.refused(Command::Register(unknown)), RegistryError::UnknownService(name("nope")));
    world.ok(Command::Register(good.clone()));
    assert_eq!(world.refused(Command::Register(good)), RegistryError::Duplicate(id("a")));
    let file = Registration { address: "169.254.7.7".parse().unwrap(), ..registration("web", "f", Source::File) };
    world.ok(Command::Register(file));
}

#[test]
fn a_file_endpoint_that_is_listed_again_takes_its_new_weight() {
    let mut world = World::new();
    world.ready("web", "f", Source::File);
    let heavier = Registration { weight: 7, ..registration("web", "f", Source::File) };
    let (_, effects) = world.ok(Command::Register(heavier.clone()));
    assert_eq!((world.get("f").weight, effects.changes_table(), effects.removal), (7, true, false));
    assert!(!world.ok(Command::Register(heavier.clone())).1.changes_table());
    let moved = Registration { ports: vec![9], ..heavier };
    assert_eq!(world.refused(Command::Register(moved)), RegistryError::Duplicate(id("f")));
}

#[test]
fn an_unhealthy_verdict_leaves_the_table_at_once_and_a_healthy_one_comes_back() {
    let mut world = World::new();
    world.ready("web", "a", Source::Scheduler);
    let effects = world.report("a", UNHEALTHY);
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::InstanceUnhealthy], true));
    assert_eq!((world.get("a").state, world.get("a").verdict), (InstanceState::Ready, Verdict::Unhealthy));
    assert!(!world.report("a", UNHEALTHY).changes_table(), "no news");
    let effects = world.report("a", HEALTHY);
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::InstanceHealthy], false));
}

#[test]
fn failures_before_the_first_pass_are_shown_but_change_no_table() {
    let mut world = World::new();
    world.register("web", "a", Source::Scheduler);
    let effects = world.report("a", UNHEALTHY);
    assert_eq!((kinds(&effects), effects.changes_table()), (vec![EventKind::InstanceUnhealthy], false));
    assert_eq!((world.get("a").state, world.get("a").verdict), (InstanceState::Starting, Verdict::Unhealthy));
    assert_eq!(kinds(&world.report("a", HEALTHY)), [EventKind::InstanceReady]);
}

#[test]
fn a_service_without_a_check_knows_no_verdict() {
    let mut world = World::new();
    world.ready("raw", "a", Source::Scheduler);
    let effects = world.report("a", UNHEALTHY);
    assert_eq!((effects.changes_table(), world.get("a").verdict), (false, Verdict::Unknown));
}

#[test]
fn a_drain_keeps_the_endpoint_in_the_table_and_can_be_undone() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    let (done, effects) = world.ok(withdraw("a"));
    assert_eq!(done, Done::Withdrawn(name("web"), id("a")));
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::InstanceDraining], true));
    assert_eq!(world.in_table("web"), [("a".to_owned(), InstanceState::Draining)]);
    assert!(!world.ok(withdraw("a")).1.changes_table(), "already draining");
    assert!(!world.report("a", UNHEALTHY).changes_table(), "a draining instance is not judged");
    let (_, effects) = world.ok(Command::Restore(id("a")));
    assert_eq!((kinds(&effects), world.get("a").state), (vec![EventKind::InstanceReady], InstanceState::Ready));
    assert!(!world.ok(Command::Restore(id("a"))).1.changes_table(), "nothing to undo");
}

#[test]
fn an_undone_drain_of_a_starting_instance_does_not_open_the_gate() {
    let mut world = World::new();
    world.register("web", "a", Source::Api);
    world.ok(withdraw("a"));
    world.ok(Command::Restore(id("a")));
    assert_eq!(world.get("a").state, InstanceState::Starting);
    assert_eq!(world.in_table("web"), []);
}

#[test]
fn an_exit_leaves_the_table_at_once_and_is_listed_for_a_minute() {
    let mut world = World::new();
    world.ready("web", "a", Source::Scheduler);
    let (_, effects) = world.ok(gone("a"));
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::InstanceGone], true));
    assert_eq!(world.in_table("web"), []);
    assert_eq!((world.get("a").state, &*world.get("a").reason), (InstanceState::Gone, "exit 1"));
    assert!(world.ok(gone("a")).1.drafts.is_empty(), "told twice");
    for command in [withdraw("a"), report("a", HEALTHY), Command::Restore(id("a"))] {
        assert_eq!(world.refused(command), RegistryError::UnknownInstance(id("a")));
    }
    world.pass(59 * SECOND);
    assert_eq!(world.get("a").state, InstanceState::Gone);
    assert!(!world.pass(SECOND).changes_table());
    assert_eq!(world.state.instance(&id("a")), None);
    assert_eq!(world.refused(gone("a")), RegistryError::UnknownInstance(id("a")));
}

#[test]
fn an_id_that_is_listed_as_gone_can_be_registered_again() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    world.ok(gone("a"));
    world.register("web", "a", Source::Api);
    assert_eq!(world.get("a").state, InstanceState::Starting);
    world.pass(20 * SECOND);
    world.ok(Command::Renew(id("a")));
    world.pass(15 * SECOND);
    assert_eq!(world.get("a").state, InstanceState::Starting);
}

#[test]
fn a_lease_runs_out_unless_it_is_renewed() {
    let mut world = World::new();
    let short = Registration { lease: Some(10 * SECOND), ..registration("web", "a", Source::Api) };
    world.ok(Command::Register(short));
    world.report("a", HEALTHY);
    for _ in 0..10 {
        world.pass(9 * SECOND);
        assert_eq!(world.ok(Command::Renew(id("a"))).0, Done::Renewed(10 * SECOND));
    }
    assert!(!world.pass(10 * SECOND - Duration::from_millis(1)).changes_table());
    let effects = world.pass(Duration::from_millis(1));
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::LeaseExpired], true));
    assert_eq!(&*world.get("a").reason, "no renewal for 10s");
    assert_eq!(world.refused(report("a", UNHEALTHY)), RegistryError::Expired(id("a")));
}

#[test]
fn a_renewal_revives_an_expired_instance_for_a_minute_and_not_later() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    world.pass(30 * SECOND);
    assert_eq!(world.get("a").state, InstanceState::Gone);
    world.pass(59 * SECOND);
    let (done, effects) = world.ok(Command::Renew(id("a")));
    assert_eq!((done, kinds(&effects)), (Done::Renewed(30 * SECOND), vec![EventKind::LeaseRevived]));
    assert_eq!((world.get("a").state, world.in_table("web")), (InstanceState::Starting, Vec::new()));
    world.report("a", HEALTHY);
    assert_eq!(kinds(&world.pass(30 * SECOND)), [EventKind::LeaseExpired]);
    world.pass(60 * SECOND);
    assert_eq!(world.refused(Command::Renew(id("a"))), RegistryError::UnknownInstance(id("a")));
}

#[test]
fn a_revived_instance_that_was_drained_stays_drained() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    world.ok(withdraw("a"));
    assert_eq!(kinds(&world.pass(30 * SECOND)), [EventKind::LeaseExpired]);
    world.ok(Command::Renew(id("a")));
    assert_eq!(world.get("a").state, InstanceState::Draining);
}

#[test]
fn a_deregistered_instance_is_not_revived() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    world.ready("web", "b", Source::Api);
    world.ok(gone("a"));
    assert_eq!(world.refused(Command::Renew(id("a"))), RegistryError::UnknownInstance(id("a")));
    world.pass(30 * SECOND);
    world.ok(gone("b"));
    assert_eq!(world.refused(Command::Renew(id("b"))), RegistryError::UnknownInstance(id("b")));
}

#[test]
fn what_has_no_lease_lives_until_told_and_cannot_be_renewed() {
    let mut world = World::new();
    world.ready("web", "f", Source::File);
    world.ready("web", "s", Source::Scheduler);
    assert!(world.pass(1_000_000 * SECOND).drafts.is_empty());
    assert_eq!(world.state.next_due_ms(), None);
    assert!(matches!(world.refused(Command::Renew(id("f"))), RegistryError::Invalid(_)));
    assert_eq!(world.refused(Command::Renew(id("nope"))), RegistryError::UnknownInstance(id("nope")));
}

#[test]
fn the_order_of_registration_is_kept_in_the_table() {
    let mut world = World::new();
    for instance in ["c", "a", "b", "d"] {
        world.ready("web", instance, Source::Scheduler);
    }
    world.report("a", UNHEALTHY);
    world.ok(gone("b"));
    let order: Vec<String> = world.in_table("web").into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, ["c", "a", "d"]);
}

#[test]
fn a_changed_definition_fits_its_instances_and_an_equal_one_changes_nothing() {
    let mut world = World::new();
    world.ready("web", "a", Source::Scheduler);
    world.report("a", UNHEALTHY);
    assert!(!world.define(spec("web", Some(check()))).changes_table());
    let mut narrow = spec("web", None);
    narrow.ports.truncate(1);
    assert_eq!(kinds(&world.define(narrow)), [EventKind::ServiceDefined]);
    assert_eq!((world.get("a").ports.clone(), world.get("a").verdict), (vec![8000], Verdict::Unknown));
}

#[test]
fn a_removed_service_takes_its_instances_with_it() {
    let mut world = World::new();
    world.ready("web", "a", Source::Api);
    let removal = Contribution { undefine: vec![name("web")], ..Contribution::default() };
    let (_, effects) = world.ok(Command::contribute(removal.clone()));
    assert_eq!((kinds(&effects), effects.removal), (vec![EventKind::ServiceRemoved], true));
    assert!(matches!(world.state.change(&name("web")), Change::Remove(_)));
    assert_eq!(world.refused(Command::Renew(id("a"))), RegistryError::UnknownInstance(id("a")));
    assert_eq!(world.refused(Command::contribute(removal)), RegistryError::UnknownService(name("web")));
    world.pass(60 * SECOND);
}

#[test]
fn a_contribution_carries_out_what_it_can_and_names_the_first_refusal() {
    let mut world = World::new();
    let contribution = Contribution {
        register: vec![registration("nope", "a", Source::File), registration("web", "b", Source::File)],
        define: vec![Arc::new(spec("new", None))],
        ..Contribution::default()
    };
    let (outcome, effects) = world.apply(Command::contribute(contribution));
    assert_eq!(outcome, Err(RegistryError::UnknownService(name("nope"))));
    assert!(effects.changes_table());
    assert_eq!(world.get("b").state, InstanceState::Starting);
}

#[test]
fn a_crash_loop_lists_only_the_last_exits() {
    let mut world = World::new();
    for n in 0..200 {
        let instance = format!("web-{n}");
        world.ready("web", &instance, Source::Scheduler);
        world.ok(gone(&instance));
    }
    assert_eq!(world.state.instances().len(), 64);
    assert_eq!(world.get("web-199").state, InstanceState::Gone);
    assert_eq!(world.state.instance(&id("web-0")), None);
    world.pass(60 * SECOND);
    assert!(world.state.instances().is_empty());
}

#[test]
fn what_an_earlier_weir_knew_serves_at_once_if_it_did_and_drains_if_it_did() {
    let mut world = World::new();
    let adopted = |instance: &str, source, ready, drained| Adopted {
        registration: registration("web", instance, source),
        ready,
        drained,
    };
    let contribution = Contribution {
        adopt: vec![
            adopted("a", Source::Scheduler, true, false),
            adopted("b", Source::Scheduler, false, false),
            adopted("c", Source::Api, true, true),
            Adopted { registration: registration("nowhere", "d", Source::Api), ready: true, drained: false },
        ],
        ..Contribution::default()
    };
    let (outcome, effects) = world.apply(Command::contribute(contribution));
    assert!(matches!(outcome, Err(RegistryError::UnknownService(_))), "the others are taken over all the same");
    assert_eq!(effects.touched.len(), 3, "a ready one, and one that drains: in one publish");
    let states = ["a", "b", "c"].map(|instance| world.get(instance).state);
    assert_eq!(states, [InstanceState::Ready, InstanceState::Starting, InstanceState::Draining]);
    world.ok(Command::Restore(id("c")));
    world.pass(29 * SECOND);
    assert_eq!(world.get("c").state, InstanceState::Ready, "one full lease");
    world.pass(2 * SECOND);
    let complete = world.state.check(registration("web", "new", Source::Api)).unwrap();
    assert_eq!(complete.lease, Some(30 * SECOND));
    assert!(world.state.check(registration("web", "a", Source::Api)).is_err());
    assert!(world.state.check(registration("web", "c", Source::Api)).is_ok(), "who is gone makes room");
}
