//! HTTP/2 clients in front of HTTP/1.1 endpoints.

use crate::client::{Echo, call, collect, connect, get, upload};
use crate::support::backend::{self, Backend, answering, chunked, early_answer, silent, truncating};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use http::{HeaderMap, HeaderValue, Request};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_get_is_answered_as_over_http1() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let answer = call(&mut send, get("/path?q=1"), None, None).await.unwrap();
    assert_eq!((answer.status(), answer.text()), (200, "fine"));
    let seen = backend.received_text();
    assert!(seen.starts_with("GET /path?q=1 HTTP/1.1\r\nHost: a.test\r\n"), "{seen}");
    assert!(!seen.to_lowercase().contains("transfer-encoding"), "{seen}");
    // RFC 9110 §7.6.3: the version in which it was received.
    assert!(seen.contains("\r\nVia: 2 weir\r\n"), "{seen}");
}

#[tokio::test]
async fn streams_follow_each_other_and_run_beside_each_other_on_one_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let (send, _driver) = connect(proxy.address).await;
    for _ in 0..5 {
        let calls = (0..50).map(|i| {
            let mut send = send.clone();
            tokio::spawn(async move { call(&mut send, get(&format!("/{i}")), None, None).await.unwrap() })
        });
        for answer in calls.collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap().text(), "fine");
        }
    }
    assert_eq!(proxy.metric("weir_connections_total"), 1);
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[tokio::test]
async fn a_body_without_length_goes_on_in_chunks_with_its_trailers() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let request = Request::post("http://a.test/").header("te", "trailers").body(()).unwrap();
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
    let answer = call(&mut send, request, Some(b"hello"), Some(trailers)).await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually("the body", LIMIT, async || {
        backend.received_text().ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n").then_some(())
    })
    .await;
    assert!(backend.received_text().contains("Transfer-Encoding: chunked\r\n"));
}

#[tokio::test]
async fn a_body_with_its_length_goes_on_as_it_is() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let request = Request::post("http://a.test/").header("content-length", "5").body(()).unwrap();
    assert_eq!(call(&mut send, request, Some(b"hello"), None).await.unwrap().status(), 200);
    let seen = backend.received_text();
    assert!(seen.contains("content-length: 5\r\n") && seen.ends_with("\r\n\r\nhello"), "{seen}");
}

#[tokio::test]
async fn chunks_of_the_endpoint_are_data_and_their_trailers_are_trailers() {
    let backend = Backend::start(chunked()).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let request = Request::get("http://a.test/").header("te", "trailers").body(()).unwrap();
    let answer = call(&mut send, request, None, None).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.head.headers().contains_key("transfer-encoding"));
    assert_eq!(answer.text(), "hello, world");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "12");
}

#[tokio::test]
async fn bodies_of_megabytes_pass_both_ways_within_flow_control() {
    let echo = Echo::start().await;
    let proxy = Proxy::over(&[echo.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let request = Request::post("http://a.test/").body(()).unwrap();
    send = send.ready().await.unwrap();
    let (answer, mut stream) = send.send_request(request, false).unwrap();
    let (up, down) = tokio::join!(upload(&mut stream, &body, None), async { collect(answer.await?).await });
    up.unwrap();
    assert!(down.unwrap().body == body);
}

#[tokio::test]
async fn crumbs_of_a_cookie_become_one_field() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let request =
        Request::get("http://a.test/").header("cookie", "a=1").header("cookie", "b=2").header("cookie", "c=3");
    assert_eq!(call(&mut send, request.body(()).unwrap(), None, None).await.unwrap().status(), 200);
    assert!(backend.received_text().contains("cookie: a=1; b=2; c=3\r\n"), "{}", backend.received_text());
}

#[tokio::test]
async fn what_weir_refuses_is_refused_with_its_reason() {
    let proxy = Setup::new(&[]).with(|s| s.path = "/app".into()).start();
    let (mut send, _driver) = connect(proxy.address).await;
    for (path, status, reason) in [("/", 404, "no_route"), ("/app", 503, "no_endpoint"), ("/a%00", 400, "target")] {
        let answer = call(&mut send, get(path), None, None).await.unwrap();
        assert_eq!((answer.status(), answer.head.headers()["weir-reason"].to_str().unwrap()), (status, reason));
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_never_looks_complete() {
    let backend = Backend::start(truncating()).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    let error = call(&mut send, get("/"), None, None).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{error}");
}

#[tokio::test]
async fn an_answer_before_the_body_has_come_ends_the_stream_without_an_error() {
    let backend = Backend::start(early_answer()).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    send = send.ready().await.unwrap();
    let (answer, mut stream) = send.send_request(Request::post("http://a.test/").body(()).unwrap(), false).unwrap();
    stream.send_data(bytes::Bytes::from_static(b"some"), false).unwrap();
    let answer = within("an answer", LIMIT, async { collect(answer.await?).await }).await.unwrap();
    assert_eq!(answer.status(), 413);
    let reset = within("a reset", LIMIT, std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reset.unwrap(), h2::Reason::NO_ERROR);
}

#[tokio::test]
async fn a_client_that_gives_up_frees_its_endpoint_at_once() {
    let backend = Backend::start(silent()).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, _driver) = connect(proxy.address).await;
    send = send.ready().await.unwrap();
    let (answer, mut stream) = send.send_request(get("/"), true).unwrap();
    eventually("the request in flight", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_gone\"}"), 1);
}

#[tokio::test]
async fn the_drain_lets_what_runs_end_and_says_goaway() {
    let backend = Backend::start(backend::slow(Duration::from_millis(300))).await;
    let proxy = Proxy::over(&[backend.address]);
    let (mut send, driver) = connect(proxy.address).await;
    send = send.ready().await.unwrap();
    let (answer, _stream) = send.send_request(get("/"), true).unwrap();
    eventually("the request in flight", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    proxy.drain();
    let answer = within("an answer", LIMIT, async { collect(answer.await?).await }).await.unwrap();
    assert_eq!(answer.status(), 200);
    // The last GOAWAY bears no error.
    within("the end", LIMIT, driver).await.unwrap().unwrap();
    within("the worker's end", LIMIT, proxy.ended()).await;
}
