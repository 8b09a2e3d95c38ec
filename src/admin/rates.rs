//! Requests per second of each endpoint, from the counters that workers write.
//!
//! One task reads the counters each second and keeps an average that follows within a few seconds. Cost: one hash entry
//! and one addition per endpoint and second, on the control threads.

use crate::balance::Candidate;
use crate::clock;
use crate::lifecycle::{Phase, Signal};
use crate::table::{Snapshot, Table};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time between two readings while no endpoint is asked anything: an idle process sleeps.
const QUIET_INTERVAL: Duration = Duration::from_secs(8);
/// Below this nobody asks: it is shown as zero.
const QUIET: f64 = 0.05;
/// Weight of a new reading: half of a change shows after one second, nine tenths after three.
const ALPHA: f64 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    requests: u64,
    per_second: Option<f64>,
}

/// The rates by the serial number of the endpoint's counters; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Short lock: swapping and cloning one pointer.
    current: Arc<Mutex<Arc<HashMap<u64, Rate>>>>,
}

/// The rates at one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading(Arc<HashMap<u64, Rate>>);

impl Reading {
    /// Returns the requests per second of an endpoint, to one decimal; 0 before the second reading.
    pub(super) fn of(&self, candidate: &Candidate) -> f64 {
        let rate = self.0.get(&candidate.stats.serial());
        (rate.and_then(|rate| rate.per_second).unwrap_or(0.0) * 10.0).round() / 10.0
    }
}

impl Rates {
    /// Reads the counters each second until the process stops; less often while every rate is zero.
    pub async fn run(self, table: Table, mut signal: Signal) {
        let mut at = clock::now();
        self.sample(&table.load(), 0.0);
        let mut pause = INTERVAL;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = signal.reached(Phase::Stopping) => return,
            }
            let now = clock::now();
            let quiet = self.sample(&table.load(), now.saturating_duration_since(at).as_secs_f64());
            pause = if quiet { (pause * 2).min(QUIET_INTERVAL) } else { INTERVAL };
            at = now;
        }
    }

    /// Returns the rates of the last reading.
    pub(super) fn load(&self) -> Reading {
        Reading(self.current.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Takes a reading; returns whether every rate is zero.
    fn sample(&self, snapshot: &Snapshot, seconds: f64) -> bool {
        let before = self.load();
        let (mut next, mut quiet) = (HashMap::with_capacity(before.0.len()), true);
        for service in snapshot.services.iter() {
            let draining = service.draining.iter().map(|(_, candidate)| candidate);
            for candidate in service.candidates.iter().chain(draining) {
                let (serial, requests) = (candidate.stats.serial(), candidate.stats.requests());
                let rate = follow(before.0.get(&serial), requests, seconds);
                quiet &= rate.per_second.unwrap_or(0.0) < QUIET;
                next.insert(serial, rate);
            }
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        quiet
    }
}

fn follow(before: Option<&Rate>, requests: u64, seconds: f64) -> Rate {
    let Some(before) = before.filter(|_| seconds > 0.0) else { return Rate { requests, per_second: None } };
    let now = requests.saturating_sub(before.requests) as f64 / seconds;
    let per_second = before.per_second.map_or(now, |average| average + ALPHA * (now - average));
    Rate { requests, per_second: Some(per_second) }
}

#[cfg(test)]
mod tests {
    use super::{Rate, follow};

    #[test]
    fn follows_a_change_within_seconds_and_fades_to_nothing() {
        let first = follow(None, 1000, 0.0);
        assert_eq!(first, Rate { requests: 1000, per_second: None });
        let second = follow(Some(&first), 1100, 1.0);
        assert_eq!(second.per_second, Some(100.0));
        let third = follow(Some(&second), 1300, 1.0);
        assert_eq!(third.per_second, Some(150.0));
        let mut rate = third;
        for _ in 0..10 {
            rate = follow(Some(&rate), 1300, 1.0);
        }
        assert!(rate.per_second.unwrap() < 1.0);
    }
}
