#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "a program for people")]
//! One pick of each policy among 100 endpoints: nanoseconds and allocations.
//!
//! A turn is what a request does: pick, count as in flight, end an older request and feed its latency. The pick's own time
//! is the turn without and with it. Promise: at most 300 ns for a pick, no allocation.

#[path = "support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use support::{Counting, allocations, nanoseconds};
use weir::balance::{Candidate, EndpointStats, InFlight, Local, Picker, Tried};
use weir::model::Policy;
use weir::rng::Rng;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ENDPOINTS: usize = 100;
const IN_FLIGHT: usize = 64;
const MOST_NS: f64 = 300.0;

struct Worker {
    picker: Picker,
    candidates: Vec<Candidate>,
    local: Local,
    in_flight: VecDeque<InFlight>,
    rng: Rng,
    now_ms: u64,
    turns: u64,
}

impl Worker {
    fn new(policy: Policy) -> Self {
        let candidate = |n: usize| Candidate {
            stats: Arc::new(EndpointStats::new()),
            weight: 1 + (n % 5) as u32,
            healthy: true,
            ready_ms: 1,
        };
        Self {
            picker: Picker::new(policy, Duration::from_secs(10), Some(1000)),
            candidates: (0..ENDPOINTS).map(candidate).collect(),
            local: Local::default(),
            in_flight: VecDeque::with_capacity(IN_FLIGHT + 1),
            rng: Rng::from_seed(1),
            now_ms: 1_000_000,
            turns: 0,
        }
    }

    fn pick(&mut self) -> usize {
        self.picker
            .pick(&self.candidates, &mut self.local, &Tried::default(), self.now_ms, &mut self.rng)
            .unwrap_or(usize::MAX)
    }

    /// Begins a request at an endpoint and ends the oldest of 64.
    fn carry(&mut self, index: usize) {
        self.turns += 1;
        self.now_ms += u64::from(self.turns.is_multiple_of(32));
        if let Some(candidate) = self.candidates.get(index) {
            self.in_flight.push_back(candidate.stats.begin());
        }
        if self.in_flight.len() > IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            let latency_us = 500 + self.rng.below(1000) as u64;
            self.local.observe(oldest.stats().serial(), latency_us, false, self.now_ms);
        }
    }
}

fn main() {
    println!("pick: {ENDPOINTS} endpoints, {IN_FLIGHT} requests in flight; lower quartile of 400 rounds");
    println!("  {:15} {:>9} {:>9} {:>12}", "policy", "pick ns", "turn ns", "allocations");
    let mut good = true;
    let policies = [
        ("expected-delay", Policy::ExpectedDelay),
        ("round-robin", Policy::RoundRobin),
        ("weighted", Policy::Weighted),
        ("least-request", Policy::LeastRequest),
        ("power-of-two", Policy::PowerOfTwo),
    ];
    for (name, policy) in policies {
        let mut worker = Worker::new(policy);
        for _ in 0..10_000 {
            let index = worker.pick();
            worker.carry(index);
        }
        let before = allocations();
        let mut made = 0;
        let turn = nanoseconds(400, 2_000, || {
            let index = worker.pick();
            worker.carry(index);
            made += 1;
        });
        // The rounds keep their times in one vector; nothing else may allocate.
        let allocated = (allocations() - before).saturating_sub(1);
        let mut next = 0;
        let rest = nanoseconds(400, 2_000, || {
            next = (next + 7) % ENDPOINTS;
            worker.carry(next);
        });
        let pick = (turn - rest).max(0.0);
        let met = pick <= MOST_NS && allocated == 0;
        good &= met;
        println!(
            "  {name:15} {pick:9.0} {turn:9.0} {allocated:9} in {made} picks{}",
            if met { "" } else { "  MISSED" }
        );
    }
    println!("  wanted: at most {MOST_NS:.0} ns, 0 allocations: {}", if good { "met" } else { "MISSED" });
    assert!(good, "the promise is not kept");
}
