//! The process that serves is killed, or the keeper, or both.

use crate::support::family::{self, children};
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::support::traffic::{Kind, Plan, Report, Traffic};
use crate::{Whoami, alone, loaded, support};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A service of one static endpoint.
pub(crate) fn services(endpoint: SocketAddr) -> String {
    format!(
        "[[route]]\nname = \"web\"\nservice = \"web\"\n\n[[service]]\nname = \"web\"\n\n\
         [[service.endpoint]]\naddress = \"{endpoint}\"\n"
    )
}

/// Waits until a process other than `old` serves and answers; returns it.
async fn replaced(weir: &Weir, old: u32) -> u32 {
    support::eventually("another process serves", LIMIT, || async {
        let serving = weir.serving();
        (serving != old && serving != 0 && answers(weir.http).await).then_some(serving)
    })
    .await
}

/// Returns whether a request gets a 200.
pub(crate) async fn answers(address: SocketAddr) -> bool {
    let Ok(mut raw) = Raw::connect(address).await else { return false };
    raw.try_send(ASK).await.is_some() && matches!(raw.try_answer(false).await, Ok(answer) if answer.status == 200)
}

/// How long it takes from now to the first answer of a connection that is made at once.
async fn first_answer(address: SocketAddr) -> Duration {
    let from = Instant::now();
    let mut last = String::new();
    while from.elapsed() < LIMIT {
        let mut raw = Raw::connect(address).await.expect("no connection is refused");
        let _ = raw.try_send(ASK).await;
        match raw.try_answer(false).await {
            Ok(answer) if answer.status == 200 => return from.elapsed(),
            other => last = format!("{other:?}"),
        }
    }
    panic!("no answer: {last}");
}

/// Asserts that no connection was refused and that nothing failed but what was under way, or came before the first check
/// of the endpoint.
fn none_refused(report: &Report, weir: &Weir) {
    assert_eq!(report.of(Kind::Refused), 0, "{:?}\n{}", report.failures, weir.log());
    let under_way = report.of(Kind::ResetBeforeAnswer) + report.of(Kind::ResetInsideAnswer);
    let unchecked = report.of(Kind::Status(503));
    assert_eq!(report.failed(), under_way + unchecked, "{:?}\n{}", report.failures, weir.log());
}

async fn crashes_refuse_nothing(kills: usize, rate: f64, bound: Duration) {
    let _alone = alone().await;
    let backend = Whoami::start().await;
    let weir = Weir::start("crash", &services(backend.address)).await;
    support::eventually("the endpoint is ready", LIMIT, || async { answers(weir.http).await.then_some(()) }).await;
    let traffic = Traffic::start(Plan { rate, ..Plan::new(weir.http) });
    let mut waits = Vec::new();
    let mut serving = weir.serving();
    for _ in 0..kills {
        // It has served for more than a second: it is started again at once.
        crate::passes(&traffic, (rate * 1.3) as u64).await;
        family::send(serving, "KILL");
        waits.push(first_answer(weir.http).await);
        serving = replaced(&weir, serving).await;
    }
    crate::passes(&traffic, 100).await;
    let report = traffic.stop().await;
    waits.sort_unstable();
    println!("{kills} kills: {}", report.line());
    println!(
        "{kills} kills: {} connections refused; first answer after a kill: median {:.0} ms, max {:.0} ms",
        report.of(Kind::Refused),
        support::quantile(&waits, 0.5).as_secs_f64() * 1e3,
        support::quantile(&waits, 1.0).as_secs_f64() * 1e3,
    );
    none_refused(&report, &weir);
    assert!(waits.iter().all(|wait| *wait <= bound), "{waits:?} are not all below {bound:?}\n{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_refuses_no_connection() {
    crashes_refuse_nothing(3, 200.0, Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 kills at 2,000 requests a second; run by tests/run --long"]
async fn twenty_crashes_refuse_no_connection() {
    crashes_refuse_nothing(20, 2_000.0, Duration::from_millis(150)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_keeper_a_process_serves_on_and_ends_when_asked() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let mut weir = Weir::start("orphan", &services(backend.address)).await;
    support::eventually("the endpoint is ready", LIMIT, || async { answers(weir.http).await.then_some(()) }).await;
    let serving = weir.serving();
    let traffic = Traffic::start(Plan { rate: 200.0, keepalive: 8, fresh: 4, ..Plan::new(weir.http) });
    crate::passes(&traffic, 50).await;
    family::send(weir.pid(), "KILL");
    weir.child.wait().await.unwrap();
    crate::passes(&traffic, 200).await;
    support::eventually("it is said once", LIMIT, || async {
        (weir.log().matches("the keeper has died").count() == 1).then_some(())
    })
    .await;
    let report = traffic.stop().await;
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    family::send(serving, "TERM");
    let socket = weir.folder.0.join("state/weir.sock");
    support::eventually("it ends and takes its socket with it", LIMIT, || async {
        (Raw::connect(weir.http).await.is_err() && !socket.exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_both_were_killed_another_takes_over() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let mut weir = Weir::start("both", &services(backend.address)).await;
    weir.kill();
    weir.child.wait().await.unwrap();
    support::eventually("nobody listens", LIMIT, || async { Raw::connect(weir.http).await.is_err().then_some(()) })
        .await;
    weir.respawn();
    weir.ready().await;
    support::eventually("it serves", LIMIT, || async { answers(weir.http).await.then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_as_one_whoever_is_asked_and_two_signals_at_once_are_one() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    for how in ["serving", "group", "timeout"] {
        let mut weir = Weir::start("ends", &services(backend.address)).await;
        support::eventually("the endpoint is ready", LIMIT, || async { answers(weir.http).await.then_some(()) }).await;
        let mut busy = Raw::connect(weir.http).await.unwrap();
        busy.send("GET /delay/5000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        support::eventually("the request is in flight", LIMIT, || async {
            let (_, endpoints) = weir.api("GET", "/v1/endpoints", None).await;
            (endpoints["endpoints"][0]["in_flight"] == 1).then_some(())
        })
        .await;
        let both = [weir.serving(), weir.pid()];
        match how {
            "serving" => family::send(both[0], "INT"),
            // As from a terminal: the whole group gets it.
            "group" => both.iter().for_each(|pid| family::send(*pid, "INT")),
            // As by `timeout`: its child, then the group that this is in. Two of one kind might come as one.
            _ => {
                let [serving, keeper] = both;
                let script = format!("kill -TERM {keeper}; kill -INT {serving} {keeper}; kill -TERM {serving}");
                assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
            }
        }
        let answer = busy.answer().await;
        assert_eq!((answer.status, answer.closes()), (200, true), "{how}: it was a drain\n{}", weir.log());
        let status = support::within("weir ends", LIMIT, weir.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", weir.log());
        assert!(!weir.folder.0.join("state/weir.sock").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keeper_reaps_what_others_left() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let service = "[[service]]\nname = \"forks\"\nreplicas = 1\n[service.run]\n\
                   command = [\"/bin/sh\", \"-c\", \"(sleep 5 &) ; exec sleep 60\"]\n";
    let weir = Weir::start("reaps", &(services(backend.address) + service)).await;
    let keeper = weir.pid();
    support::eventually("an orphan came to the keeper", LIMIT, || async { (children(keeper).len() > 1).then_some(()) })
        .await;
    support::eventually("it was reaped", LIMIT, || async { (children(keeper).len() == 1).then_some(()) }).await;
}
