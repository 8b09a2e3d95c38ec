//! What reaches the endpoint and what comes back: fields, framings, versions, connections.

use crate::one;
use crate::support::backend::{self, Step, answering, send};
use crate::support::http::{Raw, field};
use std::time::Duration;

/// Returns the last head that the backend got.
fn last_head(text: &str) -> String {
    let heads: Vec<&str> = text.split("\r\n\r\n").filter(|part| part.contains(" HTTP/1.1")).collect();
    heads.last().unwrap().to_string()
}

#[tokio::test]
async fn hop_by_hop_fields_go_and_forwarding_fields_come() {
    let (weir, backend) = one("fields", answering("ok")).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let answer = raw
        .exchange(
            "GET /path?q=1 HTTP/1.1\r\nHost: Example.COM:81\r\nConnection: keep-alive, X-Drop, Host\r\nX-Drop: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: x\r\nProxy-Authorization: x\r\nTE: trailers, gzip\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
             X-Real-IP: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Keep:  kept  \r\nHTTP2-Settings: x\r\nUpgrade: h2c\r\n\r\n",
        )
        .await;
    assert_eq!(answer.text(), "ok");
    let head = last_head(&backend.received_text());
    assert!(head.starts_with("GET /path?q=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "x-keep"), Some("kept"));
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"), "{head}");
    assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(&head, "x-forwarded-host").map(str::to_ascii_lowercase), Some("example.com:81".into()));
    assert_eq!(field(&head, "host").map(str::to_ascii_lowercase), Some("example.com:81".into()));
    assert!(field(&head, "via").is_some_and(|via| via.starts_with("1.1 ")), "{head}");
    assert!(field(&head, "x-request-id").is_some_and(|id| id.len() >= 16), "{head}");
    for gone in [
        "x-drop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "forwarded",
        "x-real-ip",
        "http2-settings",
        "upgrade",
    ] {
        assert_eq!(field(&head, gone), None, "{gone} in\n{head}");
    }
}

#[tokio::test]
async fn an_absolute_target_wins_over_host() {
    let (weir, backend) = one("absolute", answering("ok")).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    assert_eq!(raw.exchange("GET http://real.example/x HTTP/1.1\r\nHost: other\r\n\r\n").await.status, 200);
    let head = last_head(&backend.received_text());
    assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("real.example"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_over_one_connection_each_way() {
    let (weir, backend) = one("pipeline", answering("ok")).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    // The backend answers each head; the body of the POST stays unread before the third head.
    for _ in 0..3 {
        assert_eq!(raw.answer().await.status, 200);
    }
    let text = backend.received_text();
    let at = |path: &str| text.find(path).unwrap_or_else(|| panic!("{path} in {text}"));
    assert!(at("GET /1 ") < at("POST /2 ") && at("POST /2 ") < at("GET /3 "));
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn bytes_in_any_pieces_make_the_same_request() {
    let reading =
        vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Repeat];
    let (weir, backend) = one("pieces", reading).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for _ in 0..2 {
        raw.send_slowly("POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x\r\n world\r\n0\r\n\r\n").await;
        assert_eq!(raw.answer().await.text(), "ok");
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn chunks_and_trailers_come_through_and_a_1_0_client_gets_a_plain_body() {
    let (weir, _backend) = one("chunked", backend::chunked()).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let answer = raw.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n").await;
    assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("hello, world", "X-Sum: 12\r\n"));
    let mut old = Raw::connect(weir.http).await.unwrap();
    let answer = old.exchange("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("hello, world", None), "{}", answer.head);
    assert!(old.rest().await.is_empty());
}

#[tokio::test]
async fn answers_without_a_body_end_at_their_head() {
    let scripts = |status: &str| {
        vec![Step::ReadHead, send(&format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n")), Step::Repeat]
    };
    let (weir, _backend) = one("no-body", scripts("304 Not Modified")).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for _ in 0..2 {
        assert_eq!(raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 304);
    }
    let (weir, _backend) = one("head", scripts("200 OK")).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for _ in 0..2 {
        raw.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = raw.head_answer().await;
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("5")));
    }
}

#[tokio::test]
async fn a_body_waits_for_100_continue_and_the_endpoint_s_answer_comes_after_it() {
    let (weir, backend) = one("continue", backend::continuing(4)).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    let interim = raw.exchange(head).await;
    assert_eq!(interim.status, 100);
    let answer = raw.exchange("body").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{}", backend.received_text());
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_arrives() {
    let (weir, _backend) = one("early", backend::early_answer()).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nonly a part").await;
    assert_eq!(raw.answer().await.status, 413);
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let (weir, backend) = one("no-upgrade", backend::status(403)).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n";
    assert_eq!(raw.exchange(upgrade).await.status, 403);
    // Row 31: what follows is parsed as HTTP, not tunnelled.
    raw.send("NOT HTTP\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 400);
    assert!(!backend.received_text().contains("NOT HTTP"));
}

#[tokio::test]
async fn a_truncated_answer_never_looks_complete() {
    for (name, script) in [("truncated", backend::truncating()), ("truncated-chunks", backend::truncating_chunks())] {
        let (weir, _backend) = one(name, script).await;
        let mut raw = Raw::connect(weir.http).await.unwrap();
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let outcome = crate::support::within("the end", Duration::from_secs(20), raw.try_answer(false)).await;
        assert!(matches!(outcome, Err(crate::support::http::Broken::InsideAnswer(..))), "{name}: {outcome:?}");
    }
}
