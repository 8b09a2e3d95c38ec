//! Leases over time: kept while renewed, out at once when not, back while listed.

use crate::world::{Backend, SECOND, World, http_check, registration, spec, until};
use std::time::Duration;
use weir::control::registry::{Registration, RegistryError};
use weir::model::{InstanceId, InstanceState, Source};

async fn world() -> World {
    let world = World::new(1);
    world.registry.define(spec("web", Some(http_check()))).await.unwrap();
    world.network.set(1, Backend::Up);
    world
}

async fn register(world: &World, lease: Duration) -> InstanceId {
    let registration = Registration { lease: Some(lease), ..registration("web", 1, Source::Api) };
    let id = world.registry.register(registration).await.unwrap().id;
    until(SECOND, async || world.usable("web") == [1]).await;
    world.registry.renew(&id).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_is_never_lost() {
    let world = world().await;
    let id = register(&world, 10 * SECOND).await;
    let before = world.table.load().generation;
    for _ in 0..1000 {
        tokio::time::sleep(10 * SECOND - Duration::from_millis(2)).await;
        assert_eq!(world.registry.renew(&id).await, Ok(10 * SECOND));
    }
    assert_eq!(world.table.load().generation, before, "renewals change no table");
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_leaves_the_table_at_once() {
    let world = world().await;
    let id = register(&world, 10 * SECOND).await;
    let start = weir::clock::now();
    world.registry.renew(&id).await.unwrap();
    until(20 * SECOND, async || world.usable("web").is_empty()).await;
    let took = weir::clock::now() - start;
    assert!(took >= 10 * SECOND && took <= 10 * SECOND + Duration::from_millis(3), "{took:?}");
    assert_eq!(world.state(&id).await, Some(InstanceState::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_revives_an_expired_instance_through_its_gate() {
    let world = world().await;
    let id = register(&world, 10 * SECOND).await;
    tokio::time::sleep(65 * SECOND).await;
    assert_eq!(world.state(&id).await, Some(InstanceState::Gone));
    world.network.set(1, Backend::Down);
    world.registry.renew(&id).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(world.usable("web").is_empty(), "the gate is shut while the check fails");
    world.network.set(1, Backend::Up);
    until(2 * SECOND, async || world.usable("web") == [1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_expires_again_and_again_is_checked_each_time() {
    let world = world().await;
    let id = register(&world, SECOND).await;
    for _ in 0..50 {
        tokio::time::sleep(2 * SECOND).await;
        assert!(world.usable("web").is_empty());
        world.registry.renew(&id).await.unwrap();
        until(SECOND, async || world.usable("web") == [1]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_minute_a_renewal_finds_nothing() {
    let world = world().await;
    let id = register(&world, 10 * SECOND).await;
    tokio::time::sleep(71 * SECOND).await;
    assert_eq!(world.registry.renew(&id).await, Err(RegistryError::UnknownInstance(id.clone())));
    assert_eq!(world.registry.instance(&id).await, None);
    assert!(world.health.of(&id).is_empty());
}
