//! Counters of the data plane: one shard per worker, single writer, summed at exposition.

use crate::telemetry::CutCounts;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A counter with one writer: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the shard's own worker may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts, for gauges; same rule.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets, for gauges; same rule.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the request duration buckets in microseconds; the usual ones for web services.
pub(crate) const BUCKETS_US: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Longest time in service that is told apart, an hour in microseconds: its square and a thousand more fit.
const MAX_SERVICE_US: u64 = 3_600_000_000;

/// What was counted for one service by all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceTotals {
    /// Requests that ended, however.
    pub ended: u64,
    /// Requests that an endpoint served well, tunnels left out.
    pub served: u64,
    /// Sum of their times in service, microseconds.
    pub service_us: u64,
    /// Sum of the squares of those, wrapping around.
    pub service_us2: u64,
    /// Requests that were late for want of replicas.
    pub late: u64,
    /// TCP streams and tunnels begun.
    pub streams: u64,
    /// Of them those that are open.
    pub streams_open: u64,
}

/// What one worker counts for one service.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Requests by status class, index 1..=5; 0: ended without a status (client gone).
    pub(crate) by_class: [Counter; 6],
    pub(crate) buckets: [Counter; 14],
    pub(crate) duration_us: Counter,
    /// Octets sent to clients.
    pub sent_bytes: Counter,
    /// Octets received from clients: bodies of requests, streams.
    pub received_bytes: Counter,
    /// Further attempts.
    pub retries: Counter,
    /// Retries that the budget refused.
    pub retries_refused: Counter,
    /// Ejections caused.
    pub ejections: Counter,
    /// Requests that waited for a free replica.
    pub queued: Counter,
    /// Requests and streams that were held because there was no replica.
    pub held: Counter,
    /// Requests that an endpoint served well, of services that are scaled: how many, and the sums of their times in service
    /// and of the squares of those.
    pub(crate) served: Counter,
    pub(crate) service_us: Counter,
    pub(crate) service_us2: Counter,
    /// Requests of services that are scaled that were late for want of replicas.
    pub(crate) late: Counter,
    /// TCP streams and tunnels begun.
    pub streams: Counter,
    /// TCP streams and tunnels open now.
    pub streams_open: Counter,
    /// Of them those that were reset at a drain deadline.
    pub streams_cut: Counter,
    /// Datagrams passed on to endpoints.
    pub datagrams_in: Counter,
    /// Datagrams passed on to clients.
    pub datagrams_out: Counter,
}

impl ServiceCounters {
    /// Counts a finished request.
    pub fn finished(&self, status: u16, duration_us: u64) {
        if let Some(class) = self.by_class.get(usize::from(status / 100)) {
            class.add(1);
        }
        let bucket = BUCKETS_US.partition_point(|&bound| bound < duration_us);
        if let Some(counter) = self.buckets.get(bucket) {
            counter.add(1);
        }
        self.duration_us.add(duration_us);
    }

    /// Counts a request that an endpoint served, tunnels left out: its time in service, from the pick to the end of the
    /// answer, and how long it took in all. Late is what waiting made late.
    pub fn served(&self, service_us: u64, duration_us: u64, objective_us: u64) {
        let service_us = service_us.min(MAX_SERVICE_US);
        self.served.add(1);
        self.service_us.add(service_us);
        self.service_us2.add(service_us * service_us);
        if duration_us > objective_us && service_us <= objective_us {
            self.late.add(1);
        }
    }

    /// Adds what was counted.
    pub(crate) fn add_to(&self, totals: &mut ServiceTotals) {
        for class in &self.by_class {
            totals.ended = totals.ended.wrapping_add(class.value());
        }
        totals.served = totals.served.wrapping_add(self.served.value());
        totals.service_us = totals.service_us.wrapping_add(self.service_us.value());
        totals.service_us2 = totals.service_us2.wrapping_add(self.service_us2.value());
        totals.late = totals.late.wrapping_add(self.late.value());
        totals.streams = totals.streams.wrapping_add(self.streams.value());
        totals.streams_open = totals.streams_open.wrapping_add(self.streams_open.value());
    }

    /// Counts a request that found no free replica in time.
    pub fn unserved(&self) {
        self.late.add(1);
    }
}

