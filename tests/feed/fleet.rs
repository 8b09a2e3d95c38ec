//! An edge and two more followers of one scheduler: deploys, one that hangs, a feed that is cut.

use crate::support;
use crate::support::process::{Weir, kill};
use crate::world::{Load, SETTLED, beside, deploy, follows, has, loaded, retries, service, subscriber, table};
use std::time::{Duration, Instant};

async fn deploys_fail_no_request_at_any(deploys: usize, rate: f64) {
    let _loaded = loaded().await;
    let origin = Weir::start("fleet-origin", &service(2)).await;
    origin.settled("web", 2, SETTLED).await;
    let edges = [follows("edge-1", &origin).await, follows("edge-2", &origin).await];
    for edge in &edges {
        has(edge, 2).await;
    }
    let loads: Vec<Load> =
        [&origin, &edges[0], &edges[1]].iter().enumerate().map(|(i, weir)| Load::start(weir, i as u64, rate)).collect();
    for load in &loads {
        load.passes(50).await;
    }
    for number in 1..=deploys {
        deploy(&origin, number).await;
    }
    origin.settled("web", 2, SETTLED).await;
    let ids = |all: Vec<serde_json::Value>| {
        let mut ids: Vec<String> = all.iter().map(|one| one["id"].to_string()).collect();
        ids.sort();
        ids
    };
    let wanted = ids(origin.ready_instances("web").await);
    for edge in &edges {
        support::eventually("the edges have what the scheduler has", SETTLED, || async {
            (ids(edge.ready_instances("web").await) == wanted).then_some(())
        })
        .await;
    }
    let mut count = 0;
    for (load, what) in loads.into_iter().zip(["scheduler", "edge-1", "edge-2"]) {
        count += load.stop(&format!("{deploys} deploys, {what}")).await;
    }
    for edge in &edges {
        let metrics = support::http::get(edge.admin, "/metrics").await.text();
        assert_eq!(retries(&metrics), 0, "none was led to a replica that was stopped already");
    }
    println!("{deploys} deploys: 0 of {count} requests failed at all three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_fail_no_request_at_any_of_three() {
    deploys_fail_no_request_at_any(2, 100.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 deploys under load; run by tests/run --long"]
async fn a_hundred_deploys_fail_no_request_at_any_of_three() {
    deploys_fail_no_request_at_any(100, 500.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_hangs_is_named_and_waited_for_three_seconds() {
    let _beside = beside().await;
    let origin = Weir::start("hang-origin", &service(1)).await;
    origin.settled("web", 1, SETTLED).await;
    let (good, stuck) = (follows("good", &origin).await, follows("stuck", &origin).await);
    for edge in [&good, &stuck] {
        has(edge, 1).await;
    }
    subscriber(&origin, "stuck", "following").await;
    let load = Load::start(&good, 1, 50.0);
    let serving = stuck.serving();
    kill(serving, "STOP").await;
    let begin = Instant::now();
    let said = deploy(&origin, 1).await;
    assert!(said.contains("waited for stuck, which says nothing"), "{said}");
    assert!(!said.contains("good"), "{said}");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(30), "the deploy ended after {took:?}");
    subscriber(&origin, "stuck", "silent").await;
    let events = origin.api("GET", "/v1/events?follow=false", None).await.1;
    let messages: Vec<String> =
        events["events"].as_array().unwrap().iter().map(|e| format!("{}: {}", e["kind"], e["message"])).collect();
    let silent = messages.iter().any(|m| m.contains("subscriber_silent") && m.contains("stuck says nothing for 3 s"));
    assert!(silent, "{messages:#?}");
    assert!(!messages.iter().any(|m| m.contains("subscriber_silent") && m.contains("good")), "{messages:#?}");
    let status = origin.cli(&["status"]).await;
    assert!(status.out.contains("stuck") && status.out.contains("silent"), "{status:?}");
    kill(serving, "CONT").await;
    subscriber(&origin, "stuck", "following").await;
    let wanted = table(&origin).await["generation"].as_u64().unwrap();
    support::eventually("who hung converges", SETTLED, || async {
        let row = subscriber(&origin, "stuck", "following").await;
        (row["generation"].as_u64() >= Some(wanted)).then_some(())
    })
    .await;
    load.stop("beside one that hangs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_serves_on_also_after_its_restart_and_converges() {
    let _beside = beside().await;
    let mut origin = Weir::start_keeping("cut-origin", &service(2)).await;
    origin.settled("web", 2, SETTLED).await;
    let mut edge = follows("cut-edge", &origin).await;
    has(&edge, 2).await;
    let load = Load::start(&edge, 1, 50.0);
    load.passes(20).await;
    // The scheduler is gone, its replicas are not.
    origin.kill();
    let _ = origin.child.wait().await;
    load.passes(150).await;
    load.stop("cut off").await;
    support::eventually("the last table is kept on disk", SETTLED, || async {
        edge.folder.0.join("state/table.jsonl").exists().then_some(())
    })
    .await;
    edge.kill();
    let _ = edge.child.wait().await;
    edge.respawn();
    edge.ready().await;
    has(&edge, 2).await;
    let load = Load::start(&edge, 2, 50.0);
    load.passes(50).await;
    origin.respawn();
    origin.ready().await;
    subscriber(&origin, "cut-edge", "following").await;
    let finished = origin.cli(&["scale", "web", "3", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    has(&edge, 3).await;
    load.stop("started from the kept table, then converged").await;
    let finished = origin.cli(&["scale", "web", "0"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    has(&edge, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_restarts_beside_an_unchanged_scheduler_uses_and_acknowledges_what_it_kept() {
    let _beside = beside().await;
    let origin = Weir::start("same-origin", &service(1)).await;
    origin.settled("web", 1, SETTLED).await;
    let mut edge = follows("same-edge", &origin).await;
    has(&edge, 1).await;
    let wanted = table(&origin).await["generation"].clone();
    support::eventually("the last table is kept on disk", SETTLED, || async {
        let text = std::fs::read_to_string(edge.folder.0.join("state/table.jsonl")).unwrap_or_default();
        text.contains(&format!("\"generation\":{wanted}")).then_some(())
    })
    .await;
    edge.kill();
    let _ = edge.child.wait().await;
    edge.respawn();
    edge.ready().await;
    support::eventually("what was kept is the source's", SETTLED, || async {
        (table(&edge).await["sources"][0]["state"] == "used").then_some(())
    })
    .await;
    assert_eq!(table(&origin).await["generation"], wanted, "nothing else came");
    let finished = origin.cli(&["scale", "web", "2", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    has(&edge, 2).await;
    let wanted = table(&origin).await["generation"].as_u64();
    support::eventually("it acknowledges", SETTLED, || async {
        let row = subscriber(&origin, "same-edge", "following").await;
        (row["generation"].as_u64() >= wanted).then_some(())
    })
    .await;
}
