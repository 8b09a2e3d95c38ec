//! Who says how many replicas there are: the definition, the autoscaler, a person.

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
