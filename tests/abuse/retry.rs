//! What is tried again and where: details 6-8, RFC 9110 §9.2.2, RFC 9112 §9.3.1.

use crate::support::backend::{self, Backend, Script, Step, answering, send};
use crate::support::eventually;
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
const LIMIT: Duration = Duration::from_secs(10);

/// Reads a request of `POST` or `GET`'s size and resets.
fn resetting() -> Script {
    backend::resetting_before_answer()
}

fn requests(backend: &Backend, method: &str) -> usize {
    backend.received_text().matches(&format!("{method} / HTTP/1.1\r\n")).count()
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_for_every_method() {
    let good =
        Backend::start(vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"), Step::Close])
            .await;
    let proxy = Proxy::over(&[Backend::refusing(), good.address]);
    for n in 0..6 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let request = if n % 2 == 0 { GET } else { "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" };
        assert_eq!(raw.exchange(request).await.text(), "fine", "request {n}");
    }
    assert_eq!((requests(&good, "GET"), requests(&good, "POST")), (3, 3));
    assert!(proxy.metric("weir_retries_total{outcome=\"allowed\",service=\"web\"}") >= 2);
}

#[tokio::test]
async fn nobody_listening_is_a_502() {
    let proxy = Proxy::over(&[Backend::refusing(), Backend::refusing()]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (502, Some("connect_failed")));
    let one = Proxy::over(&[Backend::refusing()]);
    let mut raw = Raw::connect(one.address).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (502, Some("connect_failed")));
}

#[tokio::test]
async fn a_reset_get_is_tried_elsewhere_and_a_post_is_not_rfc9110_9_2_2() {
    let (bad, good) = (Backend::start(resetting()).await, Backend::start(answering("fine")).await);
    let proxy = Proxy::over(&[bad.address, good.address]);
    let (mut failed, mut sent) = (0, 0);
    while failed < 3 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
        // A GET that moved on makes the turns uneven: a POST meets each endpoint in the end.
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange(POST).await;
        sent += 1;
        match answer.status {
            200 => {}
            502 => {
                assert_eq!(answer.field("weir-reason"), Some("upstream_reset"));
                failed += 1;
            }
            other => panic!("{other}"),
        }
        assert!(sent < 50);
    }
    assert_eq!(requests(&bad, "POST") + requests(&good, "POST"), sent, "each POST was executed once");
    assert_eq!(requests(&bad, "POST"), failed);
}

#[tokio::test]
async fn a_gateway_error_of_one_endpoint_is_tried_elsewhere() {
    let (bad, good) = (Backend::start(backend::status(503)).await, Backend::start(answering("fine")).await);
    let proxy = Proxy::over(&[bad.address, good.address]);
    for _ in 0..6 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
    }
    assert!(requests(&bad, "GET") > 0);
}

#[tokio::test]
async fn the_last_endpoint_s_own_gateway_error_is_relayed() {
    let own = vec![Step::ReadHead, send("HTTP/1.1 503 Down\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nown"), Step::Repeat];
    let (a, b) = (Backend::start(own.clone()).await, Backend::start(own).await);
    for endpoints in [vec![a.address], vec![a.address, b.address]] {
        let proxy = Proxy::over(&endpoints);
        for request in [GET, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"] {
            let mut raw = Raw::connect(proxy.address).await.unwrap();
            let answer = raw.exchange(request).await;
            assert_eq!((answer.status, answer.field("x-own"), answer.text().as_str()), (503, Some("1"), "own"));
            assert_eq!(answer.field("weir-reason"), None);
        }
    }
}

/// Two endpoints of which one is ejected: the other's error is told, not that none is left.
#[tokio::test]
async fn the_reason_told_is_that_of_the_last_attempt() {
    let (reset, refused) = (Backend::start(resetting()).await, Backend::refusing());
    let proxy = Setup::new(&[reset.address, refused])
        .with(|s| {
            s.spec.outliers.enabled = true;
            s.spec.retries = 3;
        })
        .start();
    for _ in 0..4 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange(GET).await;
        assert_eq!(answer.status, 502);
        assert!(matches!(answer.field("weir-reason"), Some("upstream_reset" | "connect_failed")), "{}", answer.head);
    }
}

