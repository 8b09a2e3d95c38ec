//! Requests that are refused, by the rows of the threat table: the status, the reason, and that nothing reaches the endpoint.

use crate::one;
use crate::support::backend::answering;
use crate::support::http::Raw;

/// Request, status, reason.
type Case = (&'static str, u16, &'static str);

const HOST: &str = "Host: a\r\n";

const CASES: &[Case] = &[
    // Framing: rows 1 to 4 (RFC 9112 §6.1, §6.3; RFC 9110 §8.6).
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "cl_te"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "cl_te"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400, "te_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "te_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n", 400, "te_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "te_unknown"),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400, "cl_value"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400, "cl_value"),
    // Expectations: row 6 (RFC 9110 §10.1.1).
    ("POST / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 1\r\n\r\n", 417, "expectation"),
    // Line ends: row 10 (RFC 9112 §2.2).
    ("GET / HTTP/1.1\nHost: a\n\n", 400, ""),
    ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, ""),
    ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, ""),
    // Fields: rows 11 and 12 (RFC 9112 §5; RFC 9110 §5.5).
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400, "fold"),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "fold"),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "field_name"),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400, "field_name"),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400, "field_name"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", 400, "field_name"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", 400, "field_value"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x1bc\r\n\r\n", 400, "field_value"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: b\r\n\r\n", 400, "underscore"),
    // Request line: row 13 (RFC 9112 §3).
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400, ""),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version"),
    ("GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400, ""),
    ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    ("GET /#fragment HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", 400, ""),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "connect"),
    // Host: row 14 (RFC 9112 §3.2).
    ("GET / HTTP/1.1\r\nX: a\r\n\r\n", 400, "host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host"),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host"),
];

#[tokio::test]
async fn malformed_requests_are_refused_and_reach_no_endpoint() {
    let (weir, backend) = one("refusals", answering("never")).await;
    for (request, status, reason) in CASES {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        // A second request behind it must never be read as one: the framing is lost.
        raw.send(format!("{request}GET /smuggled HTTP/1.1\r\n{HOST}\r\n")).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, *status, "{request:?}: {}", answer.head);
        let found = answer.field("weir-reason").expect("a reason");
        assert!(reason.is_empty() || found == *reason, "{request:?}: {found}");
        assert!(answer.closes(), "{request:?}: {}", answer.head);
        let rest = raw.rest().await;
        assert!(rest.is_empty(), "{request:?}: also answered {}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(backend.received_text(), "", "nothing reached the endpoint");
    let mut raw = Raw::connect(weir.http).await.unwrap();
    assert_eq!(raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "never");
}

#[tokio::test]
async fn the_same_requests_byte_by_byte_are_refused_too() {
    let (weir, backend) = one("refusals-slow", answering("never")).await;
    for (request, status, _) in CASES.iter().step_by(5) {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        for byte in request.as_bytes() {
            // The refusal may come, and the connection end, before the last byte.
            use tokio::io::AsyncWriteExt;
            if raw.stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.answer().await.status, *status, "{request:?}");
    }
    assert_eq!(backend.received_text(), "");
}

#[tokio::test]
async fn malformed_chunks_abort_the_request_at_the_endpoint_too() {
    use crate::support::backend::{Step, send};
    let reading =
        vec![Step::ReadHead, Step::ReadChunks, send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Repeat];
    let (weir, backend) = one("chunks", reading).await;
    // Rows 7 and 8 (RFC 9112 §7.1).
    let bodies = [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello",
        "5;a=\nb\r\nhello\r\n0\r\n\r\n",
        "5_0\r\n",
    ];
    for body in bodies {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        raw.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.field("weir-reason")), (400, Some("chunk")), "{body:?}: {}", answer.head);
        assert!(raw.rest().await.is_empty());
    }
    assert!(!backend.received_text().contains("GET"), "{}", backend.received_text());
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let good = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n";
    assert_eq!(raw.exchange(good).await.text(), "ok");
    assert!(!backend.received_text().contains("x=y"), "extensions are not forwarded");
}
