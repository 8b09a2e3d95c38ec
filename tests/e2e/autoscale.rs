//! The autoscaler on real replicas: a step of load orders starts at once, settles, and comes down by the window.

use crate::support::eventually;
use crate::support::process::Weir;
use crate::support::traffic::{Kind, Plan, Report, Traffic};
use crate::web::{SETTLED, alone};
use serde_json::Value;
use std::time::{Duration, Instant, SystemTime};

/// Two requests at once and 50 ms each: 40 requests a second make a replica full.
const SERVICES: &str = r#"
[[route]]
name = "web"
service = "web"

[[service]]
name = "web"
dns_ttl = "1s"
[service.run]
command = ["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}", "--delay", "50ms"]
[service.health]
type = "http"
path = "/health"
interval = "1s"
[service.rollout]
min_healthy = "1s"
[service.scale]
max = 12
[service.limits]
concurrency = 2
queue = 1000
"#;

/// From the step to the event of the order.
const ORDERED_WITHIN: Duration = Duration::from_millis(1500);

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// So many connections that a queue does not hold back what comes.
fn traffic(weir: &Weir, rate: f64, first_tag: u64) -> Traffic {
    Traffic::start(Plan { rate, keepalive: 2 * rate as usize, fresh: 2, first_tag, ..Plan::new(weir.http) })
}

/// When replicas were ordered and how many were wanted then, oldest first.
async fn orders(weir: &Weir) -> Vec<(u64, u64)> {
    let (status, body) = weir.api("GET", "/v1/events?follow=false", None).await;
    assert_eq!(status, 200);
    let wanted = |event: &Value| {
        let text = event["message"].as_str()?.strip_prefix("web scales from ")?;
        let to = text.split_whitespace().nth(2)?.parse().ok()?;
        Some((event["at_unix_ms"].as_u64()?, to))
    };
    body["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "scaled").filter_map(wanted).collect()
}

/// Makes a step of load; returns the traffic and when it began.
async fn step(weir: &Weir, rate: f64) -> (Traffic, Traffic, u64) {
    let base = traffic(weir, 20.0, 0);
    eventually("the base load is served", Duration::from_secs(60), || async { (base.passed() >= 100).then_some(()) })
        .await;
    let at = unix_ms();
    let more = traffic(weir, rate, 1 << 40);
    let ordered = eventually("an order", Duration::from_secs(20), || async {
        orders(weir).await.into_iter().find(|(when, _)| *when >= at)
    })
    .await;
    let took = Duration::from_millis(ordered.0 - at);
    println!("step of 20 to {:.0} requests/s: {} replicas ordered after {took:?}", 20.0 + rate, ordered.1);
    assert!(took <= ORDERED_WITHIN, "{took:?}\n{}", weir.log());
    (base, more, at)
}

/// While the first replicas start, the one that is there has a queue: answers are late, none fails.
fn only_late(report: &Report, weir: &Weir) {
    assert_eq!(report.failed(), report.of(Kind::Late), "{:?}\n{}", report.failures, weir.log());
    assert!(report.failed() * 8 <= report.requests, "{}", report.line());
}

async fn scale_state(weir: &Weir) -> Value {
    weir.api("GET", "/v1/services/web/scale", None).await.1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_of_load_orders_starts_within_a_second_and_a_half() {
    let _alone = alone().await;
    let weir = Weir::start("autoscale", SERVICES).await;
    weir.settled("web", 1, SETTLED).await;
    let (base, more, _) = step(&weir, 130.0).await;
    eventually("enough replicas serve", Duration::from_secs(30), || async {
        let state = scale_state(&weir).await;
        (state["ready"].as_u64()? >= 4 && state["autoscaler"]["newest"]["queued"] == 0).then_some(())
    })
    .await;

    // A number by hand wins until it is given back.
    assert_eq!(weir.cli(&["scale", "web", "6"]).await.code, 0);
    let pinned = scale_state(&weir).await;
    assert_eq!((pinned["replicas"].as_u64(), pinned["pinned"].as_bool()), (Some(6), Some(true)));
    let before = orders(&weir).await.len();
    eventually("three more decisions", Duration::from_secs(20), {
        let first = pinned["autoscaler"]["newest"]["at_unix_ms"].as_u64().unwrap();
        let weir = &weir;
        move || async move {
            let now = scale_state(weir).await["autoscaler"]["newest"]["at_unix_ms"].as_u64()?;
            (now >= first + 2900).then_some(())
        }
    })
    .await;
    assert_eq!(orders(&weir).await.len(), before, "nothing changes while a number by hand counts");
    let told = weir.cli(&["explain", "scale", "web"]).await;
    for part in ["web: 6 replicas wanted", "set by hand", "p99 < 500ms, 1 to 12 replicas", "cold start", "backlog"] {
        assert!(told.out.contains(part), "{part} is not in\n{}", told.out);
    }
    assert_eq!(weir.cli(&["scale", "web", "auto"]).await.code, 0);
    assert_eq!(scale_state(&weir).await["pinned"], false);

    println!("orders: {:?}", orders(&weir).await);
    for line in weir.log().lines().filter(|line| line.contains("web scales from")) {
        println!("{line}");
    }
    for report in [base.stop().await, more.stop().await] {
        println!("{}", report.line());
        only_late(&report, &weir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a step of load that is held for five minutes; run by tests/run --long"]
async fn a_step_settles_for_five_minutes_without_flapping_and_comes_down_by_the_window() {
    let _alone = alone().await;
    let weir = Weir::start("autoscale-long", SERVICES).await;
    weir.settled("web", 1, SETTLED).await;
    let (base, more, at) = step(&weir, 130.0).await;
    let begin = Instant::now();
    let settled_ms = at + 30_000;
    eventually("five minutes and a half have passed", Duration::from_secs(400), || async {
        (begin.elapsed() >= Duration::from_secs(330)).then_some(())
    })
    .await;
    let all = orders(&weir).await;
    let settled: Vec<_> = all.iter().filter(|(when, _)| *when >= settled_ms).collect();
    println!("orders: {all:?}; of those settled: {settled:?}");
    let flaps = settled.windows(2).filter(|pair| pair[0].1 < pair[1].1).count();
    assert_eq!(flaps, 0, "it ordered again what it had taken away: {all:?}");

    let high = scale_state(&weir).await["replicas"].as_u64().unwrap();
    let quiet_ms = unix_ms();
    let report = more.stop().await;
    println!("{}", report.line());
    only_late(&report, &weir);
    let fell = eventually("fewer replicas", Duration::from_secs(120), || async {
        orders(&weir).await.into_iter().find(|(when, wanted)| *when >= quiet_ms && *wanted < high)
    })
    .await;
    let after = Duration::from_millis(fell.0 - quiet_ms);
    eventually("one or two replicas", Duration::from_secs(120), || async {
        (scale_state(&weir).await["replicas"].as_u64()? <= 2).then_some(())
    })
    .await;
    let low = Duration::from_millis(unix_ms() - quiet_ms);
    println!("came down from {high} after {after:?}, to two at most after {low:?}");
    assert!(after >= Duration::from_secs(10) && low <= Duration::from_secs(90), "{after:?} {low:?}");
    let report = base.stop().await;
    println!("{}", report.line());
    only_late(&report, &weir);
}
