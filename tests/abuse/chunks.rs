//! Chunked request bodies: malformed sizes, extensions and trailers (RFC 9112 §7.1, RFC 9110 §6.5).

use crate::support::backend::{Backend, Step, answering, send};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, assert_refused};
use crate::support::{eventually, within};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn chunked(body: &[u8]) -> Vec<u8> {
    [b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat()
}

/// Malformed bodies, each with the reason it is refused for.
fn malformed() -> Vec<(Vec<u8>, &'static str)> {
    let long_extension = [b"1;".as_slice(), &[b'x'; 5000], b"\r\na\r\n0\r\n\r\n"].concat();
    let spread_extensions =
        [b"1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(120), b"0\r\n\r\n".to_vec()].concat();
    let long_trailer = [b"0\r\nX: ".as_slice(), &[b'x'; 9000], b"\r\n\r\n"].concat();
    let chunk: [&[u8]; 22] = [
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5 ;a\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"0_5\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b";a\r\nhello\r\n0\r\n\r\n",
        b"8000000000000000\r\nhello\r\n",
        b"ffffffffffffffff\r\nhello\r\n",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\0b\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\x7f\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n-0\r\n\r\n",
    ];
    let trailer: [&[u8]; 6] = [
        b"0\r\nX: a\n\r\n",
        b"0\r\nX : a\r\n\r\n",
        b"0\r\n a\r\n\r\n",
        b"0\r\nnothing\r\n\r\n",
        b"0\r\nX: a\0\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
    ];
    let mut all: Vec<(Vec<u8>, &str)> = chunk.iter().map(|b| (b.to_vec(), "chunk")).collect();
    all.extend(trailer.iter().map(|b| (b.to_vec(), "trailer")));
    all.push((long_extension, "chunk"));
    all.push((spread_extensions, "chunk"));
    all.push((long_trailer, "trailer"));
    all
}

#[tokio::test]
async fn a_malformed_body_that_comes_with_its_head_is_not_forwarded_rfc9112_7_1() {
    let bodies: Vec<_> = malformed().into_iter().map(|(body, reason)| (chunked(&body), reason)).collect();
    let names: Vec<String> =
        bodies.iter().map(|(b, _)| String::from_utf8_lossy(&b[..b.len().min(90)]).into_owned()).collect();
    let cases: Vec<_> = bodies
        .iter()
        .zip(&names)
        .map(|((body, reason), name)| (name.as_str(), body.as_slice(), 400, *reason))
        .collect();
    assert_refused(&cases).await;
}

#[tokio::test]
async fn a_malformed_body_behind_its_head_aborts_the_request_rfc9112_7_1() {
    for (body, reason) in malformed() {
        let name = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let script =
            vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Step::Repeat];
        let backend = Backend::start(script).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(chunked(b"3\r\nabc\r\n")).await;
        eventually("the first chunk at the backend", LIMIT, async || {
            backend.received_text().ends_with("3\r\nabc\r\n").then_some(())
        })
        .await;
        raw.send(&body).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.field("weir-reason")), (400, Some(reason)), "{name}");
        assert!(answer.closes() && raw.rest().await.is_empty(), "{name}");
        assert!(!backend.received_text().contains("0\r\n\r\n"), "the request must not be completed: {name}");
        eventually("the end of the request", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
        // Aborted: the next request comes over another connection.
        let mut other = Raw::connect(proxy.address).await.unwrap();
        other.send("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        eventually("another connection", LIMIT, async || (backend.connections() == 2).then_some(())).await;
    }
}

#[tokio::test]
async fn extensions_and_odd_sizes_are_read_but_never_forwarded_rfc9112_7_1_1() {
    let script =
        vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Step::Repeat];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(chunked(b"0005;name=value;q=\"a b\"\r\nhello\r\nA;x\r\n0123456789\r\n000;last\r\n\r\n")).await;
    assert_eq!(raw.answer().await.status, 200);
    let received = backend.received_text();
    assert!(received.ends_with("\r\n\r\n5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n"), "{received}");
    assert!(!raw.is_ended());
}

#[tokio::test]
async fn chunks_cut_at_every_octet_make_the_same_body_rfc9112_7_1() {
    let script =
        vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Step::Repeat];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let request = chunked(b"5;a=b\r\nhello\r\n00d\r\n, brave \r\nnew\r\n0\r\nX-Sum: 1\r\n\r\n");
    for at in 1..request.len() {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(&request[..at]).await;
        tokio::task::yield_now().await;
        raw.send(&request[at..]).await;
        assert_eq!(raw.answer().await.status, 200, "cut at {at}");
    }
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send_slowly(&request).await;
    assert_eq!(raw.answer().await.status, 200);
    let received = backend.received_text();
    let bodies: Vec<String> = received.split("POST ").skip(1).map(payload).collect();
    assert_eq!(bodies.len(), request.len());
    assert!(bodies.iter().all(|body| body == "hello, brave \r\nnew"), "{bodies:?}");
}

/// Removes head and chunk framing.
fn payload(request: &str) -> String {
    let mut rest = request.split_once("\r\n\r\n").unwrap().1;
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            assert_eq!(after, "\r\n", "no trailers without TE");
            return body;
        }
        body.push_str(&after[..size]);
        rest = after[size..].strip_prefix("\r\n").unwrap();
    }
}

#[tokio::test]
async fn trailers_pass_with_te_only_and_never_carry_framing_routing_or_authentication_rfc9110_6_5_1() {
    let script =
        vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Step::Repeat];
    let body = "0\r\nX-Sum: 1\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: evil\r\nAuthorization: evil\r\nCookie: evil\r\n\
                X-Forwarded-For: evil\r\nConnection: evil\r\nx_sum: evil\r\n\r\n";
    for (te, expected) in [("", "0\r\n\r\n"), ("TE: trailers\r\n", "0\r\nX-Sum: 1\r\n\r\n")] {
        let backend = Backend::start(script.clone()).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{te}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
        eventually("the end of the body", LIMIT, async || {
            let text = backend.received_text();
            text.split_once("\r\n\r\n").filter(|(_, body)| *body == expected).map(|_| ())
        })
        .await;
    }
}

#[tokio::test]
async fn a_body_above_its_limit_is_refused_with_413_rfc9110_15_5_14() {
    let backend = Backend::start(answering("fine")).await;
    let setup = crate::support::proxy::Setup::new(&[backend.address]).with(|s| s.options.limits.body_bytes = Some(10));
    let proxy = setup.start();
    for request in [
        "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n".to_owned(),
        "POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n".to_owned(),
    ] {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange(&request).await;
        assert_eq!((answer.status, answer.field("weir-reason")), (413, Some("body_too_large")));
        assert!(answer.closes() && raw.rest().await.is_empty());
    }
    assert_eq!(backend.connections(), 0);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789";
    assert_eq!(within("an answer", LIMIT, raw.exchange(request)).await.status, 200);
}
