//! Names and records through whole snapshots.

use crate::dnswire::{labels, parse_name, record, rtype};
use crate::model::{
    Instance, InstanceId, InstanceState, Limits, NodeId, Outliers, Policy, PortSpec, Protocol, RolloutSpec,
    ServiceName, ServiceSpec, Source, Timeouts, Verdict,
};
use crate::table::names::{Found, Names};
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;
use std::time::Duration;

fn spec(name: &str, ports: &[&str]) -> Arc<ServiceSpec> {
    let second = Duration::from_secs(1);
    Arc::new(ServiceSpec {
        name: ServiceName::parse(name).unwrap(),
        ports: ports.iter().map(|p| PortSpec { name: (*p).into(), protocol: Protocol::Tcp }).collect(),
        endpoints: Vec::new(),
        protocol: Default::default(),
        policy: Policy::default(),
        health: None,
        limits: Limits { concurrency: None, queue: 0, queue_timeout: second },
        timeouts: Timeouts { connect: second, response: second, idle: second, tunnel_idle: second, ping: second },
        outliers: Outliers { enabled: false, gateway_errors: 3, server_errors: 5, base: second, max: second },
        retries: 0,
        slow_start: Duration::ZERO,
        drain_timeout: second,
        dns_ttl: Duration::from_secs(5),
        run: None,
        replicas: 0,
        scale: None,
        rollout: RolloutSpec::default(),
        tls: None,
        revision: 0,
    })
}

fn instance(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance {
        id: InstanceId::parse(id).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        source: Source::File,
        node: NodeId::parse("local").unwrap(),
        address: address.parse().unwrap(),
        ports: ports.to_vec(),
        weight: 3,
        state: InstanceState::Ready,
        verdict: Verdict::Healthy,
        reason: "".into(),
        workload: None,
        revision: 1,
        created_ms: 1,
        ready_ms: 1,
    }
}

fn set(previous: &Snapshot, services: &[(&str, &[&str], &[Instance])]) -> Snapshot {
    let services =
        services.iter().map(|(name, ports, list)| Change::Set { spec: spec(name, ports), instances: list.to_vec() });
    build(previous, Changes { services: services.collect(), ..Changes::default() })
}

fn empty() -> Snapshot {
    Snapshot::empty(Names::default())
}

/// The kind of what is found, without its borrowed parts.
fn kind(snapshot: &Snapshot, name: &str) -> String {
    match snapshot.names.find(&parse_name(name).unwrap()) {
        Found::Below(slot, label) => format!("below {slot} {}", String::from_utf8_lossy(label)),
        Found::Missing(relative) => format!("missing {}", labels(relative).count()),
        other => format!("{other:?}").to_lowercase(),
    }
}

#[test]
fn finds_long_and_short_names_ports_instances_and_empty_non_terminals() {
    let table = set(&empty(), &[("web", &["http", "admin"], &[]), ("staging/web", &["http"], &[])]);
    for (name, expected) in [
        ("weir.internal", "apex"),
        ("web.weir.internal", "service(0)"),
        ("web.default.weir.internal", "service(0)"),
        ("web.staging.weir.internal", "service(1)"),
        ("_http._tcp.web.default.weir.internal", "port(0, 0)"),
        ("_admin._tcp.web.weir.internal", "port(0, 1)"),
        ("_http._tcp.web.staging.weir.internal", "port(1, 0)"),
        ("_http._udp.web.weir.internal", "missing 3"),
        ("default.weir.internal", "empty"),
        ("staging.weir.internal", "empty"),
        ("_tcp.web.weir.internal", "empty"),
        ("_tcp.web.staging.weir.internal", "empty"),
        ("web-abcdef.web.default.weir.internal", "below 0 web-abcdef"),
        ("web-abcdef.web.weir.internal", "missing 2"),
        ("x.web-abcdef.web.default.weir.internal", "missing 4"),
        ("nope.weir.internal", "missing 1"),
        ("nope.default.weir.internal", "missing 2"),
        ("internal", "outside"),
        ("xweir.internal", "outside"),
        ("example.com", "outside"),
    ] {
        assert_eq!(kind(&table, name), expected, "{name}");
    }
}

#[test]
fn the_zone_ends_at_a_label_boundary() {
    let table = empty();
    // One label that contains the octets of the zone: not below it.
    let name = [&b"\x0fx\x04weir\x08internal"[..], b"\x00"].concat();
    assert_eq!(name.len(), 17);
    assert_eq!(table.names.find(&name), Found::Outside);
}

#[test]
fn a_namespace_is_empty_and_a_service_of_the_same_name_wins() {
    let table = set(&empty(), &[("a/b", &["http"], &[])]);
    assert_eq!(kind(&table, "a.weir.internal"), "empty");
    let both = set(&table, &[("a", &["http"], &[])]);
    assert_eq!(kind(&both, "a.weir.internal"), "service(1)");
    assert_eq!(kind(&both, "b.a.weir.internal"), "service(0)");
    let remove = |name: &str, from: &Snapshot| {
        let services = vec![Change::Remove(ServiceName::parse(name).unwrap())];
        build(from, Changes { services, ..Changes::default() })
    };
    let back = remove("a", &both);
    assert_eq!(kind(&back, "a.weir.internal"), "empty");
    assert_eq!(kind(&remove("a/b", &back), "a.weir.internal"), "missing 1");
    assert_eq!(kind(&both, "a.weir.internal"), "service(1)", "old snapshots stay as they were");
}

