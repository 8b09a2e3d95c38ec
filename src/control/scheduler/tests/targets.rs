//! Who says how many replicas there are: the definition, the autoscaler, a person.

use crate::control::rollout::Phase;
use crate::control::scheduler::tests::world::{World, definition, web};
use crate::model::{Objective, ScalePolicy, ScaleSpec};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn bounds(min: u32, max: u32) -> Option<ScaleSpec> {
    Some(ScaleSpec {
        min,
        max,
        policy: ScalePolicy::Objective,
        objective: Objective { quantile_ppm: 990_000, latency: Duration::from_millis(500) },
        stabilization_window: Duration::from_secs(20),
        max_stabilization_window: Duration::from_secs(300),
        zero_after: None,
        wake_timeout: Duration::from_secs(30),
    })
}

async fn scaled(replicas: u32, min: u32, max: u32) -> World {
    let world = World::ready(replicas).await;
    world.define_scaled(replicas, bounds(min, max)).await;
    world
}

impl World {
    async fn define_scaled(&self, replicas: u32, scale: Option<ScaleSpec>) {
        let mut spec = definition("v1", replicas);
        spec.scale = scale;
        self.registry.define(Arc::new(spec)).await.unwrap();
        // The notice of it is read before the next request is.
        self.pass(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_counts_only_where_the_service_is_scaled() {
    let world = World::ready(2).await;
    assert_eq!(world.scheduler.set_target(&web(), 4).await, Ok(false));
    world.define_scaled(2, bounds(1, 5)).await;
    assert_eq!(world.scheduler.set_target(&web(), 4).await, Ok(true));
    assert_eq!(world.scheduler.set_target(&web(), 4).await, Ok(false), "nothing changes");
    world.settle(4).await;
}

#[tokio::test(start_paused = true)]
async fn a_number_by_hand_wins_until_it_is_given_back() {
    let world = scaled(2, 1, 5).await;
    world.scheduler.scale(&web(), 6).await.unwrap();
    assert!(world.status().await.pinned);
    assert_eq!(world.scheduler.set_target(&web(), 3).await, Ok(false));
    world.settle(6).await;
    world.scheduler.unpin(&web()).await.unwrap();
    let status = world.status().await;
    assert_eq!((status.wanted, status.pinned), (5, false), "from there on, within the bounds");
    assert_eq!(world.scheduler.set_target(&web(), 3).await, Ok(true));
    world.settle(3).await;
}

#[tokio::test(start_paused = true)]
async fn without_scaling_a_number_given_back_is_the_definitions() {
    let world = World::ready(2).await;
    world.scheduler.scale(&web(), 4).await.unwrap();
    world.settle(4).await;
    world.scheduler.unpin(&web()).await.unwrap();
    world.settle(2).await;
}

#[tokio::test(start_paused = true)]
async fn changed_bounds_move_the_number_no_further_than_they_must() {
    let world = scaled(2, 1, 8).await;
    world.scheduler.set_target(&web(), 6).await.unwrap();
    world.settle(6).await;
    world.define_scaled(2, bounds(1, 10)).await;
    assert_eq!(world.status().await.wanted, 6);
    world.define_scaled(2, bounds(1, 4)).await;
    assert_eq!(world.status().await.wanted, 4);
    world.scheduler.scale(&web(), 7).await.unwrap();
    world.define_scaled(3, bounds(1, 4)).await;
    let status = world.status().await;
    assert_eq!((status.wanted, status.pinned), (7, true), "who drops it is no business of the scheduler");
}

impl World {
    /// Whether a request that comes now is to wait for a replica.
    fn holds(&self) -> bool {
        self.table.load().services.get(&web()).unwrap().may_wake()
    }
}

#[tokio::test(start_paused = true)]
async fn none_is_wanted_where_that_is_allowed_and_what_comes_waits() {
    let world = scaled(1, 0, 5).await;
    world.settle(1).await;
    assert_eq!(world.scheduler.set_target(&web(), 0).await, Ok(true));
    world.settle(0).await;
    assert!(world.holds());
    assert_eq!(world.scheduler.set_target(&web(), 3).await, Ok(true));
    world.settle(3).await;
    assert!(world.holds());
}

#[tokio::test(start_paused = true)]
async fn none_by_hand_is_off() {
    for min in [0, 1] {
        let world = scaled(2, min, 5).await;
        let waits = world.table.load().services.get(&web()).unwrap().stats.try_wait(1).unwrap();
        world.scheduler.scale(&web(), 0).await.unwrap();
        world.settle(0).await;
        assert!(!world.holds());
        assert!(waits.await.is_ok(), "who waits is told");
        assert_eq!(world.scheduler.set_target(&web(), 1).await, Ok(false));
        // A definition changes nothing about that.
        world.define_scaled(2, bounds(min, 6)).await;
        world.settle(0).await;
        assert!(!world.holds());
        world.scheduler.unpin(&web()).await.unwrap();
        world.pass(Duration::from_millis(1)).await;
        assert!(world.holds());
        world.settle(min).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_without_replicas_by_its_definition_is_off() {
    let world = World::ready(0).await;
    assert!(!world.holds());
    world.scheduler.scale(&web(), 1).await.unwrap();
    world.pass(Duration::from_millis(1)).await;
    assert!(world.holds(), "one is on its way");
}

#[tokio::test(start_paused = true)]
async fn what_is_deployed_at_zero_proves_itself_and_rests_again() {
    let world = scaled(1, 0, 5).await;
    world.settle(1).await;
    world.scheduler.set_target(&web(), 0).await.unwrap();
    world.settle(0).await;
    let mut spec = definition("v2", 1);
    (spec.scale, spec.revision) = (bounds(0, 5), 2);
    world.registry.define(Arc::new(spec)).await.unwrap();
    world.pass(Duration::from_millis(1)).await;
    assert_eq!(world.status().await.wanted, 1, "one is started to prove it");
    world.settle(0).await;
    let rollouts = world.scheduler.rollouts().borrow().clone();
    let progress = rollouts.get(&web()).unwrap();
    assert_eq!((progress.revision, &progress.phase), (2, &Phase::Completed));
    assert!(world.holds());

    // One that does not work is found out although nobody asks for it.
    world.puppets.refuse(Some("no such program"));
    let mut spec = definition("v3", 1);
    (spec.scale, spec.revision) = (bounds(0, 5), 3);
    world.registry.define(Arc::new(spec)).await.unwrap();
    world.pass(Duration::from_secs(1)).await;
    let rollouts = world.scheduler.rollouts().borrow().clone();
    assert!(matches!(rollouts.get(&web()).unwrap().phase, Phase::Failed(_)), "{rollouts:?}");
}
