//! What the backend table and the control plane show to Prometheus: read at each scrape, stored nowhere.
//!
//! Owns the families of endpoints, services, the table and events; the request counters of workers are
//! `telemetry::exposition`. Cost: one pass over the snapshot for each scrape, on the control runtime.

use crate::clock;
use crate::control::configuration;
use crate::control::events::{EventKind, Events};
use crate::table::{Endpoint, Service, Table};
use crate::telemetry::families::{Family, describe, family, metric};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Metric, MetricFamily};

const ENDPOINT: &[&str] = &["instance", "service"];
const SERVICE: &[&str] = &["service"];

/// Families of one endpoint, in the order of `endpoint_values`.
const ENDPOINTS: [Family; 7] = [
    ("weir_endpoint_up", "Whether the endpoint is usable now: 1 or 0.", ENDPOINT),
    ("weir_endpoint_weight", "Relative share of the endpoint, 1 to 1000.", ENDPOINT),
    ("weir_endpoint_ejected", "Whether passive ejection holds now: 1 or 0.", ENDPOINT),
    ("weir_endpoint_in_flight", "Requests in flight at the endpoint, tunnels included.", ENDPOINT),
    ("weir_endpoint_latency_seconds", "Average latency as a worker last saw it; 0 before the first answer.", ENDPOINT),
    ("weir_endpoint_requests_total", "Requests sent to the endpoint, retries included.", ENDPOINT),
    ("weir_endpoint_failures_total", "Requests that failed at the endpoint.", ENDPOINT),
];

/// Families of one service, in the order of `service_values`.
const SERVICES: [Family; 4] = [
    ("weir_service_endpoints", "Endpoints that may receive traffic, whatever their verdict.", SERVICE),
    ("weir_service_usable", "Endpoints that are used now, fail-open included.", SERVICE),
    ("weir_service_fails_open", "Whether no endpoint is usable, so that all are used: 1 or 0.", SERVICE),
    ("weir_service_waiting", "Requests that wait for a free replica.", SERVICE),
];

const REPLICAS: Family =
    ("weir_service_replicas", "Instances in the table by state: ready, unhealthy, draining.", &["service", "state"]);
const GENERATION: Family = ("weir_table_generation", "Generation of the published table.", &[]);
const ACKNOWLEDGED: Family =
    ("weir_table_acknowledged_generation", "Generation that each acknowledger has loaded.", &["acknowledger"]);
const EVENTS: Family = ("weir_events_total", "Events of the control plane by kind.", &["event"]);

/// Reads the table and the events when Prometheus asks.
#[derive(Debug)]
pub struct Gauges {
    table: Table,
    events: Events,
    descriptions: Vec<Desc>,
}

