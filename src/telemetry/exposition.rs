//! The workers' shards as Prometheus metric families.

use crate::telemetry::shard::{self, BUCKETS_US, ServiceCounters, Shard, TURN_BUCKETS_US, Turns};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

type Shards = Arc<Mutex<Vec<Arc<Shard>>>>;

/// Sums the shards at each scrape.
#[derive(Debug)]
pub(crate) struct ShardCollector {
    shards: Shards,
    descriptions: Vec<Desc>,
}

/// Name, help and labels of each family of the data plane; the one list, also for the documentation.
const FAMILIES: [(&str, &str, &[&str]); 21] = [
    ("weir_connections_total", "Connections accepted.", &[]),
    ("weir_connections_open", "Connections open now.", &[]),
    ("weir_panics_total", "Panics caught at a connection's boundary.", &[]),
    ("weir_refused_total", "Requests that Weir answered itself, by reason.", &["reason"]),
    ("weir_requests_total", "Requests by status class.", &["service", "code"]),
    ("weir_request_duration_seconds", "Time from the request's head to the response's end.", &["service"]),
    ("weir_sent_bytes_total", "Octets sent to clients.", &["service"]),
    ("weir_received_bytes_total", "Octets of request bodies and streams received.", &["service"]),
    ("weir_retries_total", "Further attempts, by whether the budget allowed them.", &["service", "outcome"]),
    ("weir_ejections_total", "Passive ejections.", &["service"]),
    ("weir_queued_total", "Requests that waited for a free replica.", &["service"]),
    ("weir_streams_total", "TCP streams, tunnels and UDP flows begun.", &["service"]),
    ("weir_streams_open", "TCP streams, tunnels and UDP flows open now.", &["service"]),
    ("weir_streams_cut_total", "TCP streams, tunnels and UDP flows ended at a drain deadline.", &["service"]),
    ("weir_worker_connections_open", "Connections open now, by worker in the order of their start.", &["worker"]),
    ("weir_partial_head_bytes", "Memory held for request heads that have not come whole.", &[]),
    (
        "weir_worker_turn_seconds",
        "Length of one piece of a worker's work, during which it does nothing else.",
        &["worker"],
    ),
    ("weir_accept_pauses_total", "Pauses in accepting for want of descriptors.", &[]),
    ("weir_connections_shed_total", "Connections reset as soon as they came, for want of memory.", &[]),
    ("weir_held_total", "Requests and streams that were held because there was no replica.", &["service"]),
    (
        "weir_udp_datagrams_total",
        "Datagrams passed on, to endpoints (in) and clients (out).",
        &["service", "direction"],
    ),
];

/// Counters of a service that are summed as they are.
const PLAIN: usize = 12;

/// The sums of one service.
#[derive(Default)]
struct Sums {
    by_class: [u64; 6],
    buckets: [u64; 14],
    duration_us: u64,
    plain: [u64; PLAIN],
}

impl ShardCollector {
    pub(crate) fn new(shards: Shards) -> Self {
        let descriptions = FAMILIES
            .iter()
            .filter_map(|(name, help, labels)| {
                let labels = labels.iter().map(|l| (*l).to_owned()).collect();
                Desc::new((*name).to_owned(), (*help).to_owned(), labels, HashMap::new()).ok()
            })
            .collect();
        Self { shards, descriptions }
    }
}

impl Collector for ShardCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sum = |read: fn(&Shard) -> u64| shards.iter().map(|s| read(s)).fold(0u64, u64::wrapping_add);
        let mut refused: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut services: BTreeMap<Arc<str>, Sums> = BTreeMap::new();
        for shard in &shards {
            shard.each_refusal(|reason, n| *refused.entry(reason).or_default() += n);
            shard.each_service(|name, counters| services.entry(name.clone()).or_default().add(counters));
        }
        let mut families = vec![
            family(0, vec![counter(&[], sum(|s| s.accepted.value()))]),
            family(1, vec![gauge(&[], sum(|s| s.open.value()))]),
            family(2, vec![counter(&[], sum(|s| s.panics.value()))]),
            family(18, vec![counter(&[], sum(|s| s.shed.value()))]),
            family(17, vec![counter(&[], sum(|s| s.accept_pauses.value()))]),
            family(15, vec![gauge(&[], sum(|s| s.partial_head_bytes.value()))]),
        ];
        let turns: Vec<_> =
            shards.iter().enumerate().filter_map(|(n, shard)| turn_histogram(n, &shard.turns)).collect();
        if !turns.is_empty() {
            families.push(family(16, turns));
        }
        let busy = shards.iter().enumerate().filter(|(_, shard)| shard.open.value() > 0);
        let by_worker: Vec<_> =
            busy.map(|(n, shard)| gauge(&[("worker", &n.to_string())], shard.open.value())).collect();
        if !by_worker.is_empty() {
            families.push(family(14, by_worker));
        }
        if !refused.is_empty() {
            families.push(family(3, refused.iter().map(|(reason, n)| counter(&[("reason", reason)], *n)).collect()));
        }
        if !services.is_empty() {
            families.extend(service_families(&services));
        }
        families
    }
}

