//! The registry of all metrics, and their exposition as Prometheus text.

use crate::telemetry::cuts::Cuts;
use crate::telemetry::exposition::ShardCollector;
use crate::telemetry::shard::{ServiceTotals, Shard};
use prometheus::core::{AtomicU64, GenericCounter};
use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The registry of all metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    shards: Arc<Mutex<Vec<Arc<Shard>>>>,
    cuts: Cuts,
}

impl Metrics {
    /// Returns a registry with the data plane's collector in it.
    pub fn new() -> Self {
        let shards: Arc<Mutex<Vec<Arc<Shard>>>> = Arc::default();
        let registry = Registry::new();
        if registry.register(Box::new(ShardCollector::new(shards.clone()))).is_err() {
            tracing::error!("failed to register the data plane's metrics");
        }
        let cuts = Cuts::new(&registry);
        Self { registry, shards, cuts }
    }

    /// Returns what counts connections that are cut off at the end of a drain.
    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// Registers a counter that is not on the request path.
    ///
    /// # Errors
    /// When the name is taken or is no metric name.
    pub fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let counter = GenericCounter::<AtomicU64>::new(name, help)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    /// Registers `weir_build_info` with the version.
    ///
    /// # Errors
    /// When it was registered before.
    pub fn build_info(&self) -> prometheus::Result<()> {
        let labels =
            Opts::new("weir_build_info", "The running version.").const_label("version", env!("CARGO_PKG_VERSION"));
        let info = IntGauge::with_opts(labels)?;
        info.set(1);
        self.registry.register(Box::new(info))
    }

    /// Adds the shard of one worker.
    pub fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).push(shard.clone());
        shard
    }

    /// Returns what all workers counted for a service; zeros when none met it. Cost: one short lock for each worker.
    pub fn service(&self, name: &str) -> ServiceTotals {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = ServiceTotals::default();
        for shard in shards.iter() {
            shard.add_to(name, &mut totals);
        }
        totals
    }

    /// Returns what all workers counted for each service that any of them met.
    pub fn services(&self) -> HashMap<Arc<str>, ServiceTotals> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: HashMap<Arc<str>, ServiceTotals> = HashMap::new();
        for shard in shards.iter() {
            shard.each_service(|name, counters| counters.add_to(all.entry(name.clone()).or_default()));
        }
        all
    }

    /// Returns the registry, for further collectors.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns everything as Prometheus text.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "failed to encode the metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn totals_of_a_service_are_those_of_all_workers() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let service = metrics.shard().service("web");
            service.finished(200, 700);
            service.served(300, 700, 500);
            service.finished(200, 900);
            service.served(900, 900, 500);
            service.finished(503, 10);
            service.unserved();
        }
        let totals = metrics.service("web");
        assert_eq!(
            (totals.ended, totals.served, totals.late),
            (6, 4, 4),
            "a long service is not late for want of replicas"
        );
        assert_eq!((totals.service_us, totals.service_us2), (2400, 2 * (90_000 + 810_000)));
        assert_eq!(metrics.service("other"), Default::default());
    }

    #[test]
    fn sums_the_shards_of_all_workers() {
        let metrics = Metrics::new();
        for _ in 0..2 {
            let shard = metrics.shard();
            shard.accepted.add(3);
            shard.refused("no_route");
            let service = shard.service("web");
            service.finished(200, 900);
            service.finished(503, 30_000);
            service.sent_bytes.add(10);
        }
        let text = metrics.encode();
        for line in [
            "weir_connections_total 6",
            "weir_refused_total{reason=\"no_route\"} 2",
            "weir_requests_total{code=\"2xx\",service=\"web\"} 2",
            "weir_requests_total{code=\"5xx\",service=\"web\"} 2",
            "weir_request_duration_seconds_bucket{service=\"web\",le=\"0.001\"} 2",
            "weir_request_duration_seconds_bucket{service=\"web\",le=\"+Inf\"} 4",
            "weir_request_duration_seconds_count{service=\"web\"} 4",
            "weir_sent_bytes_total{service=\"web\"} 20",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
