//! A Weir that follows a Weir that follows the scheduler: what it uses, carries and waits for is the scheduler's concern, too.

use crate::support;
use crate::support::http::{Raw, get};
use crate::support::process::{Weir, kill};
use crate::world::{Load, SETTLED, alone, deploy, follows, has, subscriber, table};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A service that has no replica while nobody uses it.
const SERVICE: &str = "[[route]]\nname = \"web\"\nservice = \"web\"\n
[[service]]\nname = \"web\"\nreplicas = 1\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${WEIR}\", \"whoami\", \"--listen\", \"127.0.0.1:${PORT}\"]\n
[service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"20s\"\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n
[service.scale]\nmin = 0\nmax = 1\nzero_after = \"1s\"\nstabilization_window = \"1s\"\n";

/// Waits until a subscriber still uses so many withdrawn endpoints.
async fn uses(at: &Weir, name: &str, count: u64) {
    support::eventually(&format!("{name} uses {count}"), SETTLED, || async {
        (subscriber(at, name, "following").await["uses"] == count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_far_end_of_a_chain_is_waited_for_and_counted_and_wakes() {
    let _alone = alone().await;
    let origin = Weir::start("chain-origin", SERVICE).await;
    let near = follows("chain-near", &origin).await;
    let far = follows("chain-far", &near).await;
    // Nobody uses it: there is none, and what comes at the far end wakes it.
    support::eventually("no replica", SETTLED, || async {
        (origin.api("GET", "/v1/services/web/scale", None).await.1["replicas"] == 0).then_some(())
    })
    .await;
    has(&far, 0).await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let target = far.http;
        clients.spawn(async move { get(target, "/").await.status });
    }
    let statuses = clients.join_all().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}\n{}", far.log());
    // What is in flight there for longer than an idle service has a replica is waited for.
    let (http, begin) = (far.http, Instant::now());
    let held = tokio::spawn(async move {
        let mut raw = Raw::connect(http).await.unwrap();
        raw.send("GET /delay/8000 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        raw.try_answer(false).await.map(|answer| answer.status).ok()
    });
    support::eventually("what the far end carries is the near one's at the scheduler", SETTLED, || async {
        let load = subscriber(&origin, "chain-near", "following").await["loads"][0].clone();
        (load["in_service"] == 1 && load["requests"] == 20).then_some(())
    })
    .await;
    let before = origin.ready_instances("web").await[0]["id"].as_str().unwrap().to_owned();
    let deployed = deploy(&origin, 1);
    let watched = async {
        uses(&near, "chain-far", 1).await;
        uses(&origin, "chain-near", 1).await;
        let there = origin.instances().await.iter().any(|one| one["id"] == *before && one["state"] == "draining");
        assert!(there, "the replica waits for it");
    };
    let (said, ()) = tokio::join!(deployed, watched);
    println!("{} after {:?}", said.trim(), begin.elapsed());
    assert_eq!(held.await.unwrap(), Some(200), "{}", far.log());
    uses(&origin, "chain-near", 0).await;

    // The far end hangs: the near one lets it go, and the scheduler never has to.
    let load = Load::start(&near, 1, 20.0);
    load.passes(20).await;
    kill(far.serving(), "STOP").await;
    let begin = Instant::now();
    deploy(&origin, 2).await;
    println!("beside a far end that hangs the deploy ended after {:?}", begin.elapsed());
    subscriber(&near, "chain-far", "silent").await;
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    load.stop("beside a far end that hangs").await;
    kill(far.serving(), "CONT").await;
    subscriber(&near, "chain-far", "following").await;
    let wanted = table(&near).await["generation"].as_u64();
    support::eventually("the far end converges", SETTLED, || async {
        let row = subscriber(&near, "chain-far", "following").await;
        (row["generation"].as_u64() >= wanted).then_some(())
    })
    .await;
    let silent = origin.api("GET", "/v1/events?follow=false", None).await.1.to_string();
    assert!(!silent.contains("subscriber_silent"), "{silent}");
}
