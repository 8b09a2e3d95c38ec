//! What the autoscaler shows to Prometheus: read at each scrape, stored nowhere.

use crate::control::autoscale::handle::{Decisions, Handle};
use crate::telemetry::families::{describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// Name, help and value of each family.
type Gauge = (&'static str, &'static str, fn(&Decisions) -> f64);

const SERVICE: &[&str] = &["service"];

const FAMILIES: [Gauge; 6] = [
    ("weir_scale_wanted", "Replicas that are wanted of a scaled service.", |Decisions { newest, .. }| {
        f64::from(if newest.applied { newest.made.replicas } else { newest.wanted })
    }),
    ("weir_scale_recommended", "Replicas that the autoscaler recommends.", |decisions| {
        f64::from(decisions.newest.made.replicas)
    }),
    ("weir_scale_forecast", "Arrivals per second that are forecast until an order serves.", |decisions| {
        decisions.newest.made.forecast
    }),
    ("weir_scale_service_seconds", "Mean time in service.", |decisions| decisions.newest.made.service_s),
    (
        "weir_scale_late_ratio",
        "Share of the last half hour's requests that were late for want of replicas.",
        |decisions| decisions.newest.made.late_share,
    ),
    ("weir_scale_wakes_total", "Orders of a replica because something waited while there was none.", |decisions| {
        decisions.wakes as f64
    }),
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
                metrics.map(|(service, decisions)| metric(&of, &[("service", service.as_str())], value(decisions)));
            family(&of, metrics.collect())
        };
        FAMILIES.iter().map(filled).collect()
    }
}
