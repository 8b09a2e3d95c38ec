//! What the forwarder has and how its resolvers do, and what the query log wrote, read at each scrape.

use crate::dns::forward::Forwarder;
use crate::dns::settings::Shared;
use crate::telemetry::families::{Family, describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily};

const BYTES: Family = ("weir_dns_cache_bytes", "Octets of kept answers of other resolvers", &[]);
const ENTRIES: Family = ("weir_dns_cache_entries", "Kept answers of other resolvers", &[]);
const EVICTED: Family = ("weir_dns_cache_evicted_total", "Kept answers that were given up for room", &[]);
const QUESTIONS: Family =
    ("weir_dns_upstream_questions_total", "Questions to other resolvers by what came of them", &["server", "outcome"]);
const SECONDS: Family =
    ("weir_dns_upstream_seconds_total", "Time until other resolvers answered, summed over their answers", &["server"]);
const UP: Family = ("weir_dns_upstream_up", "Whether a resolver answers: 1 or 0", &["server"]);
const LINES: Family = (
    "weir_dns_log_lines_total",
    "Lines of the log of DNS questions: written, and left out as there were too many",
    &["outcome"],
);
const ALL: [&Family; 7] = [&BYTES, &ENTRIES, &EVICTED, &QUESTIONS, &SECONDS, &UP, &LINES];
/// In the order of the counters of `State`.
const OUTCOMES: [&str; 4] = ["answered", "refused", "silent", "malformed"];

/// A Prometheus collector over the settings of the moment.
#[derive(Debug)]
pub struct Gauges {
    settings: Shared,
    descs: Vec<Desc>,
}

impl Gauges {
    pub(crate) fn new(settings: Shared) -> Self {
        Self { settings, descs: ALL.iter().filter_map(|family| describe(family)).collect() }
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let settings = self.settings.load();
        let lines = ["written", "dropped"].iter().zip(settings.lines.counts());
        let lines: Vec<Metric> =
            lines.map(|(outcome, count)| metric(&LINES, &[("outcome", outcome)], count as f64)).collect();
        let mut all = settings.forwarder.as_ref().map(|forwarder| forwarding(forwarder)).unwrap_or_default();
        if settings.log.is_some() || settings.lines.counts() != [0; 2] {
            all.push(family(&LINES, lines));
        }
        all
    }
}

fn forwarding(forwarder: &Forwarder) -> Vec<MetricFamily> {
    let kept = forwarder.kept();
    let one = |of: &Family, value: f64| family(of, vec![metric(of, &[], value)]);
    let [mut questions, mut seconds, mut up] = [const { Vec::<Metric>::new() }; 3];
    for (server, state) in forwarder.resolvers() {
        let server = ("server", server.as_str());
        for (outcome, count) in OUTCOMES.iter().zip(state.counts) {
            questions.push(metric(&QUESTIONS, &[("outcome", outcome), server], count as f64));
        }
        seconds.push(metric(&SECONDS, &[server], state.sum_us as f64 / 1e6));
        up.push(metric(&UP, &[server], f64::from(u8::from(state.is_up))));
    }
    vec![
        one(&BYTES, kept.bytes as f64),
        one(&ENTRIES, kept.entries as f64),
        one(&EVICTED, kept.evicted as f64),
        family(&QUESTIONS, questions),
        family(&SECONDS, seconds),
        family(&UP, up),
    ]
    .into_iter()
    .filter(|family| !family.get_metric().is_empty())
    .collect()
}
