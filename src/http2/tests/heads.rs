//! Fields → the HTTP/1.1 head, and back.

use crate::http1::head::{Fields, Limits, parse_response};
use crate::http2::answer::{self, Ending};
use crate::http2::hpack::{Decoder, Encoder};
use crate::http2::request::{Shape, Unfit, Writer, key};

const LIMIT: usize = 4096;

fn written(fields: &[(&str, &str)], ends: bool) -> Result<(String, Shape), Unfit> {
    let mut writer = Writer::default();
    writer.begin((LIMIT, 200), false);
    for (name, value) in fields {
        writer.field(name.as_bytes(), value.as_bytes());
    }
    let shape = writer.finish(ends, || *b"KEYKEYKEYKEYKEYKEYKEYKEY")?;
    let mut out = Vec::new();
    writer.swap(&mut out);
    Ok((String::from_utf8(out).unwrap(), shape))
}

/// The pseudo-fields of a request, and more fields.
fn fields<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", path)], more].concat()
}

#[test]
fn heads_of_requests_are_http1() {
    let (text, shape) = written(&fields("GET", "/x?y=1", &[("x-a", "b")]), true).unwrap();
    assert_eq!(text, "GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\nx-a: b\r\n\r\n");
    assert_eq!(shape, Shape::default());
    let (text, shape) = written(&fields("POST", "/", &[]), false).unwrap();
    assert!(text.ends_with("transfer-encoding: chunked\r\n\r\n") && shape.chunked, "{text}");
    let (text, shape) = written(&fields("POST", "/", &[("content-length", "3")]), false).unwrap();
    assert!(text.ends_with("content-length: 3\r\n\r\n") && !shape.chunked, "{text}");
    assert_eq!(shape.length, Some(3));
    let (text, _) = written(&fields("POST", "/", &[]), true).unwrap();
    assert!(text.ends_with("content-length: 0\r\n\r\n"), "{text}");
    assert!(written(&fields("HEAD", "/", &[]), true).unwrap().1.is_head);
    let grpc = fields("POST", "/", &[("content-type", "application/grpc+proto")]);
    assert!(written(&grpc, false).unwrap().0.contains("te: trailers\r\n"));
    let grpc = fields("POST", "/", &[("te", "trailers"), ("content-type", "application/grpc")]);
    assert_eq!(written(&grpc, false).unwrap().0.matches("te: trailers\r\n").count(), 1);
    // A host in the place of the authority, and beside one that is the same.
    let (text, _) =
        written(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "b.test")], true).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: b.test\r\n\r\n");
    let (text, _) = written(&fields("GET", "/", &[("host", "A.test")]), true).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let (text, _) = written(&[(":method", "CONNECT"), (":authority", "a.test:443")], true).unwrap();
    assert!(text.starts_with("CONNECT a.test:443 HTTP/1.1\r\n"), "{text}");
    assert!(written(&fields("OPTIONS", "*", &[]), true).unwrap().0.starts_with("OPTIONS * HTTP/1.1\r\n"));
    // Pseudo-fields come in any order.
    let (text, _) =
        written(&[(":path", "/p"), (":authority", "a"), (":scheme", "https"), (":method", "PUT")], true).unwrap();
    assert!(text.starts_with("PUT /p HTTP/1.1\r\nhost: a\r\n"), "{text}");
}

#[test]
fn a_websocket_is_an_upgrade() {
    let asked = |protocol, more: &[(&'static str, &'static str)]| {
        let mut list = fields("CONNECT", "/chat", &[(":protocol", protocol)]);
        list.extend(more);
        list
    };
    let (text, shape) = written(&asked("websocket", &[("sec-websocket-version", "13")]), false).unwrap();
    assert!(text.starts_with("GET /chat HTTP/1.1\r\nhost: a.test\r\nsec-websocket-version: 13\r\n"), "{text}");
    let end = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: KEYKEYKEYKEYKEYKEYKEYKEY\r\n\r\n";
    assert!(text.ends_with(end) && shape.tunnel, "{text}");
    assert_eq!(written(&asked("other", &[]), false).unwrap_err(), Unfit::Protocol);
    assert_eq!(written(&asked("websocket", &[]), true).unwrap_err(), Unfit::Protocol);
    let get = fields("GET", "/", &[(":protocol", "websocket")]);
    assert_eq!(written(&get, false).unwrap_err(), Unfit::Malformed);
}

