#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! One DNS answer without a socket: parse, look up among 10,000 services, choose, copy. Nanoseconds and allocations.
//!
//! Questions go round among 1,000 names, so that the table is not in the nearest cache; `near`: one name again and again. Promise: at most 1.5 us for an
//! answer of ten addresses, some of them cache misses, where the kernel takes 5 us for the datagrams; no allocation.

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use support::{Counting, allocations, instance, nanoseconds, service};
use weir::clock;
use weir::dns::{Aliases, Asker, Authority, Options, Schemas, Scope, Scratch, Transport, View, answer};
use weir::dnswire::{Parsed, Query, parse_name, rtype};
use weir::model::Policy;
use weir::rng::Rng;
use weir::table::names::Names;
use weir::table::{Change, Changes, Snapshot, build};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
/// Different questions of one kind.
const QUESTIONS: u32 = 1_000;
const MOST_NS: f64 = 1500.0;

fn table() -> Snapshot {
    let make = |s: u32| {
        let spec = service(&format!("service-{s}"), Policy::ExpectedDelay);
        let instances = (0..ENDPOINTS).map(|n| instance(&spec.name, s * ENDPOINTS + n)).collect();
        Change::Set { spec: Arc::new(spec), instances }
    };
    let changes = Changes { services: (0..SERVICES).map(make).collect(), ..Changes::default() };
    build(&Snapshot::empty(Names::new("weir.internal")), changes)
}

fn question(name: &str, kind: u16, edns: bool) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    message.extend(parse_name(name).unwrap());
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    if edns {
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    message
}

fn main() {
    let start = clock::now();
    let snapshot = table();
    println!("dns_answer: {SERVICES} services x {ENDPOINTS} endpoints, built in {:?}", clock::now() - start);
    println!("  {:28} {:>9} {:>7} {:>7} {:>12}", "question", "answer ns", "near ns", "octets", "allocations");
    let (authority, scope) = (Authority::new(&Options::default(), &[]), Scope::default());
    let (schemas, aliases) = (Schemas::default(), Aliases::default());
    let (mut scratch, mut out) = (Scratch::new(Rng::from_seed(1)), vec![0u8; 4096]);
    // `S` is the service's number, `I` that of one of its instances.
    let kinds: [(&str, &str, u16, bool); 6] = [
        ("A, short name", "service-S.weir.internal", rtype::A, false),
        ("A, EDNS", "service-S.default.weir.internal", rtype::A, true),
        ("SRV with additional, EDNS", "_http._tcp.service-S.default.weir.internal", rtype::SRV, true),
        ("A of an instance", "service-S-I.service-S.default.weir.internal", rtype::A, false),
        ("no data", "service-S.weir.internal", rtype::AAAA, false),
        ("no such name", "nothing-S.weir.internal", rtype::A, false),
    ];
    let mut good = true;
    for (label, pattern, kind, edns) in kinds {
        let questions: Vec<Vec<u8>> = (0..QUESTIONS)
            .map(|n| {
                let number = n * 7919 % SERVICES;
                let name = pattern.replace('S', &number.to_string()).replace('I', &(number * ENDPOINTS).to_string());
                question(&name, kind, edns)
            })
            .collect();
        let (mut at, mut octets) = (0, 0);
        let view = View {
            snapshot: &snapshot,
            authority: &authority,
            now_ms: clock::now_ms(),
            forwards: false,
            schemas: &schemas,
            aliases: &aliases,
            asker: Asker::default(),
            scope: &scope,
        };
        let mut one = |different: usize| {
            at = (at + 1) % different;
            let Parsed::Fast(query) = Query::parse(&questions[at]) else { panic!("not a common question") };
            octets = answer(&view, &query, Transport::Udp, &mut scratch, &mut out).bytes;
        };
        let near_ns = nanoseconds(200, QUESTIONS, || one(1));
        let ns = nanoseconds(200, QUESTIONS, || one(questions.len()));
        let before = allocations();
        (0..QUESTIONS).for_each(|_| one(questions.len()));
        let allocated = allocations() - before;
        good &= allocated == 0 && (kind != rtype::A || ns <= MOST_NS);
        println!("  {label:28} {ns:>9.0} {near_ns:>7.0} {octets:>7} {allocated:>12}");
    }
    println!("  wanted: no allocation, A at most {MOST_NS} ns: {}", if good { "met" } else { "MISSED" });
    assert!(good, "the promise is not kept");
}
