//! Chunked bodies, beside a decoder written from the RFC's grammar alone.

use crate::corpus::CHUNKED;
use crate::fuzz;
use weir::http1::framing::{Body, Form, Framing};

/// RFC 9112 §7.1 with CRLF only and no control octets in extensions; `None`: malformed or incomplete. Returns the payload
/// and how many octets the body has.
fn decode(mut input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let whole = input.len();
    let mut payload = Vec::new();
    loop {
        let end = input.windows(2).position(|pair| pair == b"\r\n")?;
        let line = &input[..end];
        input = &input[end + 2..];
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        if digits == 0 || digits > 16 || extension.first().is_some_and(|&b| b != b';') {
            return None;
        }
        if extension.iter().any(|&b| (b < b' ' && b != b'\t') || b == 127) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            let end =
                if input.starts_with(b"\r\n") { 2 } else { input.windows(4).position(|four| four == b"\r\n\r\n")? + 4 };
            return Some((payload, whole - input.len() + end));
        }
        payload.extend_from_slice(input.get(..size)?);
        input = input.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[test]
fn chunked_bodies() {
    fuzz("chunked body", CHUNKED, |input, rng| {
        let mut body = Body::new(Framing::Chunked);
        let mut out = Vec::new();
        let whole = body.transcode(input, Form::Plain, &mut out);
        // In pieces it comes to the same.
        let mut pieces = Body::new(Framing::Chunked);
        let (mut piecewise, mut at) = (Vec::new(), 0);
        let split = loop {
            if at == input.len() || pieces.is_done() {
                break Ok(at);
            }
            let end = at + 1 + rng.below(input.len() - at);
            match pieces.transcode(&input[at..end], Form::Plain, &mut piecewise) {
                Ok(used) => at += used,
                Err(reject) => break Err(reject),
            }
        };
        assert_eq!((&whole, body.is_done()), (&split, pieces.is_done()));
        if whole.is_ok() {
            assert_eq!(out, piecewise);
        }
        match (whole, body.is_done()) {
            (Ok(used), true) => {
                let (payload, length) = decode(input).expect("accepted, and not by the grammar");
                assert_eq!((&payload, length), (&out, used));
                // Written as chunks again it is the same body, without extensions.
                let mut again = Vec::new();
                Body::new(Framing::Chunked).transcode(input, Form::Chunked, &mut again).unwrap();
                let (payload, length) = decode(&again).expect("what is forwarded is well formed");
                assert_eq!((&payload, length), (&out, again.len()));
            }
            (Ok(used), false) => assert_eq!(used, input.len()),
            (Err(_), _) => {}
        }
    });
}
