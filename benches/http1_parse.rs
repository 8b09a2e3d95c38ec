#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people")]
//! Parsing and rewriting one head: nanoseconds, gigabytes a second, allocations.

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use support::{Counting, allocations, nanoseconds};
use weir::http1::framing::request_body;
use weir::http1::head::{Fields, Limits, parse_request, parse_response};
use weir::http1::rewrite::{Forwarding, authority, request};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TINY: &str = "GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

const BROWSER: &str = "GET /article/2026/11/24?ref=front HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Referer: http://www.example.com/products/overview?page=3\r\n\
    Cookie: session=0f8fad5bd9cb469fa16570867728950e; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nCache-Control: max-age=0\r\n\r\n";

const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Tue, 24 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\nCache-Control: private, max-age=0\r\n\
    ETag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\nLast-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\n\
    Vary: Accept-Encoding\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 128\r\n\r\n";

fn main() {
    println!("http1_parse: one head; lower quartile of 400 rounds");
    println!("  {:28} {:>6} {:>7} {:>7} {:>12}", "head", "octets", "ns", "GB/s", "allocations");
    let limits = Limits { head_bytes: 64 * 1024, fields: 128, target_bytes: 16 * 1024 };
    let mut fields = Fields::with_capacity(128);
    for (name, head) in [("request, tiny", TINY), ("request, browser", BROWSER)] {
        let bytes = head.as_bytes();
        row(&format!("{name}: parse"), bytes.len(), || {
            let line = parse_request(black_box(bytes), &limits, &mut fields).unwrap().unwrap();
            line.len
        });
        let mut out = Vec::with_capacity(4096);
        row(&format!("{name}: parse + rewrite"), bytes.len(), || {
            let line = parse_request(black_box(bytes), &limits, &mut fields).unwrap().unwrap();
            let forwarding = Forwarding {
                authority: authority(bytes, &line, &fields).unwrap(),
                framing: request_body(bytes, &fields, line.version).unwrap(),
                client: b"192.0.2.1",
                scheme: "http",
                identity: b"",
                trusted: false,
                request_id: b"0123456789abcdef0123456789abcdef",
                http2: false,
            };
            out.clear();
            request(bytes, &line, &fields, &forwarding, &mut out);
            out.len()
        });
    }
    row("answer: parse", ANSWER.len(), || {
        parse_response(black_box(ANSWER.as_bytes()), &limits, &mut fields).unwrap().unwrap().len
    });
}

fn row(name: &str, octets: usize, mut call: impl FnMut() -> usize) {
    call();
    let before = allocations();
    let ns = nanoseconds(400, 2_000, &mut call);
    let allocated = (allocations() - before).saturating_sub(1);
    println!("  {name:28} {octets:6} {ns:7.0} {:7.2} {allocated:12}", octets as f64 / ns);
}
