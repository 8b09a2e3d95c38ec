//! RFC 9110, HTTP semantics: answers without a body, interim answers, expectations, what a gateway adds.

use crate::support::backend::{self, Backend, Script, Step, answering, send};
use crate::support::eventually;
use crate::support::http::{Answer, Raw};
use crate::support::proxy::{Proxy, Setup};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// Answers with this text and goes on.
fn saying(text: &str) -> Script {
    vec![Step::ReadHead, send(text), Step::Repeat]
}

/// Sends a request to an endpoint of this script; then sees that the connection goes on in step.
async fn exchange(script: Script, request: &str) -> Answer {
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let no_body = request.starts_with("HEAD");
    let mut last = None;
    for _ in 0..2 {
        raw.send(request).await;
        last = Some(raw.try_answer(no_body).await.unwrap());
    }
    assert_eq!(backend.connections(), 1, "both connections stay");
    last.unwrap()
}

#[tokio::test]
async fn section_9_3_2_head_has_the_fields_and_no_body() {
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let known = exchange(saying("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"), head).await;
    assert_eq!((known.status, known.field("content-length")), (200, Some("1000")));
    let chunked = exchange(saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), head).await;
    assert_eq!((chunked.status, chunked.field("transfer-encoding")), (200, Some("chunked")));
    let neither = exchange(saying("HTTP/1.1 200 OK\r\nX: y\r\n\r\n"), head).await;
    assert_eq!((neither.status, neither.field("x")), (200, Some("y")));
}

#[tokio::test]
async fn section_15_3_5_and_15_4_5_answers_without_a_body() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(exchange(saying("HTTP/1.1 204 No Content\r\n\r\n"), get).await.status, 204);
    let unchanged =
        exchange(saying("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1000\r\n\r\n"), get).await;
    assert_eq!(
        (unchanged.status, unchanged.field("etag"), unchanged.field("content-length")),
        (304, Some("\"a\""), Some("1000"))
    );
    let empty = exchange(saying("HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"), get).await;
    assert_eq!((empty.status, empty.field("content-length")), (205, Some("0")));
}

#[tokio::test]
async fn section_8_6_no_length_in_a_204_or_an_interim_answer() {
    let text =
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";
    let backend = Backend::start(saying(text)).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for status in [103, 204] {
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.field("content-length")), (status, None));
    }
}

#[tokio::test]
async fn section_15_2_interim_answers_are_relayed_but_not_to_http_1_0() {
    let script = saying(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
    );
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 102);
    let hint = raw.answer().await;
    assert_eq!((hint.status, hint.field("link")), (103, Some("</a>")));
    assert_eq!(raw.answer().await.text(), "fine");
    raw.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.text(), "fine");
}

#[tokio::test]
async fn section_10_1_1_the_body_waits_for_100_continue() {
    let backend = Backend::start(backend::continuing(5)).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for value in ["100-continue", "100-Continue"] {
        raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {value}\r\nContent-Length: 5\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, 100);
        let answer = raw.exchange("hello").await;
        assert_eq!((answer.status, answer.text().as_str(), answer.closes()), (200, "ok", false));
    }
    assert_eq!(backend.connections(), 1);
    assert!(backend.received_text().contains("Expect: 100-continue\r\n"));
}

#[tokio::test]
async fn section_10_1_1_a_client_need_not_wait_for_the_100() {
    let backend = Backend::start(backend::continuing(5)).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(raw.answer().await.status, 100);
    assert_eq!(raw.answer().await.text(), "ok");
}

/// The client may send its body all the same: the connection cannot be told apart from a request and ends.
#[tokio::test]
async fn section_10_1_1_a_final_answer_without_100_closes() {
    let backend = Backend::start(saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n").await;
    assert_eq!((answer.status, answer.text().as_str(), answer.closes()), (403, "no", true));
    raw.send("GET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(raw.rest().await.is_empty());
    assert!(!backend.received_text().contains("evil"));
    let mut other = Raw::connect(proxy.address).await.unwrap();
    other.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(backend.connections(), 2, "the endpoint may still wait for the body");
}

#[tokio::test]
async fn section_10_1_1_no_expectation_is_forwarded_without_a_body_or_from_http_1_0() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.0\r\nHost: a\r\nExpect: something\r\n\r\n",
    ] {
        let backend = Backend::start(answering("fine")).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(request).await.status, 200, "{request}");
        assert!(!backend.received_text().contains("Expect"), "{request}");
    }
}

#[tokio::test]
async fn section_10_1_1_an_endpoint_may_think_before_its_100() {
    let script = vec![
        Step::ReadHead,
        Step::Wait(Duration::from_millis(6000)),
        send("HTTP/1.1 100 Continue\r\n\r\n"),
        Step::ReadBody(5),
        send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 100);
    assert_eq!(raw.exchange("hello").await.text(), "ok");
}

#[tokio::test]
async fn section_9_1_methods_pass_as_they_are() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "get", "M-SEARCH"] {
        assert_eq!(raw.exchange(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await.text(), "fine", "{method}");
        assert!(backend.received_text().contains(&format!("{method} / HTTP/1.1\r\n")), "{method}");
    }
}

#[tokio::test]
async fn section_9_3_6_connect_is_refused_with_the_methods_that_are_not() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").await;
    assert_eq!((answer.status, answer.field("weir-reason")), (405, Some("connect")));
    assert!(answer.field("allow").is_some_and(|allow| allow.contains("GET") && !allow.contains("CONNECT")));
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn section_7_2_host_is_forwarded_as_written() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.host = Some("shop.example".into())).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange("GET / HTTP/1.1\r\nhOST:   Shop.Example:8080  \r\n\r\n").await.status, 200);
    assert_eq!(raw.exchange("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n").await.status, 404);
    assert!(backend.received_text().contains("\r\nHost: Shop.Example:8080\r\n"), "{}", backend.received_text());
}

#[tokio::test]
async fn section_15_own_answers_name_their_reason_and_keep_the_connection_where_it_is_in_step() {
    let proxy = Setup::new(&[]).with(|s| s.path = "/api".into()).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for (target, status, reason) in [("/", 404, "no_route"), ("/api", 503, "no_endpoint")] {
        let answer = raw.exchange(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!((answer.status, answer.field("weir-reason")), (status, Some(reason)));
        assert_eq!(answer.field("content-type"), Some("text/plain"));
        assert!(answer.text().ends_with('\n') && !answer.closes());
    }
    eventually("counters", LIMIT, async || {
        (proxy.metric("weir_refused_total{reason=\"no_route\"}") == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn section_6_6_1_own_answers_have_a_date() {
    let proxy = Proxy::over(&[]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let date = answer.field("date").expect("a date");
    assert!(date.len() == 29 && date.ends_with(" GMT") && date.as_bytes()[3] == b',', "{date}");
}
