//! The counting client on containers: no request fails but those whose answer had begun at a replica that was killed.

use crate::engine::Engine;
use crate::support;
use crate::support::process::Weir;
use crate::support::traffic::{Kind, Plan, Report, Traffic};
use crate::world::{SETTLED, containers, preface, service, start};
use std::time::Duration;

/// How much is done.
#[derive(Clone, Copy)]
struct Scale {
    /// How often each thing happens.
    events: usize,
    /// Quick GETs a second.
    rate: f64,
}

const SHORT: Scale = Scale { events: 1, rate: 200.0 };
const FULL: Scale = Scale { events: 10, rate: 1_000.0 };

struct World {
    weir: Weir,
    quick: Traffic,
    slow: Traffic,
}

impl World {
    async fn start(engine: &Engine, name: &str, scale: Scale) -> Self {
        let weir = start(engine, name, 3).await;
        let quick = Traffic::start(Plan { rate: scale.rate, ..Plan::new(weir.http) });
        // Keeps requests in flight at each replica.
        let slow = Plan {
            rate: 40.0,
            keepalive: 20,
            fresh: 0,
            path: "/delay/250".to_owned(),
            first_tag: 1 << 41,
            ..Plan::new(weir.http)
        };
        let slow = Traffic::start(slow);
        let world = Self { weir, quick, slow };
        world.passes(100).await;
        world
    }

    async fn passes(&self, more: u64) {
        let wanted = self.quick.passed() + more;
        support::eventually("GETs pass", Duration::from_secs(600), || async {
            (self.quick.passed() >= wanted).then_some(())
        })
        .await;
    }

    async fn victim(&self) -> String {
        let ready = self.weir.ready_instances("web").await;
        let busiest = ready.into_iter().max_by_key(|one| one["in_flight"].as_u64()).unwrap();
        busiest["id"].as_str().unwrap().to_owned()
    }

    async fn stop(self, what: &str) -> (Report, Report, Weir) {
        let (quick, slow) = (self.quick.stop().await, self.slow.stop().await);
        for (kind, report) in [("GET", &quick), ("slow GET", &slow)] {
            println!("containers: {what}: {kind}: {}", report.line());
            for failure in report.failures.iter().take(10) {
                println!(
                    "  {:?} t{} at {:.3} s: {}",
                    failure.kind,
                    failure.tag,
                    failure.at.as_secs_f64(),
                    failure.detail
                );
            }
        }
        (quick, slow, self.weir)
    }
}

fn only(allowed: &[Kind], report: &Report, weir: &Weir) {
    let failed: u64 = report.failed.iter().filter(|(kind, _)| !allowed.contains(kind)).map(|(_, count)| count).sum();
    assert_eq!(failed, 0, "{:?}\n{}", report.failures, weir.log());
}

async fn hands_on_containers(scale: Scale) {
    let engine = Engine::start();
    let world = World::start(&engine, "hands", scale).await;
    for _ in 0..scale.events {
        for words in [&["kill"][..], &["restart"]] {
            let victim = world.victim().await;
            let _ = engine.try_docker(&[words, &[&victim]].concat());
            world.weir.settled_without(&victim, "web", 3, SETTLED).await;
            world.passes(100).await;
        }
    }
    let (quick, slow, weir) = world.stop(&format!("{} times docker kill and docker restart", scale.events)).await;
    only(&[Kind::ResetInsideAnswer], &quick, &weir);
    only(&[Kind::ResetInsideAnswer], &slow, &weir);
}

async fn scaling_and_draining(scale: Scale) {
    let engine = Engine::start();
    let world = World::start(&engine, "scaling", scale).await;
    for _ in 0..scale.events {
        for replicas in [5, 2, 3] {
            assert_eq!(world.weir.cli(&["scale", "web", &replicas.to_string()]).await.code, 0);
            world.weir.settled("web", replicas, SETTLED).await;
        }
        let victim = world.victim().await;
        assert_eq!(world.weir.cli(&["drain", &victim]).await.code, 0);
        world.weir.settled_without(&victim, "web", 3, SETTLED).await;
        world.passes(100).await;
    }
    let (quick, slow, weir) = world.stop(&format!("{} times scale 5, 2, 3 and drain", scale.events)).await;
    only(&[], &quick, &weir);
    only(&[], &slow, &weir);
}

