//! Endpoints that send what is no HTTP, too much, or too little (RFC 9112 §6.3, §8, §11.1; RFC 9110 §15.2).

use crate::support::backend::{self, Backend, Script, Step, send};
use crate::support::eventually;
use crate::support::http::{Broken, Raw};
use crate::support::proxy::{Proxy, Setup};
use std::io::ErrorKind;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(10);

fn without_retries(backend: &Backend) -> Proxy {
    Setup::new(&[backend.address]).with(|s| s.spec.retries = 0).start()
}

/// Answers with these octets and stays open.
fn saying(octets: &[u8]) -> Script {
    vec![Step::ReadHead, Step::Send(octets.to_vec()), Step::Hold]
}

#[tokio::test]
async fn a_malformed_answer_is_a_502_and_its_connection_is_not_used_again() {
    let huge = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), vec![b'x'; 70 * 1024].as_slice(), b"\r\n\r\n"].concat();
    let many = ["HTTP/1.1 200 OK\r\n", &"X: y\r\n".repeat(129), "\r\n"].concat().into_bytes();
    let flood =
        ["HTTP/1.1 103 Early Hints\r\n\r\n".repeat(17).as_str(), "HTTP/1.1 200 OK\r\n\r\n"].concat().into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("junk", b"\x01\x02SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()),
        (
            "both framings",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
        ("length list", b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello".to_vec()),
        ("negative length", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello".to_vec()),
        ("unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_vec()),
        ("coding in 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("split by bare LF", b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("split by bare CR", b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("NUL", b"HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("folded", b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("blank before colon", b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n".to_vec()),
        ("another version", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("no version", b"200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("status below 100", b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        (
            "101 that nobody asked for",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
        ),
        ("head above 64 KiB", huge),
        ("129 fields", many),
        ("17 interim answers", flood),
        ("chunk that is none, with the head", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_vec()),
    ];
    for (what, octets) in cases {
        let backend = Backend::start(saying(&octets)).await;
        let proxy = without_retries(&backend);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(GET).await;
        let mut answer = raw.answer().await;
        while answer.status == 103 {
            answer = raw.answer().await;
        }
        assert_eq!((answer.status, answer.field("weir-reason")), (502, Some("bad_response")), "{what}");
        assert!(!answer.head.contains("evil"), "{what}");
        // The client did nothing wrong: its connection goes on, over another one to the endpoint.
        raw.send(GET).await;
        eventually("another connection", LIMIT, async || (backend.connections() == 2).then_some(())).await;
    }
}

#[tokio::test]
async fn sixteen_interim_answers_are_relayed_rfc9110_15_2() {
    let answers = [
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(16).as_str(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]
    .concat();
    let backend = Backend::start(saying(answers.as_bytes())).await;
    let proxy = without_retries(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(GET).await;
    for _ in 0..16 {
        let hint = raw.answer().await;
        assert_eq!((hint.status, hint.field("link")), (103, Some("</a>")));
    }
    assert_eq!(raw.answer().await.status, 200);
}

/// How an answer broke for the client.
async fn broken(script: Script, request: &str) -> (ErrorKind, Vec<u8>) {
    let backend = Backend::start(script).await;
    let proxy = without_retries(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(request).await;
    match raw.try_answer(false).await {
        Err(Broken::InsideAnswer(kind, seen)) => {
            eventually("the end of the request", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
            assert_eq!(proxy.metric("weir_panics_total"), 0);
            (kind, seen)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_truncated_answer_never_ends_cleanly_rfc9112_8() {
    broken(backend::truncating(), GET).await;
    broken(backend::truncating_chunks(), GET).await;
    let bad_later = vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        Step::Wait(Duration::from_millis(50)),
        send("zz\r\nhello\r\n0\r\n\r\n"),
        Step::Hold,
    ];
    broken(bad_later, GET).await;
}

/// A body that ends with the connection tells the client of its truncation only by a reset.
#[tokio::test]
async fn a_truncated_body_that_ends_with_the_connection_is_a_reset_rfc9112_8() {
    let until_close =
        vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\n\r\npart"), Step::Wait(Duration::from_millis(50)), Step::Reset];
    assert_eq!(broken(until_close, GET).await.0, ErrorKind::ConnectionReset);
    let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    assert_eq!(broken(backend::truncating_chunks(), old).await.0, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_body_until_the_close_ends_cleanly_rfc9112_6_3() {
    let backend = Backend::start(vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\n\r\nall of it"), Step::Close]).await;
    let proxy = without_retries(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.text().as_str(), answer.closes()), ("all of it", true));
}

#[tokio::test]
async fn octets_behind_an_answer_reach_nobody_rfc9112_9_2() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\nevil",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil",
    ] {
        let backend = Backend::start(vec![Step::ReadHead, send(answer), Step::Repeat]).await;
        let proxy = without_retries(&backend);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        for n in 1..=3 {
            let answer = raw.exchange(GET).await;
            assert!(!answer.text().contains("evil"), "{answer:?}");
            assert_eq!(backend.connections(), n, "the endpoint is out of step: {answer:?}");
        }
        assert!(raw.input.is_empty());
    }
}

#[tokio::test]
async fn octets_on_an_idle_connection_are_no_answer_rfc9112_9_2() {
    let script = vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"),
        Step::Wait(Duration::from_millis(30)),
        send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        Step::Hold,
    ];
    let backend = Backend::start(script).await;
    let proxy = without_retries(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(GET).await.text(), "fine");
    eventually("what is out of turn", LIMIT, async || (backend.sent() == 2).then_some(())).await;
    // It arrives meanwhile; there is nothing to observe that by from outside.
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(raw.exchange(GET).await.text(), "fine");
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_a_504_rfc9110_15_6_5() {
    let backend = Backend::start(backend::silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.spec.timeouts.response = Duration::from_millis(200)).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (504, Some("response_timeout")));
    assert!(!answer.closes());
}

#[tokio::test]
async fn an_endpoint_that_stalls_inside_its_answer_ends_the_connection() {
    let backend =
        Backend::start(vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"), Step::Hold])
            .await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.spec.timeouts.idle = Duration::from_millis(200)).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(GET).await;
    assert!(matches!(raw.try_answer(false).await, Err(Broken::InsideAnswer(..))));
}