#[test]
fn what_is_malformed_is_not_written() {
    let get = |more: &[(&'static str, &'static str)]| fields("GET", "/", more);
    for (what, list) in [
        ("another host", get(&[("host", "b.test")])),
        ("two hosts", get(&[("host", "a.test"), ("host", "a.test")])),
        ("a blank before a value", get(&[("x", " a")])),
        ("a blank behind a value", get(&[("x", "a\t")])),
        ("a line end in a value", get(&[("x", "a\r\nb: c")])),
        ("NUL", get(&[("x", "\0")])),
        ("DEL", get(&[("x", "a\x7f")])),
        ("an upper case name", get(&[("X", "a")])),
        ("a name that is no token", get(&[("x y", "a")])),
        ("no name", get(&[("", "a")])),
        ("connection", get(&[("connection", "close")])),
        ("transfer-encoding", get(&[("transfer-encoding", "chunked")])),
        ("upgrade", get(&[("upgrade", "h2c")])),
        ("keep-alive", get(&[("keep-alive", "1")])),
        ("proxy-connection", get(&[("proxy-connection", "close")])),
        ("http2-settings", get(&[("http2-settings", "AA")])),
        ("te", get(&[("te", "gzip")])),
        ("a length without a body", get(&[("content-length", "1")])),
        ("two lengths", get(&[("content-length", "0"), ("content-length", "0")])),
        ("a sign", get(&[("content-length", "+0")])),
        ("a length of 19 digits", get(&[("content-length", "0000000000000000000")])),
        ("a fragment", fields("GET", "/a#b", &[])),
        ("a blank in a path", fields("GET", "/a b", &[])),
        ("no path", fields("GET", "", &[])),
        ("a relative path", fields("GET", "a", &[])),
        ("an asterisk", fields("GET", "*", &[])),
        ("no method", get(&[])[1..].to_vec()),
        ("a method that is no token", fields("G ET", "/", &[])),
        ("a method twice", get(&[(":method", "GET")])),
        ("an unknown pseudo-field", get(&[(":x", "a")])),
        ("a status", get(&[(":status", "200")])),
        ("no name of a pseudo-field", get(&[(":", "a")])),
        ("a pseudo-field behind a field", [&[("x", "a")], &get(&[])[..]].concat()),
        ("a scheme that is none", vec![(":method", "GET"), (":scheme", "1"), (":path", "/")]),
        ("no scheme", vec![(":method", "GET"), (":authority", "a"), (":path", "/")]),
        ("CONNECT with a path", fields("CONNECT", "/", &[])),
        ("CONNECT without an authority", vec![(":method", "CONNECT")]),
        ("nothing", vec![]),
    ] {
        assert_eq!(written(&list, true).unwrap_err(), Unfit::Malformed, "{what}");
    }
}

