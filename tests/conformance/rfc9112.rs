//! RFC 9112, HTTP/1.1: messages cut anywhere, bodies of every framing, connections that stay and that end.

use crate::support::backend::{self, Backend, Step, answering, send};
use crate::support::eventually;
use crate::support::http::{Broken, Raw};
use crate::support::proxy::{Proxy, Setup, assert_served};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(20);

/// Octets that show when some are lost, doubled or moved.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Waits until a counter has its value: the worker counts after the client has its answer.
async fn counts(proxy: &Proxy, line: &str, expected: u64) {
    eventually(line, LIMIT, async || (proxy.metric(line) == expected).then_some(())).await;
}

#[tokio::test]
async fn section_2_2_a_head_may_come_octet_by_octet() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..2 {
        raw.send_slowly("GET /slow HTTP/1.1\r\nHost: a\r\nX-Long: abcdef\r\n\r\n").await;
        assert_eq!(raw.answer().await.text(), "fine");
    }
    assert_eq!(backend.received_text().matches("GET /slow HTTP/1.1\r\nHost: a\r\nX-Long: abcdef\r\n").count(), 2);
}

#[tokio::test]
async fn section_2_2_a_head_may_be_cut_anywhere() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let request = "POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    for at in 1..request.len() {
        raw.send(&request[..at]).await;
        tokio::task::yield_now().await;
        assert_eq!(raw.exchange(&request[at..]).await.text(), "fine", "cut at {at}");
    }
    assert_eq!(backend.received_text().matches("POST /cut HTTP/1.1\r\n").count(), request.len() - 1);
}

#[tokio::test]
async fn section_2_2_an_answer_may_come_octet_by_octet() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Slow: yes\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n";
    let backend =
        Backend::start(vec![Step::ReadHead, Step::SendSlowly(answer.to_vec(), Duration::from_millis(1)), Step::Repeat])
            .await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..2 {
        let answer = raw.exchange(GET).await;
        assert_eq!((answer.text().as_str(), answer.field("x-slow")), ("fine", Some("yes")));
    }
    assert_eq!(backend.connections(), 1, "the answer was read to its end");
}

#[tokio::test]
async fn section_2_2_one_empty_line_in_front_is_ignored() {
    assert_served(&[("an empty line", b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")]).await;
}

#[tokio::test]
async fn section_2_3_a_later_minor_version_is_served() {
    assert_served(&[("1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"), ("1.9", b"GET / HTTP/1.9\r\nHost: a\r\n\r\n")])
        .await;
}

#[tokio::test]
async fn section_3_2_2_absolute_form_wins_over_host() {
    let cases = [
        ("GET http://real:81/x?y HTTP/1.1\r\nHost: other\r\n\r\n", "GET /x?y HTTP/1.1\r\nHost: real:81\r\n"),
        ("GET HTTP://real HTTP/1.1\r\nHost: other\r\n\r\n", "GET / HTTP/1.1\r\nHost: real\r\n"),
        ("GET http://real?y HTTP/1.1\r\nHost: other\r\n\r\n", "GET /?y HTTP/1.1\r\nHost: real\r\n"),
        ("GET http://[::1]:8/x HTTP/1.1\r\nHost: other\r\n\r\n", "GET /x HTTP/1.1\r\nHost: [::1]:8\r\n"),
        ("OPTIONS http://real HTTP/1.1\r\nHost: other\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: real\r\n"),
        ("OPTIONS http://real/ HTTP/1.1\r\nHost: other\r\n\r\n", "OPTIONS / HTTP/1.1\r\nHost: real\r\n"),
    ];
    for (request, forwarded) in cases {
        let backend = Backend::start(answering("fine")).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(request).await.status, 200, "{request}");
        let received = backend.received_text();
        assert!(received.starts_with(forwarded) && !received.contains("other"), "{request} → {received}");
    }
}

#[tokio::test]
async fn section_3_2_2_absolute_form_is_what_routes() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.host = Some("real".into())).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange("GET http://REAL:80/ HTTP/1.1\r\nHost: other\r\n\r\n").await.status, 200);
    assert_eq!(raw.exchange("GET http://other/ HTTP/1.1\r\nHost: real\r\n\r\n").await.status, 404);
}

