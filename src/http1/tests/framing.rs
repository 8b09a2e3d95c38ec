use crate::http1::framing::{Body, Form, Framing, request_body, response_body};
use crate::http1::head::{Fields, Limits, parse_request, parse_response};
use crate::http1::reject::Reject;
use proptest::prelude::*;

const LIMITS: Limits = Limits { head_bytes: 4096, fields: 32, target_bytes: 256 };

fn request(version: &str, lines: &str) -> Result<Framing, Reject> {
    let text = format!("POST / {version}\r\n{lines}\r\n");
    let mut fields = Fields::default();
    let line = parse_request(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
    request_body(text.as_bytes(), &fields, line.version)
}

fn response(lines: &str, head: bool) -> Result<Framing, Reject> {
    let text = format!("{lines}\r\n");
    let mut fields = Fields::default();
    let line = parse_response(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
    response_body(text.as_bytes(), &fields, line.version, line.status, head)
}

#[test]
fn decides_the_framing_of_requests() {
    assert_eq!(request("HTTP/1.1", ""), Ok(Framing::None));
    assert_eq!(request("HTTP/1.1", "Content-Length: 0\r\n"), Ok(Framing::None));
    assert_eq!(request("HTTP/1.1", "Content-Length: 007\r\n"), Ok(Framing::Length(7)));
    assert_eq!(request("HTTP/1.1", "Transfer-Encoding: ChUnKeD\r\n"), Ok(Framing::Chunked));
    for (lines, why) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Reject::LengthAndCoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: chunked, chunked\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: \"chunked\"\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding:\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: identity\r\n", Reject::TransferEncoding),
        ("Transfer-Encoding: gzip\r\n", Reject::UnknownCoding),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Reject::ContentLength),
        ("Content-Length: 5, 5\r\n", Reject::ContentLength),
        ("Content-Length: +5\r\n", Reject::ContentLength),
        ("Content-Length: -5\r\n", Reject::ContentLength),
        ("Content-Length: 0x5\r\n", Reject::ContentLength),
        ("Content-Length: 5 5\r\n", Reject::ContentLength),
        ("Content-Length:\r\n", Reject::ContentLength),
        ("Content-Length: 9223372036854775808\r\n", Reject::ContentLength),
        ("Content-Length: 99999999999999999999\r\n", Reject::ContentLength),
    ] {
        assert_eq!(request("HTTP/1.1", lines), Err(why), "{lines:?}");
    }
    assert_eq!(request("HTTP/1.0", "Transfer-Encoding: chunked\r\n"), Err(Reject::TransferEncoding));
}

#[test]
fn decides_the_framing_of_responses() {
    assert_eq!(response("HTTP/1.1 200 OK\r\n", false), Ok(Framing::Close));
    assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", false), Ok(Framing::Length(3)));
    assert_eq!(response("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", true), Ok(Framing::None));
    assert_eq!(response("HTTP/1.1 204 X\r\nContent-Length: 3\r\n", false), Ok(Framing::None));
    assert_eq!(response("HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n", false), Ok(Framing::None));
    assert_eq!(response("HTTP/1.1 100 X\r\n", false), Ok(Framing::None));
    assert_eq!(response("HTTP/1.0 200 X\r\nTransfer-Encoding: chunked\r\n", false), Err(Reject::TransferEncoding));
    assert_eq!(
        response("HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n", true),
        Err(Reject::LengthAndCoding)
    );
}

/// Feeds `input` in pieces; returns the octets used and the canonical form.
fn feed(input: &[u8], piece: usize, form: Form) -> Result<(usize, Vec<u8>, bool), Reject> {
    let (mut body, mut out, mut used) = (Body::new(Framing::Chunked), Vec::new(), 0);
    for part in input.chunks(piece) {
        used += body.transcode(part, form, &mut out)?;
        if body.is_done() {
            break;
        }
    }
    Ok((used, out, body.is_done()))
}

