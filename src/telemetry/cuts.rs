//! Connections that were closed under way because the time to drain was over.
//!
//! A process that another one replaces drains when nobody can read its metrics any more. So it reports its counts as it
//! ends, through the keeper, and the process that serves shows the sum.

use prometheus::{IntCounterVec, Opts, Registry};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts of connections by what was under way: requests, or streams (TCP streams and tunnels).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CutCounts {
    /// With a request, or idle.
    pub requests: u64,
    /// With a stream.
    pub streams: u64,
}

/// Counts them, off the request path; a cheap handle.
#[derive(Debug, Clone)]
pub struct Cuts {
    /// `None` where it could not be made.
    shown: Option<IntCounterVec>,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    own: CutCounts,
    earlier: CutCounts,
}

impl Cuts {
    /// Makes and registers the metric, at zero.
    pub(crate) fn new(registry: &Registry) -> Self {
        let help = "Client connections closed because the time to drain was over, also by earlier processes that an \
                    upgrade replaced.";
        let shown = IntCounterVec::new(Opts::new("weir_connections_cut_total", help), &["kind"]).ok();
        if shown.as_ref().is_none_or(|shown| registry.register(Box::new(shown.clone())).is_err()) {
            tracing::error!("failed to register the metric of connections that are cut off");
        }
        let cuts = Self { shown, counts: Arc::default() };
        cuts.show(CutCounts::default());
        cuts
    }

    /// Counts what a worker of this process cuts off.
    pub fn add(&self, more: CutCounts) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.own.requests += more.requests;
        counts.own.streams += more.streams;
        drop(counts);
        self.show(more);
    }

    /// Takes over what earlier processes cut off in all; what is known already counts once.
    pub fn earlier(&self, total: CutCounts) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.earlier;
        let more = CutCounts {
            requests: total.requests.saturating_sub(known.requests),
            streams: total.streams.saturating_sub(known.streams),
        };
        counts.earlier = CutCounts { requests: known.requests + more.requests, streams: known.streams + more.streams };
        drop(counts);
        self.show(more);
    }

    /// Returns what this process cut off.
    pub fn own(&self) -> CutCounts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).own
    }

    fn show(&self, more: CutCounts) {
        if let Some(shown) = &self.shown {
            shown.with_label_values(&["request"]).inc_by(more.requests);
            shown.with_label_values(&["stream"]).inc_by(more.streams);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CutCounts;
    use crate::telemetry::Metrics;

    #[test]
    fn totals_of_earlier_processes_count_once_however_often_they_are_told() {
        let metrics = Metrics::new();
        let counts = |requests, streams| CutCounts { requests, streams };
        let cuts = metrics.cuts();
        assert!(metrics.encode().contains("weir_connections_cut_total{kind=\"stream\"} 0"));
        cuts.add(counts(1, 0));
        for total in [counts(2, 3), counts(2, 3), counts(2, 5), counts(1, 1)] {
            cuts.earlier(total);
        }
        let text = metrics.encode();
        for line in ["weir_connections_cut_total{kind=\"request\"} 3", "weir_connections_cut_total{kind=\"stream\"} 5"]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(cuts.own(), counts(1, 0));
    }
}
