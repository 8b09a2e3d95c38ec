//! Requests that two parsers may read in two ways are refused: RFC 9112 §2.2, §3, §5, §6, §11.2; RFC 9110 §5, §8.6, §10.1.1.

use crate::support::backend::{Backend, Step, answering, send};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, assert_refused, assert_served};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn length_and_coding_in_one_request_rfc9112_6_1() {
    assert_refused(&[
        (
            "CL.TE",
            b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            400,
            "cl_te",
        ),
        (
            "TE.CL",
            b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            400,
            "cl_te",
        ),
        (
            "with a length of zero",
            b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
            400,
            "cl_te",
        ),
    ])
    .await;
}

#[tokio::test]
async fn transfer_encoding_is_exactly_chunked_once_rfc9112_6_1() {
    let values: &[(&str, u16, &str)] = &[
        ("chunked, chunked", 400, "te_value"),
        ("chunked;q=1", 400, "te_value"),
        ("\"chunked\"", 400, "te_value"),
        ("", 400, "te_value"),
        ("identity", 400, "te_value"),
        ("chunked,", 400, "te_value"),
        (",chunked", 400, "te_value"),
        ("chunked identity", 400, "te_value"),
        ("\u{b}chunked", 400, "field_value"),
        ("xchunked", 501, "te_unknown"),
        ("gzip", 501, "te_unknown"),
    ];
    let texts: Vec<String> = values
        .iter()
        .map(|(v, _, _)| format!("POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {v}\r\n\r\n0\r\n\r\n"))
        .collect();
    let cases: Vec<_> = values.iter().zip(&texts).map(|((v, s, r), text)| (*v, text.as_bytes(), *s, *r)).collect();
    assert_refused(&cases).await;
    assert_refused(&[(
        "two fields",
        b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "te_value",
    )])
    .await;
}

#[tokio::test]
async fn http_1_0_with_transfer_encoding_rfc9112_6_1() {
    assert_refused(&[(
        "1.0",
        b"POST /evil HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "te_value",
    )])
    .await;
}

#[tokio::test]
async fn content_length_is_one_plain_number_rfc9110_8_6() {
    let values =
        ["+5", "-5", "5, 5", "5,6", "0x5", "5 5", "5a", "", "18446744073709551616", "9223372036854775808", "5.0"];
    let texts: Vec<String> =
        values.iter().map(|v| format!("POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: {v}\r\n\r\nhello")).collect();
    let mut cases: Vec<_> = values.iter().zip(&texts).map(|(v, t)| (*v, t.as_bytes(), 400, "cl_value")).collect();
    cases.push((
        "different",
        b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        400,
        "cl_value",
    ));
    cases.push((
        "equal repeats",
        b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        400,
        "cl_value",
    ));
    cases.push((
        "digits that are not ASCII",
        "POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: \u{661}\r\n\r\nh".as_bytes(),
        400,
        "cl_value",
    ));
    assert_refused(&cases).await;
}