#[test]
fn changed_ports_change_the_names() {
    let table = set(&empty(), &[("web", &["http"], &[])]);
    let next = set(&table, &[("web", &["grpc"], &[])]);
    assert_eq!(kind(&next, "_http._tcp.web.weir.internal"), "missing 3");
    assert_eq!(kind(&next, "_grpc._tcp.web.weir.internal"), "port(0, 0)");
    assert_eq!(kind(&next, "_tcp.web.weir.internal"), "empty");
}

#[test]
fn reverse_names_follow_the_endpoints_and_leave_loopback_out() {
    let one = instance("web", "web-1", "10.0.0.1", &[80]);
    let two = instance("web", "web-2", "127.0.0.1", &[80]);
    let table = set(&empty(), &[("web", &["http"], &[one.clone(), two.clone()])]);
    let owners = |table: &Snapshot, address: &str| -> Vec<String> {
        let owners = table.names.owners(address.parse().unwrap()).unwrap_or_default();
        owners.iter().map(|o| o.id.to_string()).collect()
    };
    assert_eq!(owners(&table, "10.0.0.1"), ["web-1"]);
    assert!(owners(&table, "127.0.0.1").is_empty());
    let three = instance("api", "api-1", "10.0.0.1", &[81]);
    let shared = set(&table, &[("api", &["http"], &[three])]);
    assert_eq!(owners(&shared, "10.0.0.1"), ["web-1", "api-1"]);
    let moved = set(&shared, &[("web", &["http"], &[two, instance("web", "web-1", "10.0.0.9", &[80])])]);
    assert_eq!(owners(&moved, "10.0.0.1"), ["api-1"]);
    assert_eq!(owners(&moved, "10.0.0.9"), ["web-1"]);
    let swapped = set(&moved, &[("web", &["http"], &[instance("web", "web-1", "10.0.0.9", &[80])])]);
    assert_eq!(owners(&swapped, "10.0.0.9"), ["web-1"]);
}

#[test]
fn records_are_encoded_per_endpoint_and_port() {
    let list = [
        instance("web", "web-b", "10.0.0.1", &[80, 0]),
        instance("web", "web-a", "fd00::1", &[81, 82]),
        instance("web", "web-c", "10.0.0.1", &[83]),
    ];
    let table = set(&empty(), &[("web", &["http", "admin"], &list)]);
    let records = &table.services.at(0).unwrap().records;
    assert_eq!(records.ttl_ms(), 5000);
    assert_eq!(record::kind(records.address(0).unwrap()), rtype::A);
    assert_eq!(record::kind(records.address(1).unwrap()), rtype::AAAA);
    assert!(records.address(3).is_none());
    assert_eq!(records.target(1).unwrap(), parse_name("web-a.web.default.weir.internal").unwrap());
    let (part, target) = records.service(1, 1).unwrap();
    assert_eq!(part[part.len() - 6..], [0, 0, 0, 3, 0, 82]);
    assert_eq!(usize::from(u16::from_be_bytes([part[8], part[9]])), 6 + target.len());
    assert!(records.service(0, 1).is_none(), "port 0: not offered");
    assert!(records.service(2, 1).is_none(), "no such port");
    assert!(records.service(0, 2).is_none());
    assert!(records.shares_addresses());
    assert!(records.has(rtype::A) && records.has(rtype::AAAA) && !records.has(rtype::SRV));
    assert_eq!((0..3).map(|i| records.first_with_address(i)).collect::<Vec<_>>(), [0, 1, 0]);
    assert_eq!([records.find(b"web-a"), records.find(b"web-b"), records.find(b"web-c")], [Some(1), Some(0), Some(2)]);
    assert_eq!(records.find(b"web-d"), None);
}

#[test]
fn many_endpoints_are_grouped_by_address_and_found_by_id() {
    let list: Vec<Instance> =
        (0..40).map(|n| instance("web", &format!("web-{n}"), &format!("10.0.0.{}", n / 2), &[80])).collect();
    let table = set(&empty(), &[("web", &["http"], &list)]);
    let records = &table.services.at(0).unwrap().records;
    for n in 0..40 {
        assert_eq!(records.first_with_address(n), n / 2 * 2);
        assert_eq!(records.find(format!("web-{n}").as_bytes()), Some(n));
    }
}

#[test]
fn a_text_that_is_no_zone_holds_no_name() {
    let names = Names::new("a..b");
    assert_eq!(names.find(b"\x01a\x00"), Found::Outside);
    assert_eq!(names.find(b"\x00"), Found::Outside);
}
