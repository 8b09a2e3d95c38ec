#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! One DNS answer without a socket: parse, look up, choose, copy. Nanoseconds and allocations.
//!
//! Two tables: 1,000 services of three endpoints, which the near caches hold, and 10,000 of ten, which they do not. Questions
//! go round among 1,000 names. Promises: no allocation; in the mean of all kinds of question at most 150 ns in the first
//! table; in the second at most 500 ns for ten addresses, most of it cache misses. The kernel takes 5 us for the datagrams.

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

/// Different questions of one kind.
const QUESTIONS: u32 = 1_000;

/// A table, and what is promised of it.
#[derive(Debug, Clone, Copy)]
struct Table {
    services: u32,
    endpoints: u32,
    /// Most nanoseconds of an answer in the mean of all kinds.
    mean_ns: Option<f64>,
    /// Most nanoseconds of an answer with all addresses.
    addresses_ns: Option<f64>,
}

const TABLES: [Table; 2] = [
    Table { services: 1_000, endpoints: 3, mean_ns: Some(150.0), addresses_ns: None },
    Table { services: 10_000, endpoints: 10, mean_ns: None, addresses_ns: Some(500.0) },
];

fn build_table(Table { services, endpoints, .. }: Table) -> Snapshot {
    let make = |s: u32| {
        let spec = service(&format!("service-{s}"), Policy::ExpectedDelay);
        let instances = (0..endpoints).map(|n| instance(&spec.name, s * endpoints + n)).collect();
        Change::Set { spec: Arc::new(spec), instances }
    };
    let changes = Changes { services: (0..services).map(make).collect(), ..Changes::default() };
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
    println!("dns_answer");
    let good = TABLES.map(measure);
    assert!(good == [true; TABLES.len()], "a promise is not kept");
}

/// Measures all kinds of question in one table; returns whether its promises are kept.
fn measure(table: Table) -> bool {
    let Table { services, endpoints, .. } = table;
    let start = clock::now();
    let snapshot = build_table(table);
    println!("\n{services} services x {endpoints} endpoints, built in {:?}", clock::now() - start);
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
    let (mut all_allocated, mut sum_ns, mut addresses_ns) = (0, 0.0, 0.0f64);
    for (label, pattern, kind, edns) in kinds {
        let questions: Vec<Vec<u8>> = (0..QUESTIONS)
            .map(|n| {
                let number = n * 7919 % services;
                let name = pattern.replace('S', &number.to_string()).replace('I', &(number * endpoints).to_string());
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
        (all_allocated, sum_ns) = (all_allocated + allocated, sum_ns + ns);
        if label.starts_with("A, ") {
            addresses_ns = addresses_ns.max(ns);
        }
        println!("  {label:28} {ns:>9.0} {near_ns:>7.0} {octets:>7} {allocated:>12}");
    }
    let mean_ns = sum_ns / kinds.len() as f64;
    let mut good = true;
    let wanted = [
        ("allocations", all_allocated as f64, Some(0.0)),
        ("mean of all kinds, ns", mean_ns, table.mean_ns),
        ("all addresses, ns", addresses_ns, table.addresses_ns),
    ];
    for (what, found, most) in wanted {
        let Some(most) = most else { continue };
        good &= found <= most;
        println!("  {what} = {found:.0}, wanted at most {most:.0}: {}", if found <= most { "met" } else { "MISSED" });
    }
    good
}
