//! The task: what it does to the runtime and the registry, step by step.

use crate::control::events::EventKind;
use crate::control::registry::fixture::{registration, spec};
use crate::control::runtime::Exit;
use crate::control::scheduler::SchedulerError;
use crate::control::scheduler::tests::world::{World, definition, web};
use crate::model::{InstanceId, InstanceState, ServiceName, Source, Workload};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn starts_what_is_wanted_and_registers_it() {
    let world = World::ready(3).await;
    let instances = world.instances().await;
    assert_eq!(world.puppets.done("start web 1"), 3);
    for instance in &instances {
        assert_eq!((instance.source, instance.state), (Source::Scheduler, InstanceState::Ready));
        assert_eq!((instance.revision, instance.ports.len(), instance.node.as_str()), (1, 2, "here"));
        assert!(matches!(instance.workload, Some(Workload::Process(_))));
    }
    assert_eq!(world.status().await.quarantined, 0);
    assert_eq!(world.scheduler.log_paths(&instances[0].id).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_replica_is_gone_at_once_and_replaced() {
    let world = World::ready(3).await;
    for _ in 0..20 {
        let victim = world.instances().await[0].id.clone();
        world.puppets.end(&victim, Exit::Signal(9));
        world.pass(Duration::from_millis(1)).await;
        let gone = world.registry.instance(&victim).await.unwrap();
        assert_eq!((gone.state, &*gone.reason), (InstanceState::Gone, "killed by signal 9"));
        assert_eq!(world.puppets.running(), 3, "the replacement runs a millisecond later");
        world.settle(3).await;
    }
    assert_eq!(world.messages(EventKind::ReplicaExited).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_exits_at_once_is_restarted_with_delays_and_quarantined() {
    let world = World::new(1).await;
    world.puppets.exit_at_once(true);
    world.scheduler.scale(&web(), 2).await.unwrap();
    world.scheduler.scale(&web(), 1).await.unwrap();
    world.pass(Duration::from_millis(500)).await;
    world.puppets.exit_at_once(true);
    world.pass(30 * SECOND).await;
    let exits = world.messages(EventKind::ReplicaExited);
    assert!(exits[0].starts_with("exited with status 1 after "), "{exits:?}");
    assert!(exits.iter().any(|text| text.ends_with("starts again in 1s")), "{exits:?}");
    let starts = world.puppets.done("start");
    assert_eq!(world.status().await.quarantined, 1);
    assert!(world.messages(EventKind::ReplicaQuarantined)[0].ends_with("last: exited with status 1; next try in 60s"));
    world.pass(20 * SECOND).await;
    assert_eq!(world.puppets.done("start"), starts, "nothing starts while quarantined");
    world.pass(60 * SECOND).await;
    assert_eq!(world.puppets.done("start"), starts + 1, "one try after the quarantine");
    assert_eq!(world.status().await.quarantined, 1);
    world.puppets.exit_at_once(false);
    world.scheduler.scale(&web(), 1).await.unwrap();
    world.settle(1).await;
    assert_eq!(world.status().await.quarantined, 0, "scaling ends a quarantine");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_says_why_and_waits_for_a_new_definition() {
    let world = World::new(2).await;
    world.puppets.refuse(Some("cannot run nothing: no such program in PATH"));
    world.registry.define(Arc::new(definition("nothing", 2))).await.unwrap();
    world.pass(10 * SECOND).await;
    let exits = world.messages(EventKind::ReplicaExited);
    let expected = "failed to start: cannot run nothing: no such program in PATH after 0ns; quarantined for 60s";
    assert!(exits.iter().any(|text| text == expected), "{exits:?}");
    assert!(world.status().await.quarantined > 0);
    world.puppets.refuse(None);
    world.registry.define(Arc::new(definition("v2", 2))).await.unwrap();
    world.settle(2).await;
}

#[tokio::test(start_paused = true)]
async fn scales_up_at_once_and_down_after_the_drain() {
    let world = World::ready(2).await;
    world.scheduler.scale(&web(), 6).await.unwrap();
    world.settle(6).await;
    let oldest: Vec<InstanceId> = world.instances().await[..2].iter().map(|one| one.id.clone()).collect();
    // A worker that has not loaded the table yet, and a request in flight at a victim.
    let mut worker = world.table.reader("worker-0");
    world.scheduler.scale(&web(), 2).await.unwrap();
    world.pass(Duration::from_millis(100)).await;
    let draining = world.instances().await.iter().filter(|one| one.state == InstanceState::Draining).count();
    assert_eq!((draining, world.puppets.done("stop")), (4, 0), "withdrawn, not stopped before the acknowledgement");
    worker.load();
    world.settle(2).await;
    let left: Vec<InstanceId> = world.instances().await.iter().map(|one| one.id.clone()).collect();
    assert_eq!(left, oldest, "the youngest went");
    assert_eq!(
        world.messages(EventKind::Scaled),
        ["web scales from 2 to 6 replicas", "web scales from 6 to 2 replicas"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_requests_in_flight_up_to_the_drain_timeout() {
    let world = World::ready(1).await;
    let snapshot = world.table.load();
    let request = snapshot.services.iter().next().unwrap().candidates[0].stats.begin();
    world.scheduler.scale(&web(), 0).await.unwrap();
    world.pass(20 * SECOND).await;
    assert_eq!(world.puppets.done("stop"), 0);
    drop(request);
    world.settle(0).await;
    assert_eq!(world.puppets.done("stop"), 1);
}

#[tokio::test(start_paused = true)]
async fn stops_run_side_by_side() {
    let world = World::ready(5).await;
    world.puppets.take(Duration::ZERO, 8 * SECOND);
    world.scheduler.scale(&web(), 0).await.unwrap();
    world.pass(9 * SECOND).await;
    assert_eq!(world.puppets.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn starts_are_bounded_and_catch_up() {
    let world = World::new(0).await;
    world.puppets.take(SECOND, Duration::ZERO);
    world.scheduler.scale(&web(), 40).await.unwrap();
    world.pass(Duration::from_millis(1_500)).await;
    assert_eq!(world.puppets.running(), 16);
    world.settle(40).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_replaces_first_and_can_be_undone_before_that() {
    let world = World::ready(2).await;
    let victim = world.instances().await[0].id.clone();
    world.scheduler.drain(&victim).await.unwrap();
    world.pass(SECOND).await;
    let states: Vec<InstanceState> = world.instances().await.iter().map(|one| one.state).collect();
    assert_eq!(states, [InstanceState::Ready, InstanceState::Ready, InstanceState::Starting]);
    world.scheduler.undo_drain(&victim).await.unwrap();
    world.settle(2).await;
    assert!(world.instances().await.iter().any(|one| one.id == victim), "the replacement was stopped instead");

    let worker = world.table.reader("worker-0");
    world.scheduler.drain(&victim).await.unwrap();
    world.pass(SECOND).await;
    world.pass_checks().await;
    world.pass(SECOND).await;
    let state = world.registry.instance(&victim).await.unwrap().state;
    assert_eq!(state, InstanceState::Draining);
    let undone = world.scheduler.undo_drain(&victim).await;
    assert_eq!(undone, Err(SchedulerError::Stopping(victim.clone())));
    drop(worker);
    world.settle(2).await;
    assert_eq!(&*world.registry.instance(&victim).await.unwrap().reason, "drained by hand");
}

#[tokio::test(start_paused = true)]
async fn what_weir_does_not_run_is_drained_until_undone() {
    let world = World::ready(1).await;
    world.registry.define(Arc::new(spec("foreign", None))).await.unwrap();
    let foreign = world.registry.register(registration("foreign", "theirs", Source::Api)).await.unwrap();
    world.scheduler.drain(&foreign.id).await.unwrap();
    assert_eq!(world.registry.instance(&foreign.id).await.unwrap().state, InstanceState::Draining);
    world.pass(10 * SECOND).await;
    assert_eq!(world.puppets.done("stop"), 0);
    world.scheduler.undo_drain(&foreign.id).await.unwrap();
    assert_ne!(world.registry.instance(&foreign.id).await.unwrap().state, InstanceState::Draining);
}

#[tokio::test(start_paused = true)]
async fn refuses_what_makes_no_sense() {
    let world = World::ready(1).await;
    world.registry.define(Arc::new(spec("foreign", None))).await.unwrap();
    let (foreign, unknown) = (ServiceName::parse("foreign").unwrap(), ServiceName::parse("unknown").unwrap());
    assert_eq!(world.scheduler.scale(&foreign, 1).await, Err(SchedulerError::NotRun(foreign)));
    assert_eq!(world.scheduler.scale(&unknown, 1).await, Err(SchedulerError::UnknownService(unknown)));
    assert_eq!(world.scheduler.scale(&web(), 1_001).await, Err(SchedulerError::TooMany(1_001)));
    let nobody = InstanceId::parse("nobody").unwrap();
    assert_eq!(world.scheduler.drain(&nobody).await, Err(SchedulerError::UnknownInstance(nobody)));
    assert_eq!(world.scheduler.status().await.len(), 1, "only what Weir runs");
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_replica_is_replaced_start_first() {
    let world = World::ready(2).await;
    let sick = world.instances().await[0].id.clone();
    world.sicken(&sick).await;
    world.pass(29 * SECOND).await;
    assert_eq!((world.puppets.running(), world.status().await.ready), (2, 1));
    world.pass(2 * SECOND).await;
    assert_eq!(world.puppets.running(), 3, "the replacement starts, the sick one stays until it serves");
    world.settle(2).await;
    assert_eq!(&*world.registry.instance(&sick).await.unwrap().reason, "replaced: it did not serve for too long");
}

#[tokio::test(start_paused = true)]
async fn a_changed_command_replaces_one_after_the_other_and_a_changed_number_scales() {
    let world = World::ready(3).await;
    let mut settings = definition("v1", 3);
    settings.drain_timeout = SECOND;
    world.registry.define(Arc::new(settings)).await.unwrap();
    world.pass(10 * SECOND).await;
    assert_eq!(world.puppets.done("start"), 3, "replicas need not be replaced for that");
    world.registry.define(Arc::new(definition("v2", 3))).await.unwrap();
    world.pass(10 * SECOND).await;
    assert_eq!(world.puppets.running(), 4, "one above the wanted number");
    world.settle(3).await;
    while world.puppets.done("start web 2") < 3 {
        world.pass_checks().await;
        world.pass(SECOND).await;
    }
    world.settle(3).await;
    assert!(world.instances().await.iter().all(|one| one.revision == 2));
    world.registry.define(Arc::new(definition("v2", 1))).await.unwrap();
    world.settle(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_service_is_stopped_and_may_come_back() {
    let world = World::ready(2).await;
    world.registry.undefine(&web()).await.unwrap();
    world.pass(SECOND).await;
    assert_eq!(world.puppets.running(), 0);
    assert!(world.scheduler.status().await.is_empty());
    world.registry.define(Arc::new(definition("v1", 2))).await.unwrap();
    world.settle(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_that_was_missed_is_found() {
    let world = World::ready(2).await;
    let lost = world.instances().await[0].id.clone();
    world.puppets.vanish(&lost);
    world.puppets.flood();
    world.settle(2).await;
    assert_eq!(&*world.registry.instance(&lost).await.unwrap().reason, "ended");
}

#[tokio::test(start_paused = true)]
async fn the_end_stops_everything_at_once_also_what_drains_or_starts() {
    let world = World::ready(3).await;
    let worker = world.table.reader("worker-0");
    world.scheduler.scale(&web(), 2).await.unwrap();
    world.pass(SECOND).await;
    world.puppets.take(SECOND, SECOND);
    world.scheduler.scale(&web(), 3).await.unwrap();
    world.pass(Duration::from_millis(100)).await;
    let before = crate::clock::now();
    world.scheduler.shutdown().await;
    assert!(crate::clock::now() - before <= 3 * SECOND);
    assert_eq!(world.puppets.running(), 0);
    assert_eq!(world.scheduler.scale(&web(), 1).await, Err(SchedulerError::Closed));
    world.scheduler.shutdown().await;
    drop(worker);
}
