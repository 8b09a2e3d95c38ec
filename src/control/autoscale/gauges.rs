//! What the autoscaler shows to Prometheus: read at each scrape, stored nowhere.

use crate::control::autoscale::handle::{Decision, Handle};
use crate::telemetry::families::{describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Name, help and value of each family.
type Gauge = (&'static str, &'static str, fn(&Decision) -> f64);

const SERVICE: &[&str] = &["service"];

const FAMILIES: [Gauge; 5] = [
    ("weir_scale_wanted", "Replicas that are wanted of a scaled service.", |decision| {
        f64::from(if decision.applied { decision.made.replicas } else { decision.wanted })
    }),
    ("weir_scale_recommended", "Replicas that the autoscaler recommends.", |decision| {
        f64::from(decision.made.replicas)
    }),
    ("weir_scale_forecast", "Arrivals per second that are forecast until an order serves.", |decision| {
        decision.made.forecast
    }),
    ("weir_scale_service_seconds", "Mean time in service.", |decision| decision.made.service_s),
    (
        "weir_scale_late_ratio",
        "Share of the last half hour's requests that were late for want of replicas.",
        |decision| decision.made.late_share,
    ),
];

/// Reads the newest decisions when Prometheus asks.
#[derive(Debug)]
pub struct ScaleGauges {
    handle: Handle,
    descriptions: Vec<Desc>,
}

impl ScaleGauges {
    /// Makes the collector; register it with `telemetry::Metrics::registry`.
    pub fn new(handle: Handle) -> Self {
        let descriptions = FAMILIES.iter().filter_map(|(name, help, _)| describe(&(*name, *help, SERVICE)));
        Self { handle, descriptions: descriptions.collect() }
    }
}

impl Collector for ScaleGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let all = self.handle.all();
        // The encoder refuses a family of no metric.
        if all.is_empty() {
            return Vec::new();
        }
        let filled = |(name, help, value): &Gauge| {
            let of = (*name, *help, SERVICE);
            let metrics = all.iter();
            let metrics =
                metrics.map(|(service, decision)| metric(&of, &[("service", service.as_str())], value(decision)));
            family(&of, metrics.collect())
        };
        FAMILIES.iter().map(filled).collect()
    }
}