impl Gauges {
    /// Makes the collector; register it with `telemetry::Metrics::registry`.
    pub fn new(table: Table, events: Events) -> Self {
        let families = ENDPOINTS.iter().chain(&SERVICES).chain([&REPLICAS, &GENERATION, &ACKNOWLEDGED, &EVENTS]);
        let descriptions = families.filter_map(describe).collect();
        Self { table, events, descriptions }
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (snapshot, now_ms) = (self.table.load(), clock::now_ms());
        let mut services: Vec<_> = snapshot.services.iter().collect();
        services.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        let (mut endpoints, mut totals) = (Rows::new(&ENDPOINTS), Rows::new(&SERVICES));
        let mut replicas = Vec::new();
        for service in services {
            let name = service.name().as_str();
            totals.push(&[("service", name)], service_values(service, now_ms));
            for (state, count) in by_state(service) {
                replicas.push(metric(&REPLICAS, &[("service", name), ("state", state)], count));
            }
            for (endpoint, values) in endpoint_values(service, now_ms) {
                endpoints.push(&[("instance", endpoint.id.as_str()), ("service", name)], values);
            }
        }
        let acknowledged = self.table.acknowledgers();
        let acknowledged = acknowledged
            .iter()
            .map(|status| metric(&ACKNOWLEDGED, &[("acknowledger", &status.name)], status.generation as f64));
        let kinds = EventKind::ALL.into_iter();
        let events = kinds.map(|kind| metric(&EVENTS, &[("event", kind.as_str())], self.events.count(kind) as f64));
        let mut families = endpoints.families();
        families.extend(totals.families());
        families.push(family(&REPLICAS, replicas));
        families.push(family(&GENERATION, vec![metric(&GENERATION, &[], snapshot.generation as f64)]));
        families.push(family(&ACKNOWLEDGED, acknowledged.collect()));
        families.push(family(&EVENTS, events.collect()));
        // The encoder refuses a family of no metric.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

/// Reads how reloads went when Prometheus asks.
#[derive(Debug)]
pub struct ConfigurationGauges {
    configuration: configuration::Handle,
    descriptions: Vec<Desc>,
}

const RELOADS: Family =
    ("weir_config_reloads_total", "Reloads of the configuration: applied, unchanged, refused.", &["outcome"]);
const SUCCESS: Family =
    ("weir_config_last_success_timestamp_seconds", "When the configuration in use was taken up.", &[]);
const CURRENT: Family = ("weir_config_current", "Whether the file's text is in use (1) or refused (0).", &[]);

impl ConfigurationGauges {
    /// Makes the collector; register it with `telemetry::Metrics::registry`.
    pub fn new(configuration: configuration::Handle) -> Self {
        Self { configuration, descriptions: [&RELOADS, &SUCCESS, &CURRENT].into_iter().filter_map(describe).collect() }
    }
}

impl Collector for ConfigurationGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.configuration.status();
        let counts = self.configuration.counts();
        let reloads = counts.iter().map(|(outcome, count)| metric(&RELOADS, &[("outcome", outcome)], *count as f64));
        let current = f64::from(u8::from(status.failure.is_none()));
        vec![
            family(&RELOADS, reloads.collect()),
            family(&SUCCESS, vec![metric(&SUCCESS, &[], status.since_unix_ms as f64 / 1e3)]),
            family(&CURRENT, vec![metric(&CURRENT, &[], current)]),
        ]
    }
}

/// Several families that have the same labels.
struct Rows<'a, const N: usize> {
    families: &'a [Family; N],
    metrics: [Vec<Metric>; N],
}

impl<'a, const N: usize> Rows<'a, N> {
    fn new(families: &'a [Family; N]) -> Self {
        Self { families, metrics: std::array::from_fn(|_| Vec::new()) }
    }

    fn push(&mut self, labels: &[(&str, &str)], values: [f64; N]) {
        for ((metrics, family), value) in self.metrics.iter_mut().zip(self.families).zip(values) {
            metrics.push(metric(family, labels, value));
        }
    }

    fn families(self) -> Vec<MetricFamily> {
        self.families.iter().zip(self.metrics).map(|(of, metrics)| family(of, metrics)).collect()
    }
}

fn service_values(service: &Service, now_ms: u64) -> [f64; 4] {
    let usable = service.candidates(now_ms).count();
    [
        service.endpoints.len() as f64,
        usable as f64,
        f64::from(u8::from(service.fails_open(now_ms))),
        f64::from(service.stats.waiting()),
    ]
}

