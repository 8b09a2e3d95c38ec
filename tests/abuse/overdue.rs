//! The time of a whole request (threat row 22): however steadily something moves, and wherever it waits, it ends.

use crate::support::backend::{Backend, Step, answering, send, silent};
use crate::support::http::{Broken, Raw};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT: Duration = Duration::from_millis(400);
const LIMIT: Duration = Duration::from_secs(10);

fn hurried(backend: &Backend) -> Setup {
    Setup::new(&[backend.address]).with(|s| s.spec.timeouts.request = Some(SHORT))
}

fn refused(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn an_answer_that_drips_for_ever_is_cut_and_looks_cut() {
    let forms = ["Content-Length: 100000", "Transfer-Encoding: chunked", "Connection: close"];
    for form in forms {
        let piece: &[u8] = if form.starts_with('T') { b"1\r\nx\r\n" } else { b"x" };
        let dripping = Step::SendSlowly(piece.repeat(10_000), Duration::from_millis(20));
        let head = send(&format!("HTTP/1.1 200 OK\r\n{form}\r\n\r\n"));
        let backend = Backend::start(vec![Step::ReadHead, head, dripping]).await;
        let proxy = hurried(&backend).start();
        let begun = Instant::now();
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(GET).await;
        let end = within("the cut", LIMIT, raw.try_answer(false)).await;
        assert!(matches!(end, Err(Broken::InsideAnswer(..))), "{form}: {end:?}");
        assert!(begun.elapsed() >= SHORT, "{form}: {:?}", begun.elapsed());
        eventually("the end of the request", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
        assert_eq!((refused(&proxy, "request_timeout"), proxy.metric("weir_ejections_total{service=\"web\"}")), (1, 0));
    }
}

#[tokio::test]
async fn what_was_not_answered_in_its_time_is_a_504_and_is_not_tried_again() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address, backend.address])
        .with(|s| (s.spec.timeouts.request, s.spec.retries) = (Some(SHORT), 3))
        .start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let begun = Instant::now();
    let answer = within("the refusal", LIMIT, raw.exchange(GET)).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (504, Some("request_timeout")));
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    assert_eq!(backend.connections(), 1);
    // The connection serves on, with a time of its own for each request.
    let answer = within("the refusal", LIMIT, raw.exchange(GET)).await;
    assert_eq!((answer.status, refused(&proxy, "request_timeout")), (504, 2));
}

#[tokio::test]
async fn a_body_that_comes_steadily_has_no_longer_than_the_rest() {
    let backend = Backend::start(silent()).await;
    let proxy = hurried(&backend).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    let begun = Instant::now();
    let answer = loop {
        match tokio::time::timeout(Duration::from_millis(20), raw.try_answer(false)).await {
            Ok(answer) => break answer.unwrap(),
            Err(_) => raw.send("x".repeat(100)).await,
        }
        assert!(begun.elapsed() < LIMIT);
    };
    assert_eq!((answer.status, answer.field("weir-reason")), (504, Some("request_timeout")));
    assert!(answer.closes(), "the rest of the body is no request");
}

#[tokio::test]
async fn waiting_for_a_free_endpoint_counts() {
    let backend = Backend::start(silent()).await;
    let proxy = hurried(&backend)
        .with(|s| {
            s.spec.limits.concurrency = Some(1);
            s.spec.limits.queue_timeout = LIMIT;
            s.spec.timeouts.request = Some(SHORT * 3);
        })
        .start();
    let mut first = Raw::connect(proxy.address).await.unwrap();
    first.send(GET).await;
    eventually("the first", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    let mut second = Raw::connect(proxy.address).await.unwrap();
    second.send(GET).await;
    eventually("the second", LIMIT, async || (proxy.waiting() == 1).then_some(())).await;
    let second = within("the second's answer", LIMIT, second.answer()).await;
    assert_eq!((second.status, second.field("weir-reason")), (504, Some("request_timeout")));
    assert_eq!(within("the first's answer", LIMIT, first.answer()).await.status, 504);
    assert_eq!((refused(&proxy, "request_timeout"), proxy.waiting(), proxy.in_flight()), (2, 0, 0));
}

#[tokio::test]
async fn what_ends_in_its_time_is_not_touched() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = hurried(&backend).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..3 {
        assert_eq!(raw.exchange(GET).await.text(), "fine");
        // A kept connection that idles has no request whose time could pass.
        tokio::time::sleep(SHORT).await;
    }
    assert_eq!(refused(&proxy, "request_timeout"), 0);
}
