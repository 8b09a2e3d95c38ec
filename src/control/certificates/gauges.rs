//! What the keeper of certificates shows to Prometheus: read at each scrape.

use crate::control::certificates::handle::Handle;
use crate::control::store::Origin;
use crate::telemetry::families::{Family, describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

const NAME: &[&str] = &["name", "origin"];
const ORDERS: &[&str] = &["origin", "result"];

const FAMILIES: [Family; 4] = [
    (
        "weir_obtained_certificate_expiry_timestamp_seconds",
        "Until when a certificate that Weir obtained is valid; 0: there is none.",
        NAME,
    ),
    ("weir_certificate_failing", "Failures in a row to obtain a certificate.", NAME),
    ("weir_certificate_orders_total", "Orders for certificates.", ORDERS),
    ("weir_certificate_refused_total", "Names that clients asked for and that no certificate was ordered for.", &[]),
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
                    metric(family, &[("name", &listed.name), ("origin", origin(listed.origin))], value(i))
                };
                board.listed.iter().enumerate().map(one).collect::<Vec<_>>()
            };
            let seconds = |i: usize| board.listed.get(i).and_then(|one| one.not_after_ms).unwrap_or(0) as f64 / 1000.0;
            let failures = |i: usize| board.listed.get(i).map_or(0.0, |one| f64::from(one.failures));
            let mut counts = Vec::new();
            for of in [Origin::Acme, Origin::Internal] {
                for (result, values) in [("issued", board.issued), ("failed", board.failed)] {
                    let value = values.get(of as usize).copied().unwrap_or(0) as f64;
                    counts.push(metric(&orders, &[("origin", origin(of)), ("result", result)], value));
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
