use crate::http1::head::{Fields, Kind, Limits, Version, parse_request, parse_response};
use crate::http1::reject::Reject;
use proptest::prelude::*;

const LIMITS: Limits = Limits { head_bytes: 4096, fields: 8, target_bytes: 256 };

fn request(text: &str) -> Result<Option<(String, String, Version, usize)>, Reject> {
    let mut fields = Fields::default();
    parse_request(text.as_bytes(), &LIMITS, &mut fields)
        .map(|line| line.map(|l| (l.method.to_owned(), l.target.to_owned(), l.version, l.len)))
}

#[test]
fn reads_a_plain_request_and_its_fields() {
    let text = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\nX-Y:\t v w \r\n\r\nrest";
    let mut fields = Fields::default();
    let line = parse_request(text, &LIMITS, &mut fields).unwrap().unwrap();
    assert_eq!((line.method, line.target, line.version, line.len), ("GET", "/a?b=c", Version::Http11, text.len() - 4));
    let seen: Vec<_> = fields.iter().map(|f| (f.name(text), f.value(text), f.kind)).collect();
    assert_eq!(seen, [(&b"Host"[..], &b"x"[..], Kind::Host), (b"X-Y", b"v w", Kind::Other)]);
}

#[test]
fn every_prefix_of_a_valid_head_needs_more() {
    let text = "POST /x HTTP/1.1\r\nHost: a.example:80\r\nContent-Length: 3\r\nA:\r\n\r\n";
    for cut in 0..text.len() {
        assert_eq!(request(&text[..cut]), Ok(None), "{cut}");
    }
    assert!(request(text).unwrap().is_some());
    assert!(request(&format!("\r\n{text}")).unwrap().is_some());
}

#[test]
fn refuses_malformed_start_lines() {
    for (text, why) in [
        ("GET  / HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GET /\r\n\r\n", Reject::StartLine),
        (" GET / HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GE(T / HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GET / HTTP/1.10\r\n\r\n", Reject::LineEnd),
        ("GET / HTTP/01.1\r\n\r\n", Reject::StartLine),
        ("GET / http/1.1\r\n\r\n", Reject::StartLine),
        ("GET / HTTP/2.0\r\n\r\n", Reject::Version),
        ("GET / HTTP/0.9\r\n\r\n", Reject::Version),
        ("GET / HTTP/1.1 \r\n\r\n", Reject::LineEnd),
        ("GET /\x01 HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GET /\u{e4} HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GET /#f HTTP/1.1\r\n\r\n", Reject::Target),
        ("GET\t/ HTTP/1.1\r\n\r\n", Reject::StartLine),
        ("GET / HTTP/1.1\n\n", Reject::LineEnd),
        ("\n\nGET / HTTP/1.1\r\n\r\n", Reject::LineEnd),
    ] {
        assert_eq!(request(text), Err(why), "{text:?}");
    }
    assert_eq!(request("GET / HTTP/1.2\r\nHost: x\r\n\r\n").unwrap().unwrap().2, Version::Http11);
}

#[test]
fn refuses_malformed_fields() {
    for (line, why) in [
        ("Host : x\r\n", Reject::FieldName),
        (": x\r\n", Reject::FieldName),
        ("nocolon\r\n", Reject::FieldName),
        ("A B: x\r\n", Reject::FieldName),
        ("A: x\n", Reject::LineEnd),
        ("A: x\ry\r\n", Reject::LineEnd),
        ("A: x\r\r\n", Reject::LineEnd),
        ("A: x\0y\r\n", Reject::FieldValue),
        ("A: \x7f\r\n", Reject::FieldValue),
        (" A: x\r\n", Reject::Fold),
        ("A: x\r\n folded\r\n", Reject::Fold),
        ("A: x\r\n\tfolded\r\n", Reject::Fold),
        ("X_Real_IP: x\r\n", Reject::Underscore),
        ("A\u{e4}: x\r\n", Reject::FieldName),
    ] {
        assert_eq!(request(&format!("GET / HTTP/1.1\r\n{line}\r\n")), Err(why), "{line:?}");
    }
    assert!(request("GET / HTTP/1.1\r\nA: \u{e4}\tx\r\n\r\n").unwrap().is_some());
}

#[test]
fn limits_hold_to_the_octet() {
    let with_target = |n: usize| request(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(n - 1)));
    assert!(with_target(256).unwrap().is_some());
    assert_eq!(with_target(257), Err(Reject::TargetTooLong));
    assert_eq!(request(&format!("GET /{}", "a".repeat(400))), Err(Reject::TargetTooLong));
    let with_fields = |n: usize| request(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(n)));
    assert!(with_fields(8).unwrap().is_some());
    assert_eq!(with_fields(9), Err(Reject::TooManyFields));
    let rest = "GET / HTTP/1.1\r\nA: \r\n\r\n".len();
    let with_value = |n: usize| request(&format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "v".repeat(n)));
    assert!(with_value(4096 - rest).unwrap().is_some());
    assert_eq!(with_value(4097 - rest), Err(Reject::HeadTooLarge));
    assert_eq!(request(&format!("GET / HTTP/1.1\r\nA: {}", "v".repeat(5000))), Err(Reject::HeadTooLarge));
}

#[test]
fn reads_and_refuses_status_lines() {
    let parse = |text: &str| {
        let mut fields = Fields::default();
        parse_response(text.as_bytes(), &LIMITS, &mut fields).map(|l| l.map(|l| (l.status, l.version)))
    };
    assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n"), Ok(Some((200, Version::Http11))));
    assert_eq!(parse("HTTP/1.0 404\r\n\r\n"), Ok(Some((404, Version::Http10))));
    assert_eq!(parse("HTTP/1.1 299 \r\nA_b: c\r\n\r\n"), Ok(Some((299, Version::Http11))));
    assert_eq!(parse("HTTP/1.1 20"), Ok(None));
    for bad in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000\r\n\r\n",
        "HTTP/1.1  200\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "junk",
        "HTTP/1.1 099 x\r\n\r\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), Err(Reject::Fold));
}

proptest! {
    #[test]
    fn never_panics_and_never_reads_past_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let mut fields = Fields::default();
        if let Ok(Some(line)) = parse_request(&bytes, &LIMITS, &mut fields) {
            prop_assert!(line.len <= bytes.len());
        }
        if let Ok(Some(line)) = parse_response(&bytes, &LIMITS, &mut fields) {
            prop_assert!(line.len <= bytes.len());
        }
    }

    #[test]
    fn a_verdict_on_a_prefix_never_changes(text in "(GET|PUT) /[a-z]{0,8} HTTP/1\\.[01]\r\n([A-Z][a-z_ ]{0,4}:[ a-z\t\r\n]{0,6}\r\n){0,3}\r\n") {
        let mut fields = Fields::default();
        let whole = parse_request(text.as_bytes(), &LIMITS, &mut fields).map(|l| l.map(|l| l.len));
        for cut in 0..text.len() {
            match parse_request(&text.as_bytes()[..cut], &LIMITS, &mut fields).map(|l| l.map(|l| l.len)) {
                Ok(None) => {}
                verdict => { prop_assert_eq!(verdict, whole); break; }
            }
        }
    }
}

#[test]
fn the_first_half_of_an_empty_line_is_waited_out() {
    let mut fields = Fields::with_capacity(8);
    let limits = Limits { head_bytes: 1024, fields: 8, target_bytes: 256 };
    assert!(matches!(parse_request(b"\r", &limits, &mut fields), Ok(None)));
    assert!(parse_request(b"\r\r", &limits, &mut fields).is_err());
}