/// Upper bounds of the buckets of turns in microseconds.
pub(crate) const TURN_BUCKETS_US: [u64; 10] = [20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000];

/// Shorter stretches before the worker rests belong to the turn before: the runtime's own steps.
const UNCOUNTED_NS: u64 = 5_000;

/// So many small pieces of streams are one turn: the clock's share of each would be larger than what it tells.
const PIECES: u64 = 8;

/// The lengths of one worker's turns: from the moment that it could begin one piece of work to that piece's end. Nothing
/// else on the worker is served meanwhile. One reading of the clock for each.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the work under way could begin, in nanoseconds of the monotonic scale.
    began_ns: AtomicU64,
    /// Small pieces since then.
    pieces: Counter,
    pub(crate) buckets: [Counter; 11],
    pub(crate) total_ns: Counter,
}

impl Turns {
    /// The worker wakes from waiting.
    pub fn woken(&self, now_ns: u64) {
        self.began_ns.store(now_ns, Ordering::Relaxed);
    }

    /// The worker waits from now on: what it did last and nobody counted, such as accepting, was a turn too.
    pub fn rests(&self, now_ns: u64) {
        if now_ns.saturating_sub(self.began_ns.load(Ordering::Relaxed)) > UNCOUNTED_NS {
            self.ended(now_ns);
        }
    }

    /// A small piece of a stream has ended; returns whether it ends the turn too.
    pub fn takes_piece(&self) -> bool {
        self.pieces.add(1);
        self.pieces.value() >= PIECES
    }

    /// A piece of work has ended; the next can begin.
    pub fn ended(&self, now_ns: u64) {
        let length_ns = now_ns.saturating_sub(self.began_ns.load(Ordering::Relaxed));
        self.began_ns.store(now_ns, Ordering::Relaxed);
        self.pieces.set(0);
        let at = TURN_BUCKETS_US.iter().position(|&bound| length_ns <= bound * 1000).unwrap_or(TURN_BUCKETS_US.len());
        if let Some(counter) = self.buckets.get(at) {
            counter.add(1);
        }
        self.total_ns.add(length_ns);
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Shard {
    /// Connections accepted.
    pub accepted: Counter,
    /// Pauses in accepting for want of descriptors.
    pub accept_pauses: Counter,
    /// Connections that were reset for want of memory.
    pub shed: Counter,
    /// Connections open now.
    pub open: Counter,
    /// Panics caught at a task's boundary.
    pub panics: Counter,
    /// Octets of heads that came in part so far.
    pub partial_head_bytes: Counter,
    /// How long the worker's turns take.
    pub turns: Turns,
    /// Short lock: taken when a worker first meets a service, and by the exposition.
    services: Mutex<HashMap<Arc<str>, Arc<ServiceCounters>>>,
    /// Requests answered by Weir itself, by reason; short lock, error path only.
    refused: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shard {
    /// Returns the counters of a service; the caller keeps them, this takes a lock.
    pub fn service(&self, name: &str) -> Arc<ServiceCounters> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        match services.get(name) {
            Some(counters) => counters.clone(),
            None => services.entry(name.into()).or_default().clone(),
        }
    }

    /// Counts a request that Weir answered itself.
    pub fn refused(&self, reason: &'static str) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }

    /// Adds what was counted for a service.
    pub(crate) fn add_to(&self, name: &str, totals: &mut ServiceTotals) {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = services.get(name) {
            counters.add_to(totals);
        }
    }

    pub(crate) fn each_service(&self, mut visit: impl FnMut(&Arc<str>, &ServiceCounters)) {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, counters) in services.iter() {
            visit(name, counters);
        }
    }

    /// Returns what ends when this worker ends now: its open connections, by what is under way.
    pub fn under_way(&self) -> CutCounts {
        let mut streams = 0;
        self.each_service(|_, counters| streams += counters.streams_open.value());
        CutCounts { requests: self.open.value().saturating_sub(streams), streams: streams.min(self.open.value()) }
    }

    pub(crate) fn each_refusal(&self, mut visit: impl FnMut(&'static str, u64)) {
        for (reason, count) in self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            visit(reason, *count);
        }
    }
}
