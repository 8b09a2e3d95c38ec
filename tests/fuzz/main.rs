#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]
//! Mutated input against the parsers of HTTP/1.1, HTTP/2, DNS and what stands before a connection's traffic, the DNS responder, and a whole running proxy.
//!
//! Each target mutates a small corpus for `WEIR_FUZZ_SECONDS` (2 unless set; `tests/run --fuzz SECONDS` sets it) and checks
//! what must hold for any input whatsoever. The seed is printed; `WEIR_SEED` repeats it. What fails is printed as a literal,
//! and goes into `corpus.rs` once it is mended.

mod chunks;
mod connection;
mod corpus;
mod dns;
mod heads;
mod http2;
mod mutate;
mod preface;
#[path = "../support/mod.rs"]
mod support;

use mutate::Mutator;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};
use weir::rng::Rng;

/// Runs a target until its time is over; a panic is preceded by the input that caused it.
fn fuzz(name: &str, corpus: &[&[u8]], mut check: impl FnMut(&[u8], &mut Rng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("WEIR_SEED").unwrap_or_else(|| Rng::from_os().next_u64());
    let time = Duration::from_secs(number("WEIR_FUZZ_SECONDS").unwrap_or(2));
    let mut rng = Rng::from_seed(seed);
    let mut mutator = Mutator::new(corpus);
    println!("{name}: seed {seed}, {time:?} (WEIR_SEED, WEIR_FUZZ_SECONDS)");
    for input in corpus {
        run(name, input, &mut rng, &mut check);
    }
    let (begun, mut inputs) = (Instant::now(), corpus.len());
    while begun.elapsed() < time {
        let input = mutator.next(&mut rng);
        run(name, &input, &mut rng, &mut check);
        inputs += 1;
    }
    println!("{name}: {inputs} inputs");
}

fn run(name: &str, input: &[u8], rng: &mut Rng, check: &mut impl FnMut(&[u8], &mut Rng)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input, rng))) {
        println!("{name} failed with b\"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}
