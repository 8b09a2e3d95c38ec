//! What the keeper of certificates shows to Prometheus: read at each scrape.

use crate::control::certificates::handle::Handle;
use crate::control::store::Origin;
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

type Family = (&'static str, &'static str, &'static [&'static str], MetricType);

const FAMILIES: [Family; 4] = [
    (
        "weir_obtained_certificate_expiry_timestamp_seconds",
        "Until when a certificate that Weir obtained is valid; 0: there is none.",
        &["name", "origin"],
        MetricType::GAUGE,
    ),
    ("weir_certificate_failing", "Failures in a row to obtain a certificate.", &["name", "origin"], MetricType::GAUGE),
    ("weir_certificate_orders_total", "Orders for certificates.", &["origin", "result"], MetricType::COUNTER),
    (
        "weir_certificate_refused_total",
        "Names that clients asked for and that no certificate was ordered for.",
        &[],
        MetricType::COUNTER,
    ),
];

/// The collector; register it with `telemetry::Metrics::registry`.
#[derive(Debug)]
pub struct CertificateGauges {
    handle: Handle,
    descriptions: Vec<Desc>,
}

impl CertificateGauges {
    /// Makes the collector of a keeper.
    pub fn new(handle: Handle) -> Self {
        let describe = |(name, help, labels, _): &Family| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new()).ok()
        };
        Self { handle, descriptions: FAMILIES.iter().filter_map(describe).collect() }
    }
}

/// Returns the name of who issues, as the API, the CLI and metrics show it.
pub(super) fn origin(origin: Origin) -> &'static str {
    match origin {
        Origin::Acme => "acme",
        Origin::Internal => "internal",
    }
}

impl Collector for CertificateGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let [expiry, failing, orders, refused] = FAMILIES;
        self.handle.read(|board| {
            let names = |value: &dyn Fn(usize) -> f64, family: &Family| {
                let one = |(i, listed): (usize, &super::handle::Listed)| {
                    metric(family, &[&listed.name, origin(listed.origin)], value(i))
                };
                board.listed.iter().enumerate().map(one).collect::<Vec<_>>()
            };
            let seconds = |i: usize| board.listed.get(i).and_then(|one| one.not_after_ms).unwrap_or(0) as f64 / 1000.0;
            let failures = |i: usize| board.listed.get(i).map_or(0.0, |one| f64::from(one.failures));
            let mut counts = Vec::new();
            for of in [Origin::Acme, Origin::Internal] {
                for (result, values) in [("issued", board.issued), ("failed", board.failed)] {
                    let value = values.get(of as usize).copied().unwrap_or(0) as f64;
                    counts.push(metric(&orders, &[origin(of), result], value));
                }
            }
            vec![
                family(&expiry, names(&seconds, &expiry)),
                family(&failing, names(&failures, &failing)),
                family(&orders, counts),
                family(&refused, vec![metric(&refused, &[], board.refused as f64)]),
            ]
        })
    }
}

fn family((name, help, _, kind): &Family, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name((*name).to_owned());
    family.set_help((*help).to_owned());
    family.set_field_type(*kind);
    family.set_metric(metrics);
    family
}

fn metric((_, _, labels, kind): &Family, values: &[&str], value: f64) -> Metric {
    let pair = |(label, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*label).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    let mut metric = Metric::default();
    metric.set_label(labels.iter().zip(values).map(pair).collect());
    if *kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
