//! TLS handshakes with clients: how many, how they ended, how long they took.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// Bounds of the duration in seconds: the work alone is 0.1 to 1 ms, the rest is round trips.
const BUCKETS: [f64; 10] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

/// Counters of handshakes with clients, shared by all workers; one atomic addition or two for each handshake.
#[derive(Debug, Clone)]
pub struct Handshakes {
    ended: IntCounterVec,
    duration: Histogram,
}

impl Handshakes {
    /// Makes counters at zero.
    ///
    /// # Errors
    /// Never with these names; the exposition's library checks them.
    pub fn new() -> prometheus::Result<Self> {
        let ended = Opts::new(
            "weir_tls_handshakes_total",
            "TLS handshakes with clients, by version, by how they ended (ok or a reason code) and by whether a session was resumed.",
        );
        let duration = HistogramOpts::new(
            "weir_tls_handshake_duration_seconds",
            "Time from the acceptance of a connection to the end of its handshake, of those that succeeded.",
        );
        Ok(Self {
            ended: IntCounterVec::new(ended, &["version", "result", "resumed"])?,
            duration: Histogram::with_opts(duration.buckets(BUCKETS.to_vec()))?,
        })
    }

    /// Shows them in a registry.
    ///
    /// # Errors
    /// When they are there already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let collectors: [Box<dyn Collector>; 2] = [Box::new(self.ended.clone()), Box::new(self.duration.clone())];
        collectors.into_iter().try_for_each(|collector| registry.register(collector))
    }

    /// Counts one that succeeded.
    pub fn succeeded(&self, version: &str, resumed: bool, duration: Duration) {
        self.ended.with_label_values(&[version, "ok", if resumed { "true" } else { "false" }]).inc();
        self.duration.observe(duration.as_secs_f64());
    }

    /// Counts one that failed, by its reason code.
    pub fn failed(&self, reason: &str) {
        self.ended.with_label_values(&["none", reason, "false"]).inc();
    }
}
