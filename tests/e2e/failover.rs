//! Replicas are killed under load; clients do not notice, the scheduler repairs.

use crate::support::process::kill;
use crate::web::{FULL, SETTLED, SHORT, Scale, World, loaded, only_begun_answers_failed};

async fn killed_replicas_fail_no_request(scale: Scale) {
    let _loaded = loaded().await;
    let world = World::start("failover", scale).await;
    for _ in 0..scale.events {
        let (victim, pid) = world.victim(scale.in_flight).await;
        kill(pid, "KILL").await;
        world.weir.settled_without(&victim, "web", 3, SETTLED).await;
        world.passes(scale.between()).await;
    }
    world.fill(scale).await;
    let outcome = world.stop(&format!("{} kills", scale.events)).await;
    only_begun_answers_failed(&outcome.gets, &outcome.weir);
    only_begun_answers_failed(&outcome.slow, &outcome.weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_is_invisible_to_clients_and_repaired() {
    killed_replicas_fail_no_request(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 kills within 400,000 requests; run by tests/run --long"]
async fn twenty_killed_replicas_are_invisible_to_clients() {
    let scale = Scale { events: 20, requests: 400_000, ..FULL };
    killed_replicas_fail_no_request(scale).await;
}
