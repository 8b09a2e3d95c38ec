//! Names and records through whole snapshots.

use crate::dnswire::{parse_name, record, rtype};
use crate::model::{Instance, ServiceName};
use crate::table::fixture::{empty, instance, set, spec};
use crate::table::names::{Found, Names, Owner, below};
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;

/// What is found, in lower case.
fn kind(snapshot: &Snapshot, name: &str) -> String {
    let mut key = parse_name(name).unwrap();
    key.pop();
    format!("{:?}", snapshot.names.find(&key)).to_lowercase()
}

#[test]
fn finds_services_ports_and_empty_non_terminals() {
    let table = set(&empty(), &[("web", &["http", "admin"], &[]), ("staging/web", &["http"], &[])]);
    for (name, expected) in [
        ("web.default", "service(0)"),
        ("web.staging", "service(1)"),
        ("_http._tcp.web.default", "port(0, 0)"),
        ("_admin._tcp.web.default", "port(0, 1)"),
        ("_http._tcp.web.staging", "port(1, 0)"),
        ("_http._udp.web.default", "missing"),
        ("default", "empty"),
        ("staging", "empty"),
        ("_tcp.web.default", "empty"),
        ("web", "missing"),
        ("", "missing"),
        ("web-abcdef.web.default", "missing"),
    ] {
        assert_eq!(kind(&table, name), expected, "{name}");
    }
}

#[test]
fn the_zone_ends_at_a_label_boundary() {
    let names = Names::default();
    // One label that contains the octets of the zone: not below it.
    let name = [&b"\x0fx\x04weir\x08internal"[..], b"\x00"].concat();
    assert_eq!(name.len(), 17);
    assert_eq!(below(&name, names.zone()), None);
    assert_eq!(below(b"\x01x\x04weir\x08internal\x00", names.zone()), Some((&b"\x01x"[..], 1)));
    assert_eq!(below(names.zone(), names.zone()), Some((&b""[..], 0)));
}

#[test]
fn a_namespace_is_there_while_it_has_a_service() {
    let table = set(&empty(), &[("a/b", &["http"], &[])]);
    assert_eq!(kind(&table, "a"), "empty");
    let both = set(&table, &[("a", &["http"], &[])]);
    assert_eq!([kind(&both, "a"), kind(&both, "a.default"), kind(&both, "b.a")], ["empty", "service(1)", "service(0)"]);
    let remove = |name: &str, from: &Snapshot| {
        let services = vec![Change::Remove(ServiceName::parse(name).unwrap())];
        build(from, Changes { services, ..Changes::default() })
    };
    let back = remove("a", &both);
    assert_eq!(kind(&back, "a"), "empty");
    assert_eq!(kind(&remove("a/b", &back), "a"), "missing");
    assert_eq!(kind(&both, "b.a"), "service(0)", "old snapshots stay as they were");
}

#[test]
fn changed_ports_change_the_names() {
    let table = set(&empty(), &[("web", &["http"], &[])]);
    let next = set(&table, &[("web", &["grpc"], &[])]);
    assert_eq!(kind(&next, "_http._tcp.web.default"), "missing");
    assert_eq!(kind(&next, "_grpc._tcp.web.default"), "port(0, 0)");
    assert_eq!(kind(&next, "_tcp.web.default"), "empty");
}

#[test]
fn reverse_names_follow_the_endpoints_and_leave_loopback_out() {
    let one = instance("web", "web-1", "10.0.0.1", &[80]);
    let two = instance("web", "web-2", "127.0.0.1", &[80]);
    let table = set(&empty(), &[("web", &["http"], &[one.clone(), two.clone()])]);
    let owners = |table: &Snapshot, address: &str| -> Vec<String> {
        let owners = table.names.owners(address.parse().unwrap()).unwrap_or_default();
        owners.iter().map(|o| o.id.as_ref().unwrap().to_string()).collect()
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
fn a_service_owns_its_own_address_while_it_is_there() {
    let own = |text: &str| Some(Arc::new([(ServiceName::parse("web").unwrap(), text.parse().unwrap())].into()));
    let change = |table: &Snapshot, change: Change, addresses| {
        build(table, Changes { services: vec![change], addresses, ..Changes::default() })
    };
    let web =
        || Change::Set { spec: spec("web", &["http"]), instances: vec![instance("web", "web-1", "10.0.0.1", &[80])] };
    let owners = |table: &Snapshot, address: &str| table.names.owners(address.parse().unwrap()).map(<[_]>::to_vec);
    let table = change(&set(&empty(), &[("api", &["http"], &[])]), web(), own("198.18.0.7"));
    let service = Some(vec![Owner { slot: 1, id: None }]);
    assert_eq!(owners(&table, "198.18.0.7"), service);
    let again = change(&table, web(), None);
    assert_eq!(owners(&again, "198.18.0.7"), service);
    let moved = change(&again, web(), own("198.18.0.8"));
    assert_eq!((owners(&moved, "198.18.0.7"), owners(&moved, "198.18.0.8")), (None, service));
    let gone = change(&moved, Change::Remove(ServiceName::parse("web").unwrap()), None);
    assert_eq!((owners(&gone, "198.18.0.8"), owners(&gone, "10.0.0.1")), (None, None));
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
    assert_eq!(below(b"\x01a\x00", names.zone()), None);
    assert_eq!(below(b"\x00", names.zone()), None);
    assert_eq!(names.find(b""), Found::Missing);
}
