#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::exit, reason = "a program for people")]
//! What the HTTP/2 codec costs for one request and its answer on a warm connection; it must allocate nothing.

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use support::{Counting, allocations, nanoseconds};
use weir::http1::head::{Fields, Limits, parse_response};
use weir::http2::answer::Ending;
use weir::http2::connection::{Config, Connection};
use weir::http2::frame::{HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE, put};
use weir::http2::meter::Bounds;
use weir::http2::serve::Read;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nCache-Control: private, max-age=0\r\n\
    ETag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\nLast-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\n\
    Vary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 128\r\n\r\n";

/// What a client sends again and again: indexes, of the static table and of what its first request left.
const INDEXED: &[u8] = &[0x82, 0x87, 0x84, 0xbf, 0xbe];
/// A request whose path, cookie and agent are literals.
const LITERALS: [(&str, &str); 3] =
    [("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:139.0)"), ("accept", "*/*"), ("x-id", "33a64df551425fcc")];

fn main() {
    println!("http2_codec: a request and its answer of 128 octets; lower quartile of 400 rounds");
    println!("  {:28} {:>7} {:>12}", "request", "ns", "allocations");
    let mut literals = vec![0x82, 0x87, 0x84, 0xbf];
    for (name, value) in LITERALS {
        literals.extend([&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat());
    }
    let worst = [("indexes", INDEXED), ("literals", &literals)].map(|(name, block)| row(name, block)).into_iter().max();
    if worst.unwrap() > 0 {
        println!("FAILED: the codec allocates for a request");
        std::process::exit(1);
    }
}

fn row(name: &str, block: &[u8]) -> u64 {
    let mut codec = open();
    let limits = Limits { head_bytes: 64 * 1024, fields: 128, target_bytes: 16 * 1024 };
    let (mut fields, mut stream) = (Fields::with_capacity(128), 1u32);
    let (mut frames, mut head, mut notices) = (Vec::with_capacity(4096), [0u8; 4096], Vec::with_capacity(64));
    let mut call = || {
        stream += 2;
        frames.clear();
        put(&mut frames, HEADERS, 5, stream, black_box(block));
        // The client reads on.
        put(&mut frames, WINDOW_UPDATE, 0, 0, &128u32.to_be_bytes());
        assert_eq!(codec.receive(&frames, u64::from(stream) << 14, &mut || 0), frames.len());
        codec.take_unowned();
        codec.begin_stream(0).unwrap();
        let Read::Octets(n) = codec.read(0, &mut head) else { return 0 };
        let line = parse_response(ANSWER.as_bytes(), &limits, &mut fields).unwrap().unwrap();
        codec.answer(0, (ANSWER.as_bytes(), &line, &fields), Ending::Body);
        codec.send(0, &[b'x'; 128], true);
        codec.release(0, true);
        let pending = codec.pending().len();
        codec.wrote(pending);
        notices.clear();
        codec.take_notices(&mut notices);
        n
    };
    for _ in 0..100 {
        assert!(call() > 0);
    }
    let before = allocations();
    let ns = nanoseconds(400, 2_000, &mut call);
    let allocated = (allocations() - before).saturating_sub(1);
    println!("  {name:28} {ns:7.0} {allocated:12}");
    allocated
}

fn open() -> Connection {
    let bounds = Bounds { resets: 100, control_frames: 1000, continuations: 8 };
    let config = Config {
        streams: 100,
        stream_window: 65_536,
        connection_window: 262_144,
        head_bytes: 65_536,
        head_fields: 128,
        bounds,
    };
    let mut codec = Connection::new(config);
    let mut frames = PREFACE.to_vec();
    put(&mut frames, SETTINGS, 0, 0, &[]);
    // The authority and a field enter the table.
    let first = [&[0x82, 0x87, 0x84, 0x41, 11][..], b"www.test:80", &[0x40, 3], b"x-y", &[1], b"z"].concat();
    put(&mut frames, HEADERS, 5, 1, &first);
    codec.receive(&frames, 1, &mut || 0);
    codec.take_unowned();
    codec.begin_stream(0);
    codec.release(0, true);
    codec
}