/// Good deploys replace every container; bad ones never get healthy, are rolled back and leave what worked alone.
async fn deploys(scale: Scale, good: usize, bad: usize) {
    let engine = Engine::start();
    engine.import("deaf:1", &["ENTRYPOINT [\"/tool\"]", "CMD [\"deaf\"]"]);
    let world = World::start(&engine, "deploys", scale).await;
    let deploy = async |arguments: &[&str]| {
        world.weir.cli(&[&["deploy", "web", "--wait", "--timeout", "3m"], arguments].concat()).await
    };
    for release in 1..=good {
        let before = containers(&world.weir.settled("web", 3, SETTLED).await);
        let finished = deploy(&["--env", &format!("RELEASE={release}")]).await;
        assert_eq!(finished.code, 0, "{finished:?}\n{}", world.weir.log());
        let after = containers(&world.weir.settled("web", 3, SETTLED).await);
        assert!(before.iter().all(|id| !after.contains(id)), "all were replaced");
        world.passes(100).await;
    }
    for attempt in 1..=bad {
        let before = containers(&world.weir.settled("web", 3, SETTLED).await);
        let finished = deploy(&["--image", "deaf:1", "--env", &format!("BAD={attempt}")]).await;
        assert_eq!(finished.code, 7, "{finished:?}\n{}", world.weir.log());
        assert!(finished.err.contains("never got healthy"), "{finished:?}");
        let after = containers(&world.weir.settled("web", 3, SETTLED).await);
        assert_eq!(before, after, "what worked was not touched");
        world.passes(100).await;
    }
    let (quick, slow, weir) = world.stop(&format!("{good} good and {bad} bad deploys")).await;
    only(&[], &quick, &weir);
    only(&[], &slow, &weir);
}

async fn live_restore(scale: Scale) {
    let mut engine = Engine::with(true);
    let world = World::start(&engine, "restored", scale).await;
    let before = containers(&world.weir.ready_instances("web").await);
    for _ in 0..scale.events {
        engine.down();
        world.passes(100).await;
        engine.up();
        world.passes(100).await;
    }
    assert_eq!(containers(&world.weir.ready_instances("web").await), before, "kept");
    let (quick, slow, weir) = world.stop(&format!("{} restarts of dockerd, live restore on", scale.events)).await;
    only(&[], &quick, &weir);
    only(&[], &slow, &weir);
}

/// Every container ends with the engine. Requests wait in the service's queue until the new ones serve: late, but answered.
async fn live_restore_off(scale: Scale) {
    let mut engine = Engine::start();
    let patient = "[service.limits]\nqueue = 1000\nqueue_timeout = \"60s\"";
    let text = format!("{}{}{patient}\n", preface(&engine), service("web", 3, ""));
    let weir = Weir::start("unrestored", &text).await;
    weir.settled("web", 3, SETTLED).await;
    let quick = Traffic::start(Plan { rate: scale.rate, ..Plan::new(weir.http) });
    let passes = async |more: u64| {
        let wanted = quick.passed() + more;
        support::eventually("GETs pass", Duration::from_secs(120), || async {
            (quick.passed() >= wanted).then_some(())
        })
        .await;
    };
    passes(100).await;
    for _ in 0..scale.events {
        engine.down();
        engine.up();
        weir.settled("web", 3, SETTLED).await;
        passes(100).await;
    }
    let report = quick.stop().await;
    println!("containers: {} restarts of dockerd, live restore off: GET: {}", scale.events, report.line());
    only(&[Kind::Late, Kind::ResetInsideAnswer], &report, &weir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_killed_and_restarted_by_hand_fail_no_request() {
    hands_on_containers(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_and_draining_containers_fails_no_request() {
    scaling_and_draining(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_an_engine_that_restores_fails_no_request() {
    live_restore(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_an_engine_that_ends_every_container_delays_requests_and_fails_none() {
    live_restore_off(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 5 restarts of an engine that ends every container; run by tests/run --long"]
async fn five_restarts_of_an_engine_that_ends_every_container_fail_no_request() {
    live_restore_off(Scale { events: 5, ..SHORT }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_of_containers_good_and_bad_fail_no_request() {
    deploys(SHORT, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 good and 10 bad deploys of containers; run by tests/run --long"]
async fn twenty_good_and_ten_bad_deploys_of_containers_fail_no_request() {
    deploys(FULL, 20, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10 times docker kill and docker restart; run by tests/run --long"]
async fn ten_containers_killed_and_restarted_by_hand_fail_no_request() {
    hands_on_containers(FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10 times scale and drain on containers; run by tests/run --long"]
async fn ten_scalings_and_drains_of_containers_fail_no_request() {
    scaling_and_draining(FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10 restarts of an engine that restores; run by tests/run --long"]
async fn ten_restarts_of_an_engine_that_restores_fail_no_request() {
    live_restore(FULL).await;
}
