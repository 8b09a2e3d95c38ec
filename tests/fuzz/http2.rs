//! HTTP/2 connections that owners serve at random, and blocks of fields that are decoded, encoded and decoded again.

use crate::fuzz;
use weir::http1::head::{Fields, Limits, parse_response};
use weir::http2::answer::Ending;
use weir::http2::connection::{Config, Connection};
use weir::http2::frame::{HEAD, Head, MAX_PAYLOAD, PREFACE, put};
use weir::http2::hpack::{Decoder, Encoder};
use weir::http2::meter::Bounds;
use weir::http2::serve::{Read, Room};
use weir::rng::Rng;

const CONFIG: Config = Config {
    streams: 8,
    stream_window: 1000,
    connection_window: 70_000,
    head_bytes: 2000,
    head_fields: 128,
    bounds: Bounds { resets: 20, control_frames: 50, continuations: 4 },
};

/// What a connection may have waiting: data, the heads of answers, and what control frames are answered.
const MAX_PENDING: usize = 160 * 1024;

fn frames(list: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(kind, flags, stream, payload) in list {
        put(&mut out, kind, flags, stream, payload);
    }
    out
}

/// The block of a GET.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a', 0x40, 1, b'x', 1, b'y'];

fn connections() -> Vec<Vec<u8>> {
    let tunnel = [&[2, 7][..], b"CONNECT\x86\x84\x41\x01a\0\x09:protocol\x09websocket"].concat();
    vec![
        frames(&[(4, 0, 0, &[]), (1, 5, 1, GET), (1, 5, 3, GET), (1, 5, 5, GET)]),
        frames(&[(4, 0, 0, &[0, 4, 0, 0, 0, 3]), (1, 4, 1, POST), (0, 0, 1, b"hello"), (0, 9, 1, b"\x02ab\0\0")]),
        frames(&[(4, 1, 0, &[]), (4, 0, 0, &[0, 1, 0, 0, 0, 0]), (1, 4, 1, POST), (1, 5, 1, &[0, 1, b't', 1, b'u'])]),
        frames(&[(4, 0, 0, &[]), (1, 0, 1, &GET[..2]), (9, 0, 1, &GET[2..3]), (9, 4, 1, &GET[3..]), (0, 1, 1, b"x")]),
        frames(&[(4, 0, 0, &[]), (1, 37, 1, &[&[0, 0, 0, 3, 16], GET].concat()), (2, 0, 1, &[0, 0, 0, 0, 1])]),
        frames(&[
            (4, 0, 0, &[]),
            (6, 0, 0, b"12345678"),
            (8, 0, 0, &[0, 0, 0, 9]),
            (7, 0, 0, &[0; 8]),
            (0xbb, 0, 0, &[]),
        ]),
        frames(&[(4, 0, 0, &[]), (1, 4, 1, POST), (3, 0, 1, &[0, 0, 0, 8]), (1, 4, 3, POST), (8, 0, 3, &[0, 0, 1, 0])]),
        frames(&[(4, 0, 0, &[]), (1, 4, 1, &tunnel), (0, 0, 1, b"octets"), (0, 1, 1, b"")]),
        frames(&[
            (4, 0, 0, &[]),
            (1, 5, 1, &[GET, &[0x0f, 0x0d, 1, b'5'][..]].concat()),
            (1, 5, 3, &[GET, &[0xbe; 40]].concat()),
        ]),
    ]
}

/// Makes frames of mutated octets where a length leads behind them: else hardly any is whole.
fn mend(mut octets: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(head) = Head::parse(&octets[at..]) {
        let rest = octets.len() - at - HEAD;
        let length = head.length.min(rest).min(300);
        octets[at..at + HEAD].copy_from_slice(&Head { length, ..head }.octets());
        at += HEAD + length;
    }
    octets
}

/// Takes some of what goes out: whole frames within the limit, one after the other.
fn take(codec: &mut Connection, out: &mut Vec<u8>, rng: &mut Rng) {
    assert!(codec.pending().len() <= MAX_PENDING, "{} octets wait", codec.pending().len());
    let n = rng.below(codec.pending().len() + 1);
    out.extend_from_slice(&codec.pending()[..n]);
    codec.wrote(n);
}

fn assert_frames(mut out: &[u8]) {
    let mut inside = None;
    while !out.is_empty() {
        let head = Head::parse(out).expect("a head");
        assert!(head.length <= MAX_PAYLOAD && out.len() >= HEAD + head.length, "{head:?}");
        assert!(inside.is_none_or(|stream| head.kind == 9 && head.stream == stream), "{head:?}");
        inside = (matches!(head.kind, 1 | 9) && !head.has(4)).then_some(head.stream);
        out = &out[HEAD + head.length..];
    }
}

const ANSWERS: [&[u8]; 4] = [
    b"HTTP/1.1 200 OK\r\nX-A: b\r\nSet-Cookie: c\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nGrpc-Status: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n",
];