/// The endpoint closes a kept connection just as a request arrives on it (RFC 9112 §9.3.1).
#[tokio::test]
async fn a_stale_connection_to_the_only_endpoint_is_replaced_rfc9112_9_3_1() {
    let closing_on_second =
        vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"), Step::ReadHead, Step::Close];
    let backend = Backend::start(closing_on_second).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..4 {
        assert_eq!(raw.exchange(GET).await.text(), "fine");
    }
    // But a request that may have been executed is never sent again.
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let answer = raw.exchange(post).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (502, Some("upstream_reset")));
    assert_eq!(requests(&backend, "POST"), 1);
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closed_is_not_used() {
    let script = vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"),
        Step::Wait(Duration::from_millis(20)),
        Step::Close,
    ];
    let backend = Backend::start(script).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.spec.retries = 0).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for n in 1..=3 {
        assert_eq!(raw.exchange(POST).await.text(), "fine");
        assert_eq!(backend.connections(), n);
        eventually("the endpoint's close", LIMIT, async || (backend.ended() == n).then_some(())).await;
        // It arrives meanwhile; there is nothing to observe that by from outside.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_post_rides_no_connection_that_idled_over_a_second() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(raw.exchange(post).await.status, 200);
    assert_eq!(raw.exchange(post).await.status, 200);
    assert_eq!(backend.connections(), 1);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    assert_eq!(raw.exchange(post).await.status, 200);
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn keep_alive_of_the_endpoint_is_honoured_rfc9112_9_3() {
    let script = vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=5\r\nContent-Length: 4\r\n\r\nfine"),
        Step::Repeat,
    ];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(GET).await.status, 200);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(raw.exchange(GET).await.status, 200);
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn a_body_up_to_64_kib_is_sent_again_and_a_larger_one_is_not() {
    for (size, status) in [(60 * 1024, 200), (300 * 1024, 502)] {
        let script = |end: Step| vec![Step::ReadHead, Step::ReadBody(size), end, Step::Repeat];
        let bad = Backend::start(script(Step::Reset)).await;
        let good = Backend::start(script(send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))).await;
        let proxy = Proxy::over(&[bad.address, good.address]);
        let body: Vec<u8> = (0..size).map(|i: usize| (i % 251) as u8).collect();
        let mut worst = 200;
        // Round robin: one of two requests starts at the bad endpoint.
        for _ in 0..2 {
            let mut raw = Raw::connect(proxy.address).await.unwrap();
            raw.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")).await;
            raw.send(&body).await;
            worst = worst.max(raw.answer().await.status);
        }
        assert_eq!(worst, status, "{size} octets");
        assert!(good.received(0).windows(size).any(|window| window == body), "{size} octets");
    }
}

#[tokio::test]
async fn a_failing_endpoint_is_ejected_and_returns() {
    let (bad, good) = (Backend::start(resetting()).await, Backend::start(answering("fine")).await);
    let proxy = Setup::new(&[bad.address, good.address])
        .with(|s| {
            s.spec.outliers.enabled = true;
            s.spec.outliers.base = Duration::from_secs(3);
        })
        .start();
    for _ in 0..20 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
    }
    assert_eq!((bad.connections(), proxy.metric("weir_ejections_total{service=\"web\"}")), (1, 1));
    eventually("a try after the ejection", LIMIT, async || {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
        (bad.connections() == 2).then_some(())
    })
    .await;
}

/// Peers count no truncation; details 6 does.
#[tokio::test]
async fn a_truncated_answer_ejects_its_endpoint_and_503_does_after_three() {
    let (bad, good) = (Backend::start(backend::truncating()).await, Backend::start(answering("fine")).await);
    let proxy = Setup::new(&[bad.address, good.address]).with(|s| s.spec.outliers.enabled = true).start();
    let mut failed = 0;
    for _ in 0..20 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(GET).await;
        failed += usize::from(raw.try_answer(false).await.is_err());
    }
    assert_eq!((failed, bad.connections()), (1, 1));
    let (bad, good) = (Backend::start(backend::status(503)).await, Backend::start(answering("fine")).await);
    let proxy = Setup::new(&[bad.address, good.address]).with(|s| s.spec.outliers.enabled = true).start();
    for _ in 0..20 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
    }
    assert_eq!(requests(&bad, "GET"), 3);
}

#[tokio::test]
async fn retries_stay_within_their_budget_threat_row_50() {
    let bad = Backend::start(resetting()).await;
    let also_bad = Backend::start(resetting()).await;
    let proxy = Proxy::over(&[bad.address, also_bad.address]);
    let begun = Instant::now();
    for _ in 0..100 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.status, 502);
    }
    let retries = proxy.metric("weir_retries_total{outcome=\"allowed\",service=\"web\"}");
    let earned = 10.0 + 100.0 * 0.2 + begun.elapsed().as_secs_f64() * 10.0;
    assert!(retries >= 20 && retries as f64 <= earned + 1.0, "{retries} of {earned}");
    assert_eq!(retries as usize + 100, bad.connections() + also_bad.connections());
    assert_eq!(proxy.metric("weir_retries_total{outcome=\"refused\",service=\"web\"}"), 100 - retries);
}

/// Without a budget nothing is tried again, so the endpoint's own answer is the answer.
#[tokio::test]
async fn a_gateway_error_is_relayed_when_the_budget_is_spent() {
    let own = vec![Step::ReadHead, send("HTTP/1.1 503 Down\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\nown"), Step::Repeat];
    let (a, b) = (Backend::start(own.clone()).await, Backend::start(own).await);
    let proxy = Proxy::over(&[a.address, b.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for n in 0..100 {
        let answer = raw.exchange(GET).await;
        assert_eq!((answer.status, answer.field("x-own")), (503, Some("1")), "request {n}: {}", answer.head);
    }
    assert!(proxy.metric("weir_retries_total{outcome=\"refused\",service=\"web\"}") > 0);
}
