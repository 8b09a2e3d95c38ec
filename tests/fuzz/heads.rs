//! Heads of requests and responses.

use crate::corpus::{REQUESTS, RESPONSES};
use crate::fuzz;
use weir::http1::framing::{Framing, request_body, response_body};
use weir::http1::head::{Fields, Kind, Limits, parse_request, parse_response};
use weir::http1::path;
use weir::http1::rewrite::{self, Forwarding, Persistence};
use weir::rng::Rng;

const LIMITS: Limits = Limits { head_bytes: 2048, fields: 24, target_bytes: 512 };

/// What an accepted head must never hold: an octet that another parser could read as a line's end or a string's.
fn check_octets(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    for (at, &byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n'), "a bare CR"),
            b'\n' => assert_eq!(head[at - 1], b'\r', "a bare LF"),
            0..=8 | 11 | 12 | 14..=31 | 127 => panic!("control octet {byte}"),
            _ => {}
        }
    }
}

/// Every shorter piece of an accepted head is incomplete: it is neither accepted nor refused.
fn check_prefixes(head: &[u8], rng: &mut Rng, parse: impl Fn(&[u8]) -> bool) {
    for _ in 0..4 {
        let cut = rng.below(head.len());
        assert!(parse(&head[..cut]), "{cut} octets of it are not incomplete");
    }
}

#[test]
fn request_heads() {
    let mut fields = Fields::with_capacity(LIMITS.fields);
    let mut again = Fields::with_capacity(LIMITS.fields + 8);
    fuzz("request head", REQUESTS, |input, rng| {
        let Ok(Some(line)) = parse_request(input, &LIMITS, &mut fields) else { return };
        let head = &input[..line.len];
        check_octets(head);
        // RFC 9112 §2.2: one empty line may stand before it; then the shortest pieces are just that.
        check_prefixes(head, rng, |piece| {
            matches!(parse_request(piece, &LIMITS, &mut Fields::with_capacity(LIMITS.fields)), Ok(None))
        });
        let Ok(mut authority) = rewrite::authority(head, &line, &fields) else { return };
        let Ok(normal) = path::normalise(authority.target) else { return };
        if let Some(target) = &normal {
            assert_eq!(path::normalise(target), Ok(None), "what was normalised is normal");
            authority.target = target;
        }
        let Ok(framing) = request_body(head, &fields, line.version) else { return };
        let forwarding = Forwarding {
            authority,
            framing,
            client: b"192.0.2.1",
            scheme: "http",
            identity: b"",
            trusted: rng.below(2) == 0,
            request_id: b"id",
            http2: false,
        };
        let mut out = Vec::new();
        rewrite::request(head, &line, &fields, &forwarding, &mut out);
        check_octets(&out);
        let wide = Limits { head_bytes: 1 << 16, fields: 64, target_bytes: 4096 };
        let sent = parse_request(&out, &wide, &mut again).unwrap().unwrap();
        // RFC 9112 §3.2.1: an empty path is sent as "/".
        let slash = if authority.target.is_empty() || authority.target.starts_with('?') { "/" } else { "" };
        let target = format!("{slash}{}", authority.target);
        assert_eq!((sent.len, sent.method, sent.target), (out.len(), line.method, target.as_str()));
        assert_eq!(request_body(&out, &again, sent.version), Ok(framing), "the endpoint reads another body");
        let hosts = again.iter().filter(|field| field.kind == Kind::Host).count();
        assert_eq!(hosts, 1, "one host");
    });
}

#[test]
fn response_heads() {
    let mut fields = Fields::with_capacity(LIMITS.fields);
    let mut again = Fields::with_capacity(LIMITS.fields + 8);
    fuzz("response head", RESPONSES, |input, rng| {
        let Ok(Some(line)) = parse_response(input, &LIMITS, &mut fields) else { return };
        let head = &input[..line.len];
        check_octets(head);
        check_prefixes(head, rng, |piece| {
            matches!(parse_response(piece, &LIMITS, &mut Fields::with_capacity(LIMITS.fields)), Ok(None))
        });
        assert!((100..=999).contains(&line.status));
        let is_head = rng.below(2) == 0;
        let Ok(framing) = response_body(head, &fields, line.version, line.status, is_head) else { return };
        let mut out = Vec::new();
        rewrite::response(head, &line, &fields, framing == Framing::Chunked, Persistence::Close, &mut out);
        check_octets(&out);
        let wide = Limits { head_bytes: 1 << 16, fields: 64, target_bytes: 4096 };
        let sent = parse_response(&out, &wide, &mut again).unwrap().unwrap();
        assert_eq!((sent.len, sent.status), (out.len(), line.status));
        assert_eq!(
            response_body(&out, &again, sent.version, sent.status, is_head),
            Ok(framing),
            "the client reads another body"
        );
    });
}