fn by_state(service: &Service) -> [(&'static str, f64); 3] {
    let unhealthy = service.candidates.iter().filter(|candidate| !candidate.healthy).count();
    [
        ("ready", (service.candidates.len() - unhealthy) as f64),
        ("unhealthy", unhealthy as f64),
        ("draining", service.draining.len() as f64),
    ]
}

fn endpoint_values(service: &Service, now_ms: u64) -> impl Iterator<Item = (&Endpoint, [f64; 7])> {
    let routed = service.endpoints.iter().zip(service.candidates.iter()).map(|pair| (pair, true));
    let draining = service.draining.iter().map(|(endpoint, candidate)| ((endpoint, candidate), false));
    routed.chain(draining).map(move |((endpoint, candidate), routed)| {
        let stats = &candidate.stats;
        let flag = |is: bool| f64::from(u8::from(is));
        let values = [
            flag(routed && candidate.is_usable(now_ms)),
            f64::from(candidate.weight),
            flag(stats.is_ejected(now_ms)),
            f64::from(stats.in_flight()),
            f64::from(stats.latency_us()) / 1e6,
            stats.requests() as f64,
            stats.failures() as f64,
        ];
        (endpoint, values)
    })
}

#[cfg(test)]
mod tests {
    use super::Gauges;
    use crate::control::events::{EventKind, Events};
    use crate::control::registry::fixture::{check, spec};
    use crate::model::{Instance, InstanceId, InstanceState, NodeId, ServiceName, Source, Verdict};
    use crate::table::names::Names;
    use crate::table::{Change, Changes, Snapshot, build, channel};
    use std::sync::Arc;

    fn instance(id: &str, state: InstanceState, verdict: Verdict) -> Instance {
        let (id, service) = (InstanceId::parse(id).unwrap(), ServiceName::parse("web").unwrap());
        let node = NodeId::parse("here").unwrap();
        let address = "127.0.0.1".parse().unwrap();
        Instance { weight: 7, state, verdict, ..Instance::new(id, service, Source::File, node, address, vec![8000, 0]) }
    }

    fn encode(gauges: Gauges) -> String {
        let registry = prometheus::Registry::new();
        registry.register(Box::new(gauges)).unwrap();
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn shows_endpoints_services_table_and_events() {
        let (mut publisher, table) = channel(Snapshot::empty(Names::default()));
        let instances = vec![
            instance("a", InstanceState::Ready, Verdict::Healthy),
            instance("b", InstanceState::Ready, Verdict::Unhealthy),
            instance("c", InstanceState::Draining, Verdict::Healthy),
        ];
        let services = vec![Change::Set { spec: Arc::new(spec("web", Some(check()))), instances }];
        publisher.publish(build(&publisher.current(), Changes { services, ..Changes::default() }));
        let (_reader, events) = (table.reader("worker-0"), Events::default());
        let _busy = table.load().services.iter().next().unwrap().candidates[0].stats.begin();
        events.emit(1, EventKind::Scaled, None, None, "2 to 3".to_owned());
        let text = encode(Gauges::new(table, events));
        for line in [
            r#"weir_endpoint_up{instance="a",service="web"} 1"#,
            r#"weir_endpoint_up{instance="b",service="web"} 0"#,
            r#"weir_endpoint_up{instance="c",service="web"} 0"#,
            r#"weir_endpoint_weight{instance="a",service="web"} 7"#,
            r#"weir_endpoint_in_flight{instance="a",service="web"} 1"#,
            r#"weir_endpoint_requests_total{instance="a",service="web"} 1"#,
            r#"weir_service_replicas{service="web",state="ready"} 1"#,
            r#"weir_service_replicas{service="web",state="unhealthy"} 1"#,
            r#"weir_service_replicas{service="web",state="draining"} 1"#,
            r#"weir_service_usable{service="web"} 1"#,
            r#"weir_service_fails_open{service="web"} 0"#,
            "weir_table_generation 1",
            r#"weir_table_acknowledged_generation{acknowledger="worker-0"} 1"#,
            r#"weir_events_total{event="scaled"} 1"#,
            "# TYPE weir_endpoint_requests_total counter",
            "# TYPE weir_endpoint_up gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn an_empty_table_is_no_error() {
        let (_publisher, table) = channel(Snapshot::empty(Names::default()));
        assert!(encode(Gauges::new(table, Events::default())).contains("weir_table_generation 0"));
    }
}
