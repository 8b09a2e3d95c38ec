#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
//! The tests' own client is tested: it must see each kind of failure, or a promise of zero failures means nothing.

#[path = "support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;
use support::backend::{self, Backend, Script, Step, send};
use support::http::Raw;
use support::traffic::{Kind, LATE, Plan, Report, Traffic};

/// A little traffic over one kept and one fresh connection.
async fn report(target: SocketAddr) -> Report {
    let traffic = Traffic::start(Plan { rate: 100.0, keepalive: 1, fresh: 1, ..Plan::new(target) });
    support::eventually("ten requests", Duration::from_secs(20), || async {
        (traffic.report().requests >= 10).then_some(())
    })
    .await;
    traffic.stop().await
}

/// The only kind of failure that traffic to a backend of this script sees, and no request passes.
async fn only_failure(script: Script) -> Kind {
    let backend = Backend::start(script).await;
    let report = report(backend.address).await;
    assert_eq!((report.passed, report.failed.len()), (0, 1), "{report:?}");
    assert_eq!(report.failed(), report.requests, "{report:?}");
    *report.failed.keys().next().unwrap()
}

#[tokio::test]
async fn each_kind_of_failure_is_told_apart() {
    let refused = report(Backend::refusing()).await;
    assert_eq!(refused.of(Kind::Refused), refused.requests);
    assert_eq!(only_failure(backend::resetting_before_answer()).await, Kind::ResetBeforeAnswer);
    assert_eq!(only_failure(backend::closing_before_answer()).await, Kind::ResetBeforeAnswer);
    assert_eq!(only_failure(backend::resetting_inside_head()).await, Kind::ResetInsideAnswer);
    assert_eq!(only_failure(backend::truncating()).await, Kind::ResetInsideAnswer);
    assert_eq!(only_failure(backend::truncating_chunks()).await, Kind::ResetInsideAnswer);
    assert_eq!(only_failure(backend::status(503)).await, Kind::Status(503));
    assert_eq!(only_failure(backend::answering("no tag")).await, Kind::WrongTag);
    assert_eq!(only_failure(backend::junk()).await, Kind::Malformed);
}

#[tokio::test]
async fn an_answer_to_another_request_is_seen() {
    // Always the first request's tag: right once on the kept connection, wrong afterwards.
    let answer = "HTTP/1.1 200 OK\r\nX-Request-Tag: t0\r\nX-Instance: a\r\nContent-Length: 0\r\n\r\n";
    let backend = Backend::start(vec![Step::ReadHead, send(answer), Step::Repeat]).await;
    let report = report(backend.address).await;
    assert_eq!(report.passed, 1, "{report:?}");
    assert_eq!(report.of(Kind::WrongTag), report.requests - 1, "{report:?}");
    assert_eq!(report.instances.get("a"), Some(&1));
}

#[tokio::test]
async fn a_right_answer_that_comes_late_is_a_failure() {
    let answer = "HTTP/1.1 200 OK\r\nX-Request-Tag: t0\r\nContent-Length: 0\r\n\r\n";
    let slow = vec![Step::ReadHead, Step::Wait(LATE + Duration::from_millis(50)), send(answer), Step::Hold];
    let backend = Backend::start(slow).await;
    let plan = Plan { rate: 1.0, keepalive: 1, fresh: 0, ..Plan::new(backend.address) };
    let traffic = Traffic::start(plan);
    support::eventually("a late answer", Duration::from_secs(20), || async {
        (traffic.report().of(Kind::Late) == 1).then_some(())
    })
    .await;
    assert_eq!(traffic.passed(), 0);
}

#[tokio::test]
async fn the_raw_client_reads_each_framing() {
    let chunked = Backend::start(backend::chunked()).await;
    let mut raw = Raw::connect(chunked.address).await.unwrap();
    for _ in 0..2 {
        let answer = raw.exchange("GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("hello, world", "X-Sum: 12\r\n"));
    }
    assert_eq!(chunked.connections(), 1);
    assert_eq!(chunked.received_text(), "GET / HTTP/1.1\r\n\r\n".repeat(2));

    let continuing = Backend::start(backend::continuing(4)).await;
    let mut raw = Raw::connect(continuing.address).await.unwrap();
    assert_eq!(raw.exchange("POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n").await.status, 100);
    assert_eq!(raw.exchange("body").await.text(), "ok");

    let until_close = Backend::start(vec![Step::ReadHead, send("HTTP/1.0 200 OK\r\n\r\nall of it"), Step::Close]).await;
    let mut raw = Raw::connect(until_close.address).await.unwrap();
    assert_eq!(raw.exchange("GET / HTTP/1.0\r\n\r\n").await.text(), "all of it");
    assert!(raw.rest().await.is_empty());
}
