//! What followers carry, told to the scheduler: its services grow and shrink by it, and one without a replica is woken by it.

use crate::support;
use crate::support::http::{Raw, get};
use crate::support::process::{Weir, kill};
use crate::support::traffic::{Plan, Traffic};
use crate::world::{SETTLED, alone, beside, deploy, follows, has, subscriber, subscription, table};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A scaled service; `scale` are more keys of it.
fn scaled(replicas: usize, scale: &str) -> String {
    format!(
        "[[route]]\nname = \"web\"\nservice = \"web\"\n
[[service]]\nname = \"web\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n
[service.rollout]\nmin_healthy = \"1s\"\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n
[service.limits]\nconcurrency = 8\n
[service.scale]\n{scale}"
    )
}

async fn wanted(origin: &Weir) -> u64 {
    origin.api("GET", "/v1/services/web/scale", None).await.1["replicas"].as_u64().unwrap_or_default()
}

async fn wants(origin: &Weir, what: &str, is_it: impl Fn(u64) -> bool) {
    support::eventually(what, SETTLED, || async { is_it(wanted(origin).await).then_some(()) }).await;
}

/// What a follower is said to carry of `web`.
async fn carried(origin: &Weir, name: &str) -> Value {
    let row = subscriber(origin, name, "following").await;
    let loads = row["loads"].as_array().cloned().unwrap_or_default();
    loads.into_iter().find(|load| load["service"] == "web").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_at_a_follower_alone_scales_the_service_up_and_down() {
    let _beside = beside().await;
    let scale = "min = 1\nmax = 4\npolicy = \"concurrency\"\ntarget = 2\n\
        stabilization_window = \"2s\"\nmax_stabilization_window = \"2s\"\n";
    let origin = Weir::start("load-origin", &scaled(1, scale)).await;
    origin.settled("web", 1, SETTLED).await;
    let (busy, quiet) = (follows("load-busy", &origin).await, follows("load-quiet", &origin).await);
    for edge in [&busy, &quiet] {
        has(edge, 1).await;
    }
    assert_eq!(wanted(&origin).await, 1);
    // Twenty a second for a quarter of a second each: five in service.
    let plan = Plan { rate: 20.0, keepalive: 12, fresh: 0, path: "/delay/250".to_owned(), ..Plan::new(busy.http) };
    let begin = Instant::now();
    let traffic = Traffic::start(plan);
    wants(&origin, "more replicas", |replicas| replicas >= 2).await;
    println!("load at a follower alone: more replicas are wanted after {:?}", begin.elapsed());
    has(&busy, wanted(&origin).await as usize).await;
    let load = support::eventually("it shows who carries what", SETTLED, || async {
        let load = carried(&origin, "load-busy").await;
        (load["rate"].as_f64()? > 10.0 && load["in_service"].as_u64()? > 0).then_some(load)
    })
    .await;
    println!("{load}");
    assert!(carried(&origin, "load-quiet").await["requests"].as_u64().unwrap_or_default() == 0);
    let status = origin.cli(&["status"]).await;
    assert!(status.out.contains("load-busy") && status.out.contains(", carries "), "{status:?}");
    let report = traffic.stop().await;
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    wants(&origin, "one replica again", |replicas| replicas == 1).await;
    let counted = carried(&origin, "load-busy").await["requests"].as_u64().unwrap();
    assert!(counted.abs_diff(report.requests) <= 1, "{counted} counted, {} sent", report.requests);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_a_follower_wakes_a_service_without_a_replica() {
    let _alone = alone().await;
    let scale = "min = 0\nmax = 3\nzero_after = \"1s\"\nstabilization_window = \"1s\"\n";
    let origin = Weir::start("wake-origin", &scaled(1, scale)).await;
    origin.settled("web", 1, SETTLED).await;
    let edge = follows("wake-edge", &origin).await;
    for round in 1..=2 {
        wants(&origin, "no replica", |replicas| replicas == 0).await;
        has(&edge, 0).await;
        let (begin, mut clients) = (Instant::now(), JoinSet::new());
        for _ in 0..20 {
            let target = edge.http;
            clients.spawn(async move { get(target, "/").await.status });
        }
        let statuses = clients.join_all().await;
        println!("round {round}: {} held at the follower and answered after {:?}", statuses.len(), begin.elapsed());
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}\n{}", edge.log());
    }
    // None by hand is none everywhere: nothing is held for it.
    assert_eq!(origin.cli(&["scale", "web", "0"]).await.code, 0);
    has(&edge, 0).await;
    support::eventually("what comes is refused at once", SETTLED, || async {
        let begin = Instant::now();
        let status = get(edge.http, "/").await.status;
        (status == 503 && begin.elapsed() < Duration::from_secs(5)).then_some(())
    })
    .await;
    let begin = Instant::now();
    assert_eq!(get(edge.http, "/").await.status, 503);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

/// Two schedulers and a follower of both.
struct Pair {
    first: Weir,
    second: Weir,
    edge: Weir,
}

impl Pair {
    async fn start() -> Self {
        // Never more than one: what is held at the second is at the one replica.
        let scale = "min = 1\nmax = 1\n\n[service.timeouts]\nidle = \"5m\"\n";
        let first = Weir::start("stand-first", &scaled(1, scale)).await;
        let second = Weir::start("stand-second", &scaled(1, scale)).await;
        for origin in [&first, &second] {
            origin.settled("web", 1, SETTLED).await;
        }
        let edge = format!(
            "[source.weir]\nfrom = [\"{}\", \"{}\"]\nname = \"stand-edge\"\n
[proxy.timeouts]\nbody_idle = \"5m\"\nbody_min_bytes_per_second = 0\n",
            first.admin, second.admin
        );
        let edge = Weir::start("stand-edge", &edge).await;
        let pair = Self { first, second, edge };
        pair.is(0, "used").await;
        pair
    }

    async fn is(&self, source: usize, state: &str) {
        support::eventually(&format!("source {source} is {state}"), SETTLED, || async {
            (table(&self.edge).await["sources"][source]["state"] == state).then_some(())
        })
        .await;
    }

    /// Ends the preferred one, so that the other is used.
    async fn fall_back(&mut self) {
        self.first.kill();
        let _ = self.first.child.wait().await;
        self.is(0, "lost").await;
        self.is(1, "used").await;
    }

    /// Has the preferred one used again.
    async fn go_back(&mut self) {
        self.first.respawn();
        self.first.ready().await;
        self.is(0, "used").await;
    }

    /// Holds three requests at the second, each until its last octet is sent, and has the first used again.
    async fn back_again(&mut self) -> Vec<Raw> {
        self.fall_back().await;
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut raw = Raw::connect(self.edge.http).await.unwrap();
            raw.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nConnection: close\r\n\r\n1").await;
            held.push(raw);
        }
        support::eventually("the second hears of them", SETTLED, || async {
            (carried(&self.second, "stand-edge").await["in_service"] == 3).then_some(())
        })
        .await;
        self.go_back().await;
        support::eventually("nothing of it is there", SETTLED, || async {
            let load = carried(&self.second, "stand-edge").await;
            (load["in_service"] == 0 && load["queued"] == 0).then_some(())
        })
        .await;
        held
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_stands_by_again_holds_no_load_and_waits_for_what_is_in_flight() {
    let _beside = beside().await;
    let mut pair = Pair::start().await;
    let held = pair.back_again().await;
    // Once more, with nothing new at the second: what was in flight there is in flight still.
    pair.fall_back().await;
    pair.go_back().await;
    let second = &pair.second;
    let before = second.ready_instances("web").await[0]["id"].as_str().unwrap().to_owned();
    let watched = async {
        support::eventually("it says that it uses it", SETTLED, || async {
            (subscriber(second, "stand-edge", "following").await["uses"] == 1).then_some(())
        })
        .await;
        assert!(second.instances().await.iter().any(|one| one["id"] == *before && one["state"] == "draining"));
        for mut raw in held {
            raw.send("2").await;
            let answer = raw.try_answer(false).await.unwrap();
            assert!(answer.status == 200 && answer.text().contains(&before), "{answer:?}");
        }
    };
    tokio::join!(deploy(second, 1), watched);
    support::eventually("nothing is in flight there", SETTLED, || async {
        (subscriber(second, "stand-edge", "following").await["uses"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_vanishes_holds_no_replica_and_a_report_counts_once() {
    let scale = "min = 1\nmax = 4\npolicy = \"concurrency\"\ntarget = 1\n\
        stabilization_window = \"1s\"\nmax_stabilization_window = \"1s\"\n";
    let origin = Weir::start("gone-origin", &scaled(1, scale)).await;
    origin.settled("web", 1, SETTLED).await;
    let edge = follows("gone-edge", &origin).await;
    has(&edge, 1).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(edge.http).await.unwrap();
        raw.send("GET /delay/120000 HTTP/1.1\r\nHost: web\r\n\r\n").await;
        held.push(raw);
    }
    wants(&origin, "a replica for each that is held", |replicas| replicas == 3).await;
    let serving = edge.serving();
    kill(serving, "STOP").await;
    subscriber(&origin, "gone-edge", "silent").await;
    wants(&origin, "one replica: nobody speaks for the rest", |replicas| replicas == 1).await;
    kill(serving, "CONT").await;
    drop(held);
    // By hand: the same report twice, and an older one.
    let stream = subscription(&origin, "hand", "s1").await;
    let say = |number: u64, ended: u64| {
        let origin = &origin;
        async move {
            let load = json!({
                "service": "web", "ended": ended, "served": ended, "service_us": 0, "service_us2": 0, "late": 0,
                "streams": 0, "in_service": 0, "queued": 0, "streams_open": 0, "named_ms": 0,
            });
            let generation = table(origin).await["generation"].clone();
            let body = json!({
                "name": "hand", "session": "s1", "generation": generation, "load": {"number": number, "services": [load]},
            });
            let (status, _) = origin.api("POST", "/v1/table/acknowledge", Some(body)).await;
            assert_eq!(status, 204);
            carried(origin, "hand").await["requests"].as_u64().unwrap()
        }
    };
    assert_eq!(say(1, 100).await, 100);
    assert_eq!(say(1, 100).await, 100);
    assert_eq!(say(2, 150).await, 150);
    assert_eq!(say(1, 100).await, 150);
    assert_eq!(say(3, 151).await, 151);
    drop(stream);
}