impl Sums {
    fn add(&mut self, from: &ServiceCounters) {
        for (sum, counter) in self.by_class.iter_mut().zip(&from.by_class) {
            *sum += counter.value();
        }
        for (sum, counter) in self.buckets.iter_mut().zip(&from.buckets) {
            *sum += counter.value();
        }
        self.duration_us += from.duration_us.value();
        let plain = [
            &from.sent_bytes,
            &from.received_bytes,
            &from.retries,
            &from.retries_refused,
            &from.ejections,
            &from.queued,
            &from.streams,
            &from.streams_open,
            &from.streams_cut,
            &from.held,
            &from.datagrams_in,
            &from.datagrams_out,
        ];
        for (sum, counter) in self.plain.iter_mut().zip(plain) {
            *sum = sum.wrapping_add(counter.value());
        }
    }
}

fn service_families(services: &BTreeMap<Arc<str>, Sums>) -> Vec<MetricFamily> {
    const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
    let requests = services
        .iter()
        .flat_map(|(name, sums)| CLASSES.iter().zip(sums.by_class).map(move |(class, n)| (name, *class, n)))
        .filter(|(_, _, n)| *n > 0)
        .map(|(name, class, n)| counter(&[("code", class), ("service", name)], n))
        .collect();
    let per_service =
        |at: usize| services.iter().map(|(name, s)| counter(&[("service", name)], value(&s.plain, at))).collect();
    let retries = services
        .iter()
        .flat_map(|(name, s)| {
            [("allowed", value(&s.plain, 2)), ("refused", value(&s.plain, 3))]
                .map(|(outcome, n)| counter(&[("outcome", outcome), ("service", name)], n))
        })
        .collect();
    let datagrams = services.iter().flat_map(|(name, s)| {
        [("in", value(&s.plain, 10)), ("out", value(&s.plain, 11))]
            .map(|(direction, n)| counter(&[("direction", direction), ("service", name)], n))
    });
    vec![
        family(4, requests),
        family(5, services.iter().map(|(name, sums)| histogram(name, sums)).collect()),
        family(6, per_service(0)),
        family(7, per_service(1)),
        family(8, retries),
        family(9, per_service(4)),
        family(10, per_service(5)),
        family(11, per_service(6)),
        family(12, services.iter().map(|(name, s)| gauge(&[("service", name)], value(&s.plain, 7))).collect()),
        family(13, per_service(8)),
        family(19, per_service(9)),
        family(20, datagrams.collect()),
    ]
}

fn value(plain: &[u64; PLAIN], at: usize) -> u64 {
    plain.get(at).copied().unwrap_or(0)
}

fn family(index: usize, metrics: Vec<Metric>) -> MetricFamily {
    let (name, help, _) = FAMILIES.get(index).copied().unwrap_or(("weir_unknown", "", &[]));
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match name {
        "weir_connections_open" | "weir_streams_open" | "weir_worker_connections_open" | "weir_partial_head_bytes" => {
            MetricType::GAUGE
        }
        "weir_request_duration_seconds" | "weir_worker_turn_seconds" => MetricType::HISTOGRAM,
        _ => MetricType::COUNTER,
    });
    family.set_metric(metrics);
    family
}

fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    pairs
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

fn counter(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_counter(counter);
    metric.set_label(labels(pairs));
    metric
}

fn gauge(pairs: &[(&str, &str)], value: u64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_gauge(gauge);
    metric.set_label(labels(pairs));
    metric
}

fn histogram(service: &str, sums: &Sums) -> Metric {
    let seconds = sums.duration_us as f64 / 1e6;
    distribution(("service", service), &BUCKETS_US, &sums.buckets, seconds)
}

/// Returns the turns of a worker; `None` while it has had none.
fn turn_histogram(worker: usize, turns: &Turns) -> Option<Metric> {
    let counts: Vec<u64> = turns.buckets.iter().map(shard::Counter::value).collect();
    let any = counts.iter().any(|&n| n > 0);
    let seconds = turns.total_ns.value() as f64 / 1e9;
    any.then(|| distribution(("worker", &worker.to_string()), &TURN_BUCKETS_US, &counts, seconds))
}

fn distribution(label: (&str, &str), bounds_us: &[u64], counts: &[u64], seconds: f64) -> Metric {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(bounds_us.len());
    for (bound_us, n) in bounds_us.iter().zip(counts) {
        cumulative += n;
        let mut bucket = Bucket::default();
        bucket.set_cumulative_count(cumulative);
        bucket.set_upper_bound(*bound_us as f64 / 1e6);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(seconds);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric.set_label(labels(&[label]));
    metric
}