#[tokio::test]
async fn section_3_2_4_asterisk_form_of_options() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    assert!(backend.received_text().starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[tokio::test]
async fn section_4_a_status_line_may_lack_its_reason() {
    for line in ["HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.0 200 OK"] {
        let backend =
            Backend::start(vec![Step::ReadHead, send(&format!("{line}\r\nContent-Length: 4\r\n\r\nfine"))]).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange(GET).await;
        assert!(answer.head.starts_with("HTTP/1.1 200 ") && answer.text() == "fine", "{}", answer.head);
    }
}

#[tokio::test]
async fn section_6_2_bodies_of_known_length_pass_both_ways_whole() {
    for size in [0usize, 1, 4095, 64 * 1024, 5 << 20] {
        let body = pattern(size);
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&body);
        let backend =
            Backend::start(vec![Step::ReadHead, Step::ReadBody(size), Step::Send(answer), Step::Repeat]).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        for _ in 0..2 {
            let mut request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n").into_bytes();
            request.extend_from_slice(&body);
            let got = raw.exchange(&request).await;
            assert_eq!((got.status, got.body.len(), got.closes()), (200, size, false));
            assert!(got.body == body && backend.received(0).ends_with(&body), "{size} octets");
        }
        assert_eq!(backend.connections(), 1);
        counts(&proxy, "weir_received_bytes_total{service=\"web\"}", 2 * size as u64).await;
    }
}

/// An answer of so many octets that says it has `said`, or nothing.
fn large(size: usize, said: Option<usize>) -> Vec<u8> {
    let length = said.map(|said| format!("Content-Length: {said}\r\n")).unwrap_or_default();
    [format!("HTTP/1.1 200 OK\r\n{length}\r\n").as_bytes(), &pattern(size)].concat()
}

#[tokio::test]
async fn section_6_3_a_large_body_ends_where_its_length_or_the_connection_says_and_nowhere_else() {
    const SIZE: usize = 5 << 20;
    let body = pattern(SIZE);
    // Until the connection ends.
    let backend = Backend::start(vec![Step::ReadHead, Step::Send(large(SIZE, None)), Step::Close]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(GET).await;
    let all = raw.rest().await;
    assert!(all.ends_with(&body) && !all.ends_with(&[b"x", &body[..]].concat()), "{} octets", all.len());
    // Sooner than was said: it must not look whole, and nothing else is answered after it.
    let backend = Backend::start(vec![Step::ReadHead, Step::Send(large(SIZE, Some(SIZE + 1))), Step::Close]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(GET).await;
    let cut = raw.try_answer(false).await;
    assert!(matches!(cut, Err(Broken::InsideAnswer(..))), "{:?}", cut.map(|answer| answer.body.len()));
    // What follows belongs to nobody, and the next answer comes by another connection.
    let more = [large(SIZE, Some(SIZE)), large(3, Some(3))].concat();
    let backend = Backend::start(vec![Step::ReadHead, Step::Send(more), Step::Repeat]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for connections in 1..3 {
        assert!(raw.exchange(GET).await.body == body);
        assert_eq!(backend.connections(), connections);
    }
    // Heads are counted too.
    let (line, least) = ("weir_sent_bytes_total{service=\"web\"}", 2 * SIZE as u64);
    let counted = async || (least..least + 2000).contains(&proxy.metric(line)).then_some(());
    eventually(line, LIMIT, counted).await;
}

#[tokio::test]
async fn section_7_1_a_large_chunked_body_passes_both_ways_whole() {
    let body = pattern(3 << 20);
    let mut chunks = Vec::new();
    for (n, piece) in body.chunks(70_001).enumerate() {
        chunks.extend_from_slice(format!("{:x};n={n}\r\n", piece.len()).as_bytes());
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    let answer = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &chunks].concat();
    let backend = Backend::start(vec![Step::ReadHead, Step::ReadChunks, Step::Send(answer), Step::Repeat]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let request = [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice(), &chunks].concat();
    raw.send(&request).await;
    let got = raw.answer().await;
    assert!(got.body == body, "{} octets down", got.body.len());
    counts(&proxy, "weir_received_bytes_total{service=\"web\"}", body.len() as u64).await;
    assert!(!String::from_utf8_lossy(&backend.received(0)).contains(";n="));
    assert_eq!(raw.exchange(&request).await.body.len(), body.len());
}

#[tokio::test]
async fn section_7_1_1_extensions_of_an_answer_are_dropped_and_7_1_2_trailers_need_te() {
    let backend = Backend::start(backend::chunked()).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let plain = raw.exchange(GET).await;
    assert_eq!((plain.text().as_str(), plain.trailers.as_str()), ("hello, world", ""));
    let asked = raw.exchange("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n").await;
    assert_eq!((asked.text().as_str(), asked.trailers.as_str()), ("hello, world", "X-Sum: 12\r\n"));
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&raw.rest().await).contains("name=value"));
    assert!(backend.received_text().contains("TE: trailers\r\n"));
}

#[tokio::test]
async fn section_6_1_an_http_1_0_client_gets_no_chunks() {
    let backend = Backend::start(backend::chunked()).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let all = String::from_utf8(raw.rest().await).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "hello, world");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding") && head.contains("Connection: close"), "{head}");
}

#[tokio::test]
async fn section_9_3_connections_stay_by_version_and_connection_field() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", Some("close")),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n", Some("close")),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", None),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", Some("close")),
        ("GET / HTTP/1.0\r\n\r\n", Some("close")),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", Some("keep-alive")),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n", Some("close")),
    ];
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (request, connection) in cases {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange(request).await;
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("fine", connection), "{request}");
        if connection == Some("close") {
            assert!(raw.rest().await.is_empty(), "{request}");
        } else {
            assert_eq!(raw.exchange(request).await.text(), "fine", "{request}");
        }
    }
    assert_eq!(backend.connections(), 1, "towards the endpoint every one of them is HTTP/1.1 and stays");
}