#[test]
fn a_chunked_body_ends_where_its_last_chunk_ends() {
    let text = b"5\r\nhello\r\n00A\r\n0123456789\r\n0\r\n\r\nGET";
    let mut body = Body::new(Framing::Chunked);
    assert_eq!((body.advance(text), body.is_done(), body.passed()), (Ok(text.len() - 3), true, 15));
}

#[test]
fn transcodes_the_same_at_every_split() {
    let text = b"5;a=\"b\"\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: evil\r\n\r\nrest";
    for piece in 1..text.len() {
        let (used, plain, done) = feed(text, piece, Form::Plain).unwrap();
        assert_eq!((used, plain.as_slice(), done), (text.len() - 4, &b"helloabc"[..], true), "{piece}");
        let (_, out, _) = feed(text, piece, Form::Chunked).unwrap();
        assert!(out.ends_with(b"0\r\nX-Sum: 1\r\n\r\n"), "{piece}");
        let (_, out, _) = feed(text, piece, Form::ChunkedNoTrailers).unwrap();
        assert!(out.ends_with(b"\r\n0\r\n\r\n"));
    }
}

#[test]
fn refuses_malformed_chunks() {
    for bad in [
        &b"\r\n"[..],
        b"g\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"0x1\r\n",
        b"1_0\r\n",
        b"1\n",
        b"1\r\r",
        b"1\r\nab",
        b"1\r\na\n",
        b"8000000000000000\r\n",
        b"11111111111111111\r\n",
        b"1;a\nb",
        b"1;a\0",
        b"1;a\rb",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nX: y\n\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
    ] {
        let mut body = Body::new(Framing::Chunked);
        assert!(body.advance(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
    }
    let long = [b"1;".as_slice(), &vec![b'a'; 5000]].concat();
    assert_eq!(Body::new(Framing::Chunked).advance(&long), Err(Reject::Chunk));
    let long = [b"0\r\n".as_slice(), &vec![b'a'; 9000]].concat();
    assert_eq!(Body::new(Framing::Chunked).advance(&long), Err(Reject::Trailer));
}

#[test]
fn a_length_body_takes_only_its_octets() {
    let mut body = Body::new(Framing::Length(5));
    assert_eq!(body.advance(b"abc").unwrap(), 3);
    assert!(!body.is_done() && !body.ends_with_connection());
    assert_eq!(body.advance(b"defg").unwrap(), 2);
    assert!(body.is_done());
    assert_eq!(body.advance(b"x").unwrap(), 0);
}

proptest! {
    #[test]
    fn what_is_transcoded_reads_back_the_same(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), piece in 1usize..50) {
        let mut text = Vec::new();
        for chunk in &chunks {
            text.extend(format!("{:X};ext\r\n", chunk.len()).into_bytes());
            text.extend(chunk);
            text.extend(b"\r\n");
        }
        text.extend(b"0\r\n\r\n");
        let (_, once, done) = feed(&text, piece, Form::Chunked).unwrap();
        prop_assert!(done);
        let mut body = Body::new(Framing::Chunked);
        prop_assert_eq!(body.advance(&once), Ok(once.len()));
        prop_assert!(body.is_done());
        let (_, plain, _) = feed(&once, piece, Form::Plain).unwrap();
        prop_assert_eq!(plain, chunks.concat());
    }

    #[test]
    fn never_panics_on_any_octets(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut body = Body::new(Framing::Chunked);
        if let Ok(used) = body.advance(&bytes) {
            prop_assert!(used <= bytes.len());
        }
    }
}

#[test]
fn octets_that_pass_elsewhere_count_as_those_that_are_seen() {
    let mut body = Body::new(Framing::Length(10));
    assert_eq!((body.left(), body.advance(b"abc")), (Some(10), Ok(3)));
    body.pass(6);
    assert_eq!((body.left(), body.passed(), body.is_done()), (Some(1), 9, false));
    assert_eq!((body.advance(b"xy"), body.left(), body.is_done()), (Ok(1), Some(0), true));
    let mut body = Body::new(Framing::Close);
    body.pass(7);
    assert_eq!((body.left(), body.passed(), body.is_done()), (Some(u64::MAX), 7, false));
    assert_eq!(Body::new(Framing::Chunked).left(), None);
}
