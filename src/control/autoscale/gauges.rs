//! What the autoscaler shows to Prometheus: read at each scrape, stored nowhere.

use crate::control::autoscale::handle::{Decision, Handle};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

/// Name, help and value of each family.
type Family = (&'static str, &'static str, fn(&Decision) -> f64);

const FAMILIES: [Family; 5] = [
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
        let description = |family: &Family| {
            Desc::new(family.0.to_owned(), family.1.to_owned(), vec!["service".to_owned()], HashMap::new()).ok()
        };
        Self { handle, descriptions: FAMILIES.iter().filter_map(description).collect() }
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
        let family = |(name, help, value): &Family| {
            let metrics = all.iter().map(|(service, decision)| {
                let mut label = LabelPair::default();
                label.set_name("service".to_owned());
                label.set_value(service.as_str().to_owned());
                let mut gauge = Gauge::default();
                gauge.set_value(value(decision));
                let mut metric = Metric::default();
                metric.set_label(vec![label]);
                metric.set_gauge(gauge);
                metric
            });
            let mut family = MetricFamily::default();
            family.set_name((*name).to_owned());
            family.set_help((*help).to_owned());
            family.set_field_type(MetricType::GAUGE);
            family.set_metric(metrics.collect());
            family
        };
        FAMILIES.iter().map(family).collect()
    }
}