#[test]
fn fields_are_counted_with_what_they_cost() {
    let crumbs = |n| fields("GET", "/", &vec![("cookie", "a"); n]);
    // The pseudo-fields count 171, and each crumb 39: 4096 are enough for 100.
    assert!(written(&crumbs(100), true).unwrap().0.contains("\r\ncookie: a; a; a"));
    assert_eq!(written(&crumbs(101), true).unwrap_err(), Unfit::TooLarge);
    let mut writer = Writer::default();
    writer.begin((1 << 20, 200), false);
    for (name, value) in crumbs(129) {
        writer.field(name.as_bytes(), value.as_bytes());
    }
    assert_eq!(writer.finish(true, || [0; 24]), Err(Unfit::TooMany));
    // What follows is not even looked at, and the next request is.
    writer.begin((100, 200), false);
    for _ in 0..1000 {
        writer.field(b"x", &[b'a'; 100]);
    }
    assert_eq!(writer.finish(true, || [0; 24]), Err(Unfit::TooLarge));
    writer.begin((LIMIT, 200), false);
    for (name, value) in fields("GET", "/", &[]) {
        writer.field(name.as_bytes(), value.as_bytes());
    }
    assert!(writer.finish(true, || [0; 24]).is_ok());
}

#[test]
fn trailers_have_no_pseudo_fields() {
    let trailers = |list: &[(&str, &str)]| {
        let mut writer = Writer::default();
        writer.begin((LIMIT, 200), true);
        for (name, value) in list {
            writer.field(name.as_bytes(), value.as_bytes());
        }
        writer.finish_trailers().map(|text| String::from_utf8(text.to_vec()).unwrap())
    };
    assert_eq!(trailers(&[("x-sum", "7"), ("grpc-status", "0")]).unwrap(), "x-sum: 7\r\ngrpc-status: 0\r\n");
    for wrong in [(":path", "/"), (":status", "200"), (":x", "a"), ("X", "a"), ("connection", "close"), ("x", "\n")] {
        assert_eq!(trailers(&[("a", "b"), wrong]), Err(Unfit::Malformed), "{wrong:?}");
    }
}

fn decoded(block: &[u8]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    Decoder::new(4096).decode(block, |name, value| found.push((text(name), text(value)))).unwrap();
    found
}

fn answered(text: &[u8], ending: Ending) -> Vec<(String, String)> {
    let limits = Limits { head_bytes: 4096, fields: 32, target_bytes: 100 };
    let mut fields = Fields::default();
    let line = parse_response(text, &limits, &mut fields).unwrap().unwrap();
    let mut block = Vec::new();
    answer::encode(text, &line, &fields, ending, &mut Encoder::default(), &mut block);
    decoded(&block)
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn answers_lose_what_is_about_the_connection() {
    let text = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n";
    let kept = [(":status", "200"), ("x-a", "1"), ("set-cookie", "a"), ("set-cookie", "b")];
    assert_eq!(answered(text, Ending::Body), pairs(&kept));
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    assert_eq!(answered(text, Ending::Tunnel), pairs(&[(":status", "200"), ("sec-websocket-protocol", "chat")]));
    // Trailers alone have no length.
    let text = b"HTTP/1.1 200 OK\r\ngrpc-status: 4\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answered(text, Ending::Head), pairs(&[(":status", "200"), ("grpc-status", "4")]));
    let long = format!("HTTP/1.1 201 Created\r\nX-{}: 1\r\n\r\n", "Y".repeat(100));
    assert_eq!(answered(long.as_bytes(), Ending::Body)[1].0, format!("x-{}", "y".repeat(100)));
}

#[test]
fn sections_become_trailers() {
    let mut block = Vec::new();
    let section = b"X-Sum: 7\r\ngrpc-status:0\r\nconnection: x\r\n\r\n";
    assert!(answer::encode_trailers(section, &mut Encoder::default(), &mut block));
    assert_eq!(decoded(&block), pairs(&[("x-sum", "7"), ("grpc-status", "0")]));
    for empty in [&b"\r\n"[..], b"", b"connection: x\r\n\r\n"] {
        assert!(!answer::encode_trailers(empty, &mut Encoder::default(), &mut Vec::new()));
    }
}

#[test]
fn keys_are_sixteen_octets_in_base64() {
    assert_eq!(&key(0), b"AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(&key(u128::MAX), b"/////////////////////w==");
    assert_eq!(&key(u128::from_be_bytes(*b"the sample nonce")), b"dGhlIHNhbXBsZSBub25jZQ==");
}
