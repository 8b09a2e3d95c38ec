//! The translation of heads and the meter, as pure functions.

use crate::http1::head::{Fields, Limits, parse_response};
use crate::proxy::http2::head::{self, Shape, Unfit};
use crate::proxy::http2::meter::{Bounds, Breach, Meter, PREFACE};
use http::{HeaderMap, Request, request};

fn parts(build: request::Builder) -> request::Parts {
    build.body(()).unwrap().into_parts().0
}

fn written(build: request::Builder, ends: bool) -> Result<(String, Shape), Unfit> {
    let mut out = Vec::new();
    let shape = head::write_request(&parts(build), ends, b"KEY", &mut out)?;
    Ok((String::from_utf8(out).unwrap(), shape))
}

#[test]
fn heads_of_requests_are_http1() {
    let (text, shape) = written(Request::get("http://a.test/x?y=1").header("x-a", "b"), true).unwrap();
    assert_eq!(text, "GET /x?y=1 HTTP/1.1\r\nhost: a.test\r\nx-a: b\r\n\r\n");
    assert_eq!(shape, Shape::default());
    let (text, shape) = written(Request::post("http://a.test/"), false).unwrap();
    assert!(text.ends_with("transfer-encoding: chunked\r\n\r\n") && shape.chunked, "{text}");
    let (text, shape) = written(Request::post("http://a.test/").header("content-length", "3"), false).unwrap();
    assert!(text.ends_with("content-length: 3\r\n\r\n") && !shape.chunked, "{text}");
    let (text, _) = written(Request::post("http://a.test/"), true).unwrap();
    assert!(text.ends_with("content-length: 0\r\n\r\n"), "{text}");
    let (_, shape) = written(Request::head("http://a.test/"), true).unwrap();
    assert!(shape.is_head);
    let grpc = Request::post("http://a.test/").header("content-type", "application/grpc+proto");
    assert!(written(grpc, false).unwrap().0.contains("te: trailers\r\n"));
    // A host in the place of the authority, and beside one that is the same.
    let (text, _) = written(Request::get("/").header("host", "b.test"), true).unwrap();
    assert_eq!(text, "GET / HTTP/1.1\r\nhost: b.test\r\n\r\n");
    assert!(written(Request::get("http://a.test/").header("host", "A.test"), true).is_ok());
    let (text, _) = written(Request::connect("a.test:443"), true).unwrap();
    assert!(text.starts_with("CONNECT a.test:443 HTTP/1.1\r\n"), "{text}");
}

#[test]
fn a_websocket_is_an_upgrade() {
    let asked = Request::connect("http://a.test/chat").extension(h2::ext::Protocol::from_static("websocket"));
    let (text, shape) = written(asked.header("sec-websocket-version", "13"), false).unwrap();
    assert!(text.starts_with("GET /chat HTTP/1.1\r\nhost: a.test\r\nsec-websocket-version: 13\r\n"), "{text}");
    let end = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: KEY\r\n\r\n";
    assert!(text.ends_with(end) && shape.tunnel, "{text}");
    let other = Request::connect("http://a.test/chat").extension(h2::ext::Protocol::from_static("other"));
    assert_eq!(written(other, false).unwrap_err(), Unfit::Status(501));
}

#[test]
fn what_is_malformed_is_not_written() {
    let get = || Request::get("http://a.test/");
    for (what, build) in [
        ("another host", get().header("host", "b.test")),
        ("two hosts", get().header("host", "a.test").header("host", "a.test")),
        ("a blank before a value", get().header("x", " a")),
        ("a blank behind a value", get().header("x", "a\t")),
        ("connection", get().header("connection", "close")),
        ("transfer-encoding", get().header("transfer-encoding", "chunked")),
        ("upgrade", get().header("upgrade", "h2c")),
        ("keep-alive", get().header("keep-alive", "1")),
        ("http2-settings", get().header("http2-settings", "AA")),
        ("an asterisk", Request::get("*")),
    ] {
        assert_eq!(written(build, true).unwrap_err(), Unfit::Malformed, "{what}");
    }
    let crumbs = |n| (0..n).fold(get(), |build, _| build.header("cookie", "a=b"));
    assert!(written(crumbs(128), true).is_ok());
    assert_eq!(written(crumbs(129), true).unwrap_err(), Unfit::Status(431));
}

