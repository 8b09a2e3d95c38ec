//! What Prometheus is shown of the table between Weirs: read at each scrape, stored nowhere.

use crate::control::feed::{CarriedLoad, Fleet, Refusal, Sources};
use crate::telemetry::families::{Family, describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

const SUBSCRIBER: &[&str] = &["subscriber"];
const SOURCE: &[&str] = &["source"];

const SUBSCRIBERS: [Family; 6] = [
    ("weir_feed_subscriber_generation", "Generation that all workers of a follower use.", SUBSCRIBER),
    ("weir_feed_subscriber_silent", "Whether a follower is silent and not waited for: 1 or 0.", SUBSCRIBER),
    ("weir_feed_subscriber_uses", "Withdrawn endpoints that a follower still has requests at.", SUBSCRIBER),
    ("weir_feed_subscriber_rate", "Requests a second that a follower carries for services that run here.", SUBSCRIBER),
    ("weir_feed_subscriber_in_service", "Requests in service that a follower holds of them.", SUBSCRIBER),
    ("weir_feed_subscriber_queued", "Requests and streams that wait at a follower for a replica of them.", SUBSCRIBER),
];
const SOURCES: [Family; 3] = [
    ("weir_source_up", "Whether a source of the table lives: 1 or 0.", SOURCE),
    ("weir_source_used", "Whether the last table of a source is in use: 1 or 0.", SOURCE),
    ("weir_source_generation", "Generation of the last table of a source; 0: none.", SOURCE),
];
const LOSSES: Family = (
    "weir_source_losses_total",
    "Losses of a source of the table, and refusals of what it sent.",
    &["source", "reason"],
);

/// Reads followers and sources when Prometheus asks.
#[derive(Debug)]
pub struct FeedGauges {
    fleet: Fleet,
    sources: Sources,
    descriptions: Vec<Desc>,
}

impl FeedGauges {
    /// Makes the collector; register it with `telemetry::Metrics::registry`.
    pub fn new(fleet: Fleet, sources: Sources) -> Self {
        let descriptions = SUBSCRIBERS.iter().chain(&SOURCES).chain([&LOSSES]).filter_map(describe).collect();
        Self { fleet, sources, descriptions }
    }
}

impl Collector for FeedGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (subscribers, sources) = (self.fleet.status(), self.sources.status());
        let mut families = Vec::new();
        for (at, of) in SUBSCRIBERS.iter().enumerate() {
            let values = subscribers.iter().map(|one| {
                let sum = |of: fn(&CarriedLoad) -> f64| one.loads.iter().map(of).sum::<f64>();
                let values = [
                    one.generation as f64,
                    f64::from(u8::from(one.silent)),
                    one.uses as f64,
                    sum(|load| load.rate),
                    sum(|load| f64::from(load.present.in_service)),
                    sum(|load| f64::from(load.present.queued)),
                ];
                metric(of, &[("subscriber", &one.name)], values.get(at).copied().unwrap_or_default())
            });
            families.push(family(of, values.collect()));
        }
        for (at, of) in SOURCES.iter().enumerate() {
            let values = sources.iter().map(|one| {
                let flag = |flag| f64::from(u8::from(flag));
                let values = [flag(one.live), flag(one.used), one.generation as f64];
                metric(of, &[("source", &one.name)], values.get(at).copied().unwrap_or_default())
            });
            families.push(family(of, values.collect()));
        }
        let losses = sources.iter().flat_map(|one| {
            let reasons = Refusal::REASONS.iter().zip(one.losses);
            reasons.map(|(reason, count)| metric(&LOSSES, &[("reason", reason), ("source", &one.name)], count as f64))
        });
        families.push(family(&LOSSES, losses.collect()));
        // The encoder refuses a family of no metric.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}