#[tokio::test]
async fn lines_end_in_crlf_rfc9112_2_2() {
    assert_refused(&[
        ("bare LF after the request line", b"GET /evil HTTP/1.1\nHost: a\r\n\r\n", 400, "line_end"),
        ("bare LF after a field", b"GET /evil HTTP/1.1\r\nHost: a\n\r\n", 400, "line_end"),
        ("bare LF as the last line", b"GET /evil HTTP/1.1\r\nHost: a\r\n\n", 400, "line_end"),
        ("bare LF everywhere", b"GET /evil HTTP/1.1\nHost: a\n\n", 400, "line_end"),
        ("CR CR LF", b"GET /evil HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, "line_end"),
        ("CR inside a value", b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, "line_end"),
        ("bare LF before the request", b"\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "line_end"),
    ])
    .await;
}

#[tokio::test]
async fn fields_are_well_formed_rfc9112_5_1_and_5_2() {
    assert_refused(&[
        ("folded", b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "fold"),
        ("folded by a tab", b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400, "fold"),
        ("first line indented", b"GET /evil HTTP/1.1\r\n Host: a\r\n\r\n", 400, "fold"),
        ("blank before the colon", b"GET /evil HTTP/1.1\r\nHost : a\r\n\r\n", 400, "field_name"),
        (
            "tab before the colon",
            b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length\t: 5\r\n\r\nhello",
            400,
            "field_name",
        ),
        ("empty name", b"GET /evil HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400, "field_name"),
        ("no colon", b"GET /evil HTTP/1.1\r\nHost: a\r\nNothing\r\n\r\n", 400, "field_name"),
        ("no token", b"GET /evil HTTP/1.1\r\nHost: a\r\nX(Y): z\r\n\r\n", 400, "field_name"),
        ("8-bit name", b"GET /evil HTTP/1.1\r\nHost: a\r\nX\xe4: z\r\n\r\n", 400, "field_name"),
        ("NUL in a name", b"GET /evil HTTP/1.1\r\nHost: a\r\nX\0: z\r\n\r\n", 400, "field_name"),
        ("underscore", b"GET /evil HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", 400, "underscore"),
    ])
    .await;
}

#[tokio::test]
async fn field_values_have_no_control_characters_rfc9110_5_5() {
    let texts: Vec<Vec<u8>> = [0u8, 1, 8, 0xb, 0xc, 0x1b, 0x1f, 0x7f]
        .iter()
        .map(|&b| [b"GET /evil HTTP/1.1\r\nHost: a\r\nX: a".as_slice(), &[b], b"b\r\n\r\n"].concat())
        .collect();
    let cases: Vec<_> = texts.iter().map(|t| ("control character", t.as_slice(), 400, "field_value")).collect();
    assert_refused(&cases).await;
    assert_served(&[
        ("tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n"),
        ("obs-text", b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\xff\r\n\r\n"),
        ("empty", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn request_line_is_exact_rfc9112_3() {
    assert_refused(&[
        ("two blanks", b"GET  /evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("blank at the end", b"GET /evil HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "line_end"),
        ("blank in front", b" GET /evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("tab", b"GET\t/evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("blank in the target", b"GET /evil x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("minor of two digits", b"GET /evil HTTP/1.10\r\nHost: a\r\n\r\n", 400, "line_end"),
        ("major of two digits", b"GET /evil HTTP/01.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("lower case", b"GET /evil http/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("no version", b"GET /evil\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("HTTP/2.0", b"GET /evil HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version"),
        ("HTTP/0.9", b"GET /evil HTTP/0.9\r\nHost: a\r\n\r\n", 505, "version"),
        ("method that is no token", b"G(T /evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("control character in the target", b"GET /evil\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("8-bit target", b"GET /evil\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        ("fragment", b"GET /evil#a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        ("no slash", b"GET evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        ("asterisk of a GET", b"GET * HTTP/1.1\r\nHost: a\r\nX: evil\r\n\r\n", 400, "target"),
        ("another scheme", b"GET ftp://a/evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        ("user information", b"GET http://u@a/evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"),
        ("CONNECT", b"CONNECT evil:443 HTTP/1.1\r\nHost: evil:443\r\n\r\n", 405, "connect"),
        ("PROXY protocol, as text", b"PROXY TCP4 6.6.6.6 10.0.0.1 1 80\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n", 400, "start_line"),
        (
            "PROXY protocol, binary",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x0a\0\0\x01\0\x01\0\x50GET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
            "start_line",
        ),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "start_line"),
    ])
    .await;
}

#[tokio::test]
async fn host_is_there_once_and_valid_rfc9112_3_2() {
    let hosts = ["", "a, b", "a b", "a/b", "u@a", "a:b", "a:123456", "[::1", "[zz]", "a\\b", "a?b", "::1", "a:80:80"];
    let texts: Vec<String> = hosts.iter().map(|h| format!("GET /evil HTTP/1.1\r\nHost: {h}\r\n\r\n")).collect();
    let mut cases: Vec<_> = hosts.iter().zip(&texts).map(|(h, t)| (*h, t.as_bytes(), 400, "host")).collect();
    cases.push(("missing", b"GET /evil HTTP/1.1\r\n\r\n", 400, "host"));
    cases.push(("repeated", b"GET /evil HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host"));
    cases.push(("repeated and different", b"GET /evil HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400, "host"));
    cases.push(("missing with absolute form", b"GET http://a/evil HTTP/1.1\r\n\r\n", 400, "host"));
    assert_refused(&cases).await;
    assert_served(&[
        ("port", b"GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n"),
        ("empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n"),
        ("IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
        ("underscore", b"GET / HTTP/1.1\r\nHost: a_b\r\n\r\n"),
    ])
    .await;
}

#[tokio::test]
async fn only_100_continue_may_be_expected_rfc9110_10_1_1() {
    assert_refused(&[
        ("another", b"POST /evil HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\nx", 417, "expectation"),
        ("prefixed", b"POST /evil HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\nContent-Length: 1\r\n\r\nx", 417, "expectation"),
        ("list", b"POST /evil HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\nContent-Length: 1\r\n\r\nx", 417, "expectation"),
        (
            "twice",
            b"POST /evil HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
            417,
            "expectation",
        ),
    ])
    .await;
}

#[tokio::test]
async fn limits_of_a_head_are_kept() {
    let many = |n: usize| format!("GET /evil HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n));
    let long = |n: usize| format!("GET /evil{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(n));
    let large = |n: usize| format!("GET /evil HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(n));
    let endless = format!("GET /evil HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(64 * 1024));
    let endless_target = format!("GET /evil{}", "x".repeat(64 * 1024));
    assert_refused(&[
        ("129 fields", many(128).as_bytes(), 431, "too_many_fields"),
        ("10,000 fields", many(10_000).as_bytes(), 431, "too_many_fields"),
        ("target of 16 KiB + 1", long(16 * 1024 - 4).as_bytes(), 414, "target_too_long"),
        ("head above 64 KiB", large(64 * 1024).as_bytes(), 431, "head_too_large"),
        ("head without end", endless.as_bytes(), 431, "head_too_large"),
        ("target without end", endless_target.as_bytes(), 414, "target_too_long"),
    ])
    .await;
    let (fields, target, head) = (many(127), long(16 * 1024 - 5), large(60 * 1024));
    assert_served(&[
        ("128 fields", fields.as_bytes()),
        ("target of 16 KiB", target.as_bytes()),
        ("head of 60 KiB", head.as_bytes()),
    ])
    .await;
}

#[tokio::test]
async fn octets_behind_a_refused_request_are_never_parsed_rfc9112_9_6() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET /bad HTTP/1.1\r\n\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 400);
    assert!(raw.rest().await.is_empty());
    assert_eq!(backend.connections(), 0);
}

/// CL.0 and 0.CL: the body of a request that was answered early is no request.
#[tokio::test]
async fn the_unread_body_of_an_answered_request_is_never_parsed_rfc9112_9_3() {
    let early = vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"), Step::Repeat];
    let backend = Backend::start(early).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").await;
    let answer = raw.answer().await;
    assert_eq!((answer.text().as_str(), answer.closes()), ("early", true));
    raw.send("GET /evil HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(raw.rest().await.is_empty());
    assert!(!backend.received_text().contains("evil"));
    // The endpoint still waits for the rest of the body: its connection is not used again.
    let mut other = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(other.exchange("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    assert_eq!(backend.connections(), 2);
}

/// What follows an early answer is read and thrown away, so that the answer is not lost, but not for ever: 64 KiB, 2 s.
#[tokio::test]
async fn the_unread_body_is_discarded_within_bounds_rfc9112_9_6() {
    let early = vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly"), Step::Repeat];
    let backend = Backend::start(early).await;
    let proxy = Proxy::over(&[backend.address]);
    for flood in [true, false] {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n").await;
        assert_eq!(raw.answer().await.text(), "early");
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(10) {
            let (part, pause) = if flood { (16 * 1024, 1) } else { (1, 50) };
            match raw.stream.write_all(&vec![b'x'; part]).await {
                Ok(()) => sent += part,
                Err(_) => break,
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let passed = begun.elapsed();
        if flood {
            // What the kernels hold besides.
            assert!(sent < 8 << 20, "{sent} octets were taken");
        } else {
            assert!((Duration::from_millis(1800)..Duration::from_secs(8)).contains(&passed), "{passed:?}");
        }
    }
    assert!(!backend.received_text().contains("xx"));
}