/// An HTTP/1.0 client is told of each connection that stays, also when Weir itself answers.
#[tokio::test]
async fn section_9_3_an_own_answer_to_http_1_0_says_what_happens() {
    let proxy = Proxy::over(&[]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!(answer.status, 503);
    if answer.closes() {
        assert!(raw.rest().await.is_empty());
    } else {
        assert!(answer.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("keep-alive")));
    }
}

#[tokio::test]
async fn section_9_3_2_pipelined_requests_are_answered_in_order() {
    // Each connection of the endpoint answers with what it was asked, slower for the first.
    let slow = |body: &str, wait: u64| {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        vec![Step::ReadHead, Step::Wait(Duration::from_millis(wait)), send(&answer)]
    };
    let script: Vec<Step> = (0..5u64).flat_map(|n| slow(&format!("answer {n}"), 60 - 15 * n.min(4))).collect();
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let requests: String = (0..5)
        .map(|n| match n % 2 {
            0 => format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => format!("HEAD /{n} HTTP/1.1\r\nHost: a\r\n\r\n").replace("HEAD", "GET"),
        })
        .collect();
    raw.send(requests).await;
    for n in 0..5 {
        assert_eq!(raw.answer().await.text(), format!("answer {n}"));
    }
    let received = backend.received_text();
    let order: Vec<usize> = (0..5).map(|n| received.find(&format!("GET /{n} ")).unwrap()).collect();
    assert!(order.is_sorted());
}

#[tokio::test]
async fn section_9_3_2_requests_with_bodies_are_pipelined_too() {
    let backend = Backend::start(vec![
        Step::ReadHead,
        Step::ReadBody(5),
        send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na"),
        Step::ReadHead,
        Step::ReadChunks,
        send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"),
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc"),
        Step::Repeat,
    ])
    .await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let all = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    raw.send(all).await;
    for expected in ["a", "b", "c"] {
        assert_eq!(raw.answer().await.text(), expected);
    }
    // The same, cut in two at every octet.
    for at in 1..all.len() {
        raw.send(&all[..at]).await;
        tokio::task::yield_now().await;
        raw.send(&all[at..]).await;
        for expected in ["a", "b", "c"] {
            assert_eq!(raw.answer().await.text(), expected, "cut at {at}");
        }
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn section_9_6_a_client_that_has_ended_its_direction_is_answered() {
    let backend = Backend::start(backend::slow(Duration::from_millis(50))).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!(raw.answer().await.text(), "slow");
    assert!(raw.rest().await.is_empty());
}

#[tokio::test]
async fn section_9_6_an_early_answer_is_read_although_the_body_still_comes() {
    let backend = Backend::start(backend::early_answer()).await;
    let proxy = Proxy::over(&[backend.address]);
    for _ in 0..5 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n").await;
        raw.send(pattern(20_000)).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.closes()), (413, true));
        // What still comes is read and thrown away: the answer was not lost to a reset.
        raw.send(pattern(10_000)).await;
        assert!(raw.rest().await.is_empty());
    }
}

#[tokio::test]
async fn section_8_an_incomplete_request_is_not_executed() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    raw.stream.shutdown().await.unwrap();
    let rest = raw.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn section_9_3_a_thousand_requests_share_one_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..1000 {
        assert_eq!(raw.exchange(GET).await.text(), "fine");
    }
    assert_eq!((backend.connections(), proxy.metric("weir_connections_total")), (1, 1));
    counts(&proxy, "weir_requests_total{code=\"2xx\",service=\"web\"}", 1000).await;
    drop(raw);
    counts(&proxy, "weir_connections_open", 0).await;
}
