//! Scaling and draining under load; also seen by a client that finds replicas by DNS and connects to them itself.

use crate::support::direct::Direct;
use crate::web::{FULL, SETTLED, SHORT, Scale, World, loaded, none_failed};
use std::time::Duration;

async fn scaling_fails_no_request(scale: Scale) {
    let _loaded = loaded().await;
    let world = World::start("scaling", scale).await;
    let direct = Direct::start(world.weir.dns, "_http._tcp.web.default.weir.internal.", Duration::from_millis(10));
    for _ in 0..scale.events {
        for replicas in [6, 2] {
            let finished = world.weir.cli(&["scale", "web", &replicas.to_string()]).await;
            assert_eq!(finished.code, 0, "{finished:?}");
            world.weir.settled("web", replicas, SETTLED).await;
            world.passes(scale.between() / 2).await;
        }
    }
    world.fill(scale).await;
    let direct = direct.stop().await;
    println!("by DNS and directly: {}", direct.line());
    let outcome = world.stop(&format!("scale 6 and 2, {} times", scale.events)).await;
    outcome.none_failed();
    assert!(direct.passed > 0);
    none_failed(&direct, &outcome.weir);
}

async fn draining_fails_no_request(scale: Scale) {
    let _loaded = loaded().await;
    let world = World::start("drain", scale).await;
    for _ in 0..scale.events {
        let (victim, _) = world.victim(scale.in_flight).await;
        let finished = world.weir.cli(&["drain", &victim]).await;
        assert_eq!(finished.code, 0, "{finished:?}");
        world.weir.settled_without(&victim, "web", 3, SETTLED).await;
        world.passes(scale.between()).await;
    }
    world.fill(scale).await;
    world.stop(&format!("{} drains", scale.events)).await.none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_up_and_down_fails_no_request() {
    scaling_fails_no_request(Scale { events: 1, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_an_instance_fails_no_request() {
    draining_fails_no_request(Scale { events: 1, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10 times scale 6 and 2 within 400,000 requests; run by tests/run --long"]
async fn ten_scalings_up_and_down_fail_no_request() {
    scaling_fails_no_request(Scale { requests: 400_000, ..FULL }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10 drains within 200,000 requests; run by tests/run --long"]
async fn ten_drains_fail_no_request() {
    draining_fails_no_request(Scale { requests: 200_000, ..FULL }).await;
}