#[test]
fn answers_lose_what_is_about_the_connection() {
    let limits = Limits { head_bytes: 4096, fields: 32, target_bytes: 100 };
    let mut fields = Fields::default();
    let text = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\nKeep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n";
    let line = parse_response(text, &limits, &mut fields).unwrap().unwrap();
    let answer = head::answer(text, &line, &fields).unwrap();
    assert_eq!(answer.status(), 200);
    let kept: Vec<_> = answer.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(kept, [("x-a", &b"1"[..]), ("set-cookie", b"a"), ("set-cookie", b"b")]);
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
    let line = parse_response(text, &limits, &mut fields).unwrap().unwrap();
    let answer = head::answer(text, &line, &fields).unwrap();
    let names: Vec<_> = answer.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!((answer.status().as_u16(), names), (200, vec!["sec-websocket-protocol"]));
}

#[test]
fn trailers_go_there_and_back() {
    let mut out = Vec::new();
    let found = head::trailers(b"X-Sum: 7\r\ngrpc-status:0\r\nconnection: x\r\n\r\n").unwrap();
    head::write_trailers(Some(&found), &mut out).unwrap();
    assert_eq!(out, b"0\r\nx-sum: 7\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(head::trailers(b"\r\n"), None);
    out.clear();
    head::write_trailers(None::<&HeaderMap>, &mut out).unwrap();
    assert_eq!(out, b"0\r\n\r\n");
}

#[test]
fn keys_are_sixteen_octets_in_base64() {
    assert_eq!(&head::key(0), b"AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(&head::key(u128::MAX), b"/////////////////////w==");
    assert_eq!(&head::key(u128::from_be_bytes(*b"the sample nonce")), b"dGhlIHNhbXBsZSBub25jZQ==");
}

const BOUNDS: Bounds = Bounds { resets: 3, control_frames: 5, continuations: 2 };

fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
    let mut octets = (payload as u32).to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags, 0, 0, 0, 1]);
    octets.resize(9 + payload, 0);
    octets
}

/// Feeds frames in pieces of `step` octets; returns the first breach.
fn feed(frames: &[Vec<u8>], step: usize) -> Option<Breach> {
    let mut meter = Meter::new(BOUNDS);
    let octets = [PREFACE, &frames.concat()].concat();
    octets.chunks(step).fold(None, |breach, piece| breach.or(meter.take(piece, 1)))
}

#[test]
fn frames_are_counted_wherever_the_octets_are_cut() {
    let pings = |n| vec![frame(6, 0, 8); n];
    for step in [1, 2, 3, 8, 9, 10, 17, 1000] {
        assert_eq!(feed(&pings(5), step), None, "{step}");
        assert_eq!(feed(&pings(6), step), Some(Breach::ControlFrames), "{step}");
        for kind in [2, 4, 8, 0xbb] {
            assert_eq!(feed(&vec![frame(kind, 0, 5); 6], step), Some(Breach::ControlFrames), "{kind} {step}");
        }
        assert_eq!(feed(&vec![frame(0, 0, 0); 6], step), Some(Breach::ControlFrames), "{step}");
        // Acknowledgements, and what moves something, are none of that; the latter pays for others.
        assert_eq!(feed(&vec![frame(6, 1, 8); 20], step), None, "{step}");
        assert_eq!(feed(&vec![frame(0, 0, 100); 20], step), None, "{step}");
        assert_eq!(feed(&[vec![frame(0, 0, 100); 3], pings(8)].concat(), step), None, "{step}");
        // Heads in pieces: as many as allowed each time, none hollow.
        let whole = [frame(1, 0, 10), frame(9, 0, 10), frame(9, 4, 10)];
        assert_eq!(feed(&[whole.clone(), whole.clone()].concat(), step), None, "{step}");
        let many = [frame(1, 0, 10), frame(9, 0, 10), frame(9, 0, 10), frame(9, 4, 10)];
        assert_eq!(feed(&many, step), Some(Breach::Continuations), "{step}");
        assert_eq!(feed(&[frame(1, 0, 10), frame(9, 0, 0)], step), Some(Breach::Continuations), "{step}");
    }
}

#[test]
fn counts_begin_anew_after_ten_seconds() {
    let mut meter = Meter::new(BOUNDS);
    assert_eq!(meter.take(PREFACE, 1), None);
    for now_ms in [1, 10_001, 20_001] {
        assert_eq!((0..3).find_map(|_| meter.reset(now_ms)), None, "{now_ms}");
        assert_eq!(meter.take(&vec![frame(6, 0, 8); 5].concat(), now_ms), None, "{now_ms}");
    }
    assert_eq!(meter.reset(20_002), Some(Breach::Resets));
    // What is sent pays for the frames of a reader.
    meter.sent(512 * 10);
    assert_eq!(meter.take(&vec![frame(8, 0, 4); 10].concat(), 20_003), None);
}