/// One owner does one thing.
fn serve(codec: &mut Connection, slot: usize, has_stream: &mut bool, rng: &mut Rng) {
    if !*has_stream {
        *has_stream = codec.begin_stream(slot).is_some();
        return;
    }
    match rng.below(7) {
        0 => {
            let mut into = [0; 64];
            let room = 1 + rng.below(64);
            if let Read::Octets(n) = codec.read(slot, &mut into[..room]) {
                assert!(n > 0 && n <= room);
            }
        }
        1 => {
            let text = ANSWERS[rng.below(ANSWERS.len())];
            let mut fields = Fields::default();
            let limits = Limits { head_bytes: 1000, fields: 10, target_bytes: 10 };
            let line = parse_response(text, &limits, &mut fields).unwrap().unwrap();
            if !codec.is_complete(slot) {
                let ending = if line.status == 404 { Ending::Head } else { Ending::Body };
                codec.answer(slot, (text, &line, &fields), ending);
            }
        }
        2 | 3 if codec.room_for(slot) == Room::Free => {
            let data = vec![7; rng.below(codec.room(slot).min(5000) + 1)];
            if rng.below(4) == 0 {
                codec.trail(slot, b"X-T: 1\r\n\r\n");
            }
            codec.send(slot, &data, rng.below(3) == 0);
        }
        4 => {
            codec.release(slot, true);
            *has_stream = false;
        }
        5 if rng.below(4) == 0 => codec.leave(),
        _ => {}
    }
}

#[test]
fn http2_connections() {
    let corpus = connections();
    let corpus: Vec<&[u8]> = corpus.iter().map(Vec::as_slice).collect();
    fuzz("HTTP/2 connection", &corpus, |input, rng| {
        let octets = [PREFACE, &mend(input.to_vec())].concat();
        // In pieces it comes to the same as whole.
        let mut whole = Connection::new(CONFIG);
        let used = whole.receive(&octets, 1, &mut || 7);
        let (mut pieces, mut rest) = (Connection::new(CONFIG), Vec::new());
        let mut at = 0;
        while at < octets.len() && pieces.failure().is_none() {
            let end = at + 1 + rng.below(octets.len() - at);
            rest.extend_from_slice(&octets[at..end]);
            let taken = pieces.receive(&rest, 1, &mut || 7);
            rest.drain(..taken);
            at = end;
        }
        assert_eq!((whole.pending(), whole.failure()), (pieces.pending(), pieces.failure()));
        assert!(used <= octets.len());
        // And owners that do anything at any time make frames that are whole, of bounded length together.
        let (mut codec, mut out, mut owners) = (Connection::new(CONFIG), Vec::new(), Vec::new());
        let mut rest = &octets[..];
        for _ in 0..200 {
            match rng.below(3) {
                0 => {
                    let n = rng.below(rest.len() + 1);
                    let used = codec.receive(&rest[..n], 1, &mut || 7);
                    rest = &rest[used..];
                    while let Some(slot) = codec.take_unowned() {
                        owners.resize(owners.len().max(slot + 1), false);
                    }
                    codec.take_notices(&mut Vec::new());
                    while codec.take_refusal().is_some() {}
                }
                1 if !owners.is_empty() => {
                    let slot = rng.below(owners.len());
                    serve(&mut codec, slot, &mut owners[slot], rng);
                }
                _ => take(&mut codec, &mut out, rng),
            }
            assert!(codec.busy() <= 2 * CONFIG.streams as usize);
        }
        for (slot, has_stream) in owners.iter().enumerate() {
            codec.disown(slot, *has_stream);
        }
        out.extend_from_slice(codec.pending());
        assert_frames(&out);
        assert_eq!(codec.busy(), 0);
    });
}

#[test]
fn hpack_blocks() {
    let plain = [GET, POST, &[0x3f, 0x61, 0x82, 0xbe][..], &[0x40, 0x81, 0x1f, 0x83, 0x1c, 0x64, 0x5f, 0xbe]];
    fuzz("HPACK block", &plain, |input, rng| {
        let (mut decoder, mut found) = (Decoder::new(4096), Vec::new());
        // Two blocks, so that the second names what the first left in the table.
        let (first, second) = input.split_at(rng.below(input.len() + 1));
        for block in [first, second] {
            let before = found.len();
            let fields = &mut found;
            let decoded = decoder.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
            assert!(found.len() - before <= block.len());
            if decoded.is_err() {
                break;
            }
        }
        let (mut encoder, mut again) = (Encoder::default(), Decoder::new(4096));
        for _ in 0..2 {
            let (mut block, mut fields) = (Vec::new(), Vec::new());
            encoder.begin_trailers(&mut block);
            for (name, value) in &found {
                encoder.field(name, value, &mut block);
            }
            again.decode(&block, |name, value| fields.push((name.to_vec(), value.to_vec()))).expect("our own block");
            assert_eq!(fields, found);
        }
    });
}
