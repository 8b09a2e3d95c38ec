//! Rollouts through the task: what runs while a definition changes, and what is told of it.

use crate::control::rollout::{Cause, Phase};
use crate::control::runtime::Exit;
use crate::control::scheduler::tests::targets::bounds;
use crate::control::scheduler::tests::world::{World, definition, web};
use crate::model::{InstanceId, InstanceState, ServiceSpec, Strategy};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn phase(world: &World) -> Phase {
    world.scheduler.rollouts().borrow()[&web()].phase.clone()
}

async fn define(world: &World, spec: ServiceSpec) {
    world.registry.define(Arc::new(spec)).await.unwrap();
    world.pass(Duration::from_millis(10)).await;
}

/// Passes checks of replicas of the revision only, for so many seconds; returns the fewest that were ready.
async fn pass_checks_of(world: &World, revision: u64, seconds: u32) -> usize {
    let mut least = usize::MAX;
    for _ in 0..seconds * 4 {
        world.pass_checks_if(|instance| instance.revision == revision).await;
        world.pass(SECOND / 4).await;
        let instances = world.instances().await;
        least = least.min(instances.iter().filter(|one| one.state == InstanceState::Ready).count());
    }
    least
}

#[tokio::test(start_paused = true)]
async fn replaces_one_after_the_other_and_never_serves_with_less() {
    let world = World::ready(3).await;
    world.pass(2 * SECOND).await;
    assert_eq!(phase(&world), Phase::Completed, "the first one, too, is a rollout");
    define(&world, definition("v2", 3)).await;
    assert_eq!((phase(&world), world.puppets.running()), (Phase::Progressing, 4));
    let before = world.puppets.done("start web 2");
    world.pass(20 * SECOND).await;
    assert_eq!((before, world.puppets.done("start web 2")), (1, 1), "no second one before the first serves");
    assert!(pass_checks_of(&world, 2, 8).await >= 3);
    assert_eq!((phase(&world), world.puppets.done("start")), (Phase::Completed, 6));
    assert!(world.instances().await.iter().all(|one| one.revision == 2));
    let progress = world.scheduler.rollouts().borrow()[&web()].clone();
    assert_eq!((progress.revision, progress.healthy, progress.updated, progress.old), (2, 3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_replaced_at_a_time() {
    let world = World::ready(4).await;
    world.pass(2 * SECOND).await;
    let mut wide = definition("v2", 4);
    wide.rollout.batch = 2;
    define(&world, wide).await;
    assert_eq!(world.puppets.running(), 6);
    assert!(pass_checks_of(&world, 2, 6).await >= 4);
    assert_eq!(phase(&world), Phase::Completed);
}

#[tokio::test(start_paused = true)]
async fn what_replicas_do_not_depend_on_replaces_none() {
    let world = World::ready(3).await;
    world.pass(2 * SECOND).await;
    let mut changed = definition("v1", 3);
    (changed.revision, changed.drain_timeout) = (7, SECOND);
    define(&world, changed).await;
    assert_eq!(phase(&world), Phase::Progressing, "judged under the changed definition");
    world.pass(2 * SECOND).await;
    assert_eq!((phase(&world), world.puppets.done("start")), (Phase::Completed, 3));
    assert_eq!(world.status().await.revision, 7);
}

#[tokio::test(start_paused = true)]
async fn one_that_exits_fails_the_rollout_and_the_old_ones_are_untouched() {
    let world = World::ready(3).await;
    world.pass(2 * SECOND).await;
    let old: Vec<InstanceId> = world.instances().await.iter().map(|one| one.id.clone()).collect();
    world.puppets.exit_at_once(true);
    define(&world, definition("v2", 3)).await;
    world.pass(5 * SECOND).await;
    let Phase::Failed(Cause::Exits { how, .. }) = phase(&world) else { panic!("{:?}", phase(&world)) };
    assert_eq!((how.as_str(), world.puppets.done("start web 2")), ("exited with status 1", 3));
    world.puppets.exit_at_once(false);
    world.pass(300 * SECOND).await;
    assert_eq!(world.puppets.done("start web 2"), 3, "no more of what does not work");
    assert_eq!(world.instances().await.iter().map(|one| one.id.clone()).collect::<Vec<_>>(), old);
    // An old one that dies meanwhile is replaced by an old one, at once: the bad revision quarantines only itself.
    world.puppets.end(&old[0], Exit::Signal(9));
    world.settle(3).await;
    assert_eq!(world.puppets.done("start web 1"), 4);
    assert!(world.instances().await.iter().all(|one| one.revision == 1));
    // Going back to what works is done at once.
    let mut back = definition("v1", 3);
    back.revision = 3;
    define(&world, back).await;
    world.pass(2 * SECOND).await;
    assert_eq!((phase(&world), world.puppets.done("start")), (Phase::Completed, 7));
}

#[tokio::test(start_paused = true)]
async fn an_old_one_that_dies_during_a_rollout_is_replaced_by_an_old_one() {
    let world = World::ready(3).await;
    world.pass(2 * SECOND).await;
    define(&world, definition("v2", 3)).await;
    let victim = world.instances().await[0].id.clone();
    world.puppets.end(&victim, Exit::Signal(9));
    world.pass(SECOND / 10).await;
    assert_eq!((world.puppets.done("start web 1"), world.puppets.done("start web 2")), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn one_that_never_gets_healthy_fails_at_the_deadline_with_its_last_answer() {
    let world = World::ready(2).await;
    world.pass(2 * SECOND).await;
    let mut slow = definition("v2", 2);
    slow.rollout.progress_deadline = 20 * SECOND;
    define(&world, slow).await;
    let new = world.instances().await.into_iter().find(|one| one.revision == 2).unwrap();
    world.sicken_starting(&new.id, "GET /health: 500").await;
    world.pass(19 * SECOND).await;
    assert_eq!(phase(&world), Phase::Progressing);
    world.pass(2 * SECOND).await;
    let Phase::Failed(cause) = phase(&world) else { panic!("{:?}", phase(&world)) };
    assert_eq!(cause.to_string(), format!("{} never got healthy; its last check: GET /health: 500", new.id));
    world.pass(SECOND).await;
    assert_eq!((world.status().await.ready, world.puppets.running()), (2, 2), "what failed is gone");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_started_fails_at_once() {
    let world = World::ready(2).await;
    world.pass(2 * SECOND).await;
    world.puppets.refuse(Some("cannot run nothing: no such program in PATH"));
    define(&world, definition("v2", 2)).await;
    let Phase::Failed(cause) = phase(&world) else { panic!("{:?}", phase(&world)) };
    assert_eq!(cause.to_string(), "cannot start: cannot run nothing: no such program in PATH");
    assert_eq!(world.status().await.ready, 2);
}

#[tokio::test(start_paused = true)]
async fn a_later_definition_takes_the_place_of_one_that_is_being_rolled_out() {
    let world = World::ready(3).await;
    world.pass(2 * SECOND).await;
    define(&world, definition("v2", 3)).await;
    assert!(pass_checks_of(&world, 2, 2).await >= 3);
    define(&world, definition("v3", 3)).await;
    assert!(pass_checks_of(&world, 3, 12).await >= 3, "what ran of the second went only as others served");
    assert_eq!(phase(&world), Phase::Completed);
    assert!(world.instances().await.iter().all(|one| one.revision == 3));
}

#[tokio::test(start_paused = true)]
async fn stop_first_never_runs_two() {
    let world = World::ready(1).await;
    world.pass(2 * SECOND).await;
    let alone = |command| {
        let mut spec = definition(command, 1);
        spec.rollout.strategy = Strategy::StopFirst;
        spec
    };
    world.puppets.take(Duration::ZERO, 3 * SECOND);
    define(&world, alone("v2")).await;
    for _ in 0..40 {
        assert!(world.puppets.running() <= 1);
        world.pass_checks().await;
        world.pass(SECOND / 4).await;
    }
    assert_eq!((phase(&world), world.puppets.done("start web 2")), (Phase::Completed, 1));
    // One that does not work stops before the one that works starts again.
    world.puppets.refuse(Some("no such program"));
    define(&world, alone("v3")).await;
    world.pass(5 * SECOND).await;
    world.puppets.refuse(None);
    let mut back = alone("v2");
    back.revision = 4;
    define(&world, back).await;
    for _ in 0..40 {
        assert!(world.puppets.running() <= 1);
        world.pass_checks().await;
        world.pass(SECOND / 4).await;
    }
    assert_eq!((phase(&world), world.puppets.running()), (Phase::Completed, 1));
}

#[tokio::test(start_paused = true)]
async fn the_autoscaler_waits_for_a_rollout_and_for_a_number_by_hand() {
    let world = World::ready(2).await;
    let scaled = |command| {
        let mut spec = definition(command, 2);
        spec.scale = bounds(1, 10);
        spec
    };
    define(&world, scaled("v1")).await;
    world.pass(2 * SECOND).await;
    assert_eq!(world.scheduler.set_target(&web(), 3).await, Ok(true));
    world.settle(3).await;
    define(&world, scaled("v2")).await;
    assert_eq!(world.scheduler.set_target(&web(), 5).await, Ok(true));
    assert_eq!(world.status().await.wanted, 3, "frozen while it is rolled out");
    pass_checks_of(&world, 2, 10).await;
    assert_eq!((phase(&world), world.status().await.wanted), (Phase::Completed, 5));
    world.scheduler.scale(&web(), 1).await.unwrap();
    assert_eq!(world.scheduler.set_target(&web(), 4).await, Ok(false));
    assert_eq!((world.status().await.wanted, world.status().await.pinned), (1, true));
    define(&world, scaled("v3")).await;
    assert_eq!(world.status().await.wanted, 1, "a number by hand survives a deploy");
    world.scheduler.unpin(&web()).await.unwrap();
    assert_eq!((world.status().await.wanted, world.status().await.pinned), (1, false));
}

#[tokio::test(start_paused = true)]
async fn a_rollout_is_taken_up_after_a_restart() {
    // The third revision was being rolled out; what runs was lost with the machine.
    let stable = Arc::new(definition("v2", 2));
    let world = World::resumed(definition("v3", 2), Some(stable), Some(3)).await;
    world.pass(SECOND).await;
    assert_eq!((world.puppets.done("start web 2"), world.puppets.done("start web 3")), (3, 1));
    pass_checks_of(&world, 2, 4).await;
    pass_checks_of(&world, 3, 10).await;
    assert_eq!(phase(&world), Phase::Completed);
    // And one that was over is over.
    let stable = Arc::new(definition("v2", 2));
    let world = World::resumed(definition("v2", 2), Some(stable), None).await;
    world.pass(SECOND).await;
    assert_eq!((phase(&world), world.puppets.running()), (Phase::Completed, 2));
}
