//! Every schema, view and alias against one small table.

use crate::dns::locate::{Located, locate};
use crate::dns::options::{AliasOptions, AliasTargetOptions, SchemaOptions, ViewOptions};
use crate::dns::{Aliases, Asker, Authority, Options, Schemas, Scope, View};
use crate::dnswire::{labels, parse_name};
use crate::model::{InstanceState, Traits};
use crate::table::fixture::{empty, instance, set, spec};
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;
use std::time::Duration;

/// The kind of what is found, without its borrowed parts.
fn kind(snapshot: &Snapshot, scope: &Scope, name: &str) -> String {
    let authority = Authority::new(&Options::default(), &[]);
    let asker = Asker::default();
    let (schemas, aliases) = (schemas(), aliases());
    let view = View {
        snapshot,
        authority: &authority,
        now_ms: 1,
        forwards: false,
        schemas: &schemas,
        aliases: &aliases,
        asker,
        scope,
    };
    let wire = parse_name(name).unwrap();
    let place = locate(&view, &wire);
    match place.located {
        Located::Service(service, pick) => {
            let tag = pick.tag.map(|tag| format!(" tag {}", String::from_utf8_lossy(tag))).unwrap_or_default();
            let direct = if pick.direct { " direct" } else { "" };
            let port = pick.port.map(|port| format!(" port {port}")).unwrap_or_default();
            format!("service {}{tag}{port}{direct}", service.name())
        }
        Located::Port(service, port) => format!("port {port} of {}", service.name()),
        Located::Instance(service, index) => format!("{} of {}", service.endpoints[index].id, service.name()),
        Located::Draining(address) => format!("draining {address}"),
        Located::Address(address) => format!("address {address}"),
        Located::Alias(alias) => format!("alias {:?}", alias.ttl_seconds),
        Located::Missing(relative) => format!("missing {}", labels(relative).count()),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn schemas() -> Schemas {
    let kubernetes = SchemaOptions::Kubernetes { zone: "cluster.local".to_owned() };
    let consul = SchemaOptions::Consul { zone: "consul".to_owned(), datacenter: "dc1".to_owned() };
    Schemas::new(&[SchemaOptions::Native, kubernetes, consul, SchemaOptions::Docker], "weir.internal")
}

/// Aliases are told by their TTL.
fn aliases() -> Aliases {
    let alias = |name: &str, namespace: &str, ttl| AliasOptions {
        name: name.to_owned(),
        namespace: namespace.into(),
        to: AliasTargetOptions::Name("example.com".to_owned()),
        ttl: Duration::from_secs(ttl),
    };
    Aliases::new(&[
        alias("db", "default", 1),
        alias("*.apps", "default", 2),
        alias("*", "wild", 3),
        alias("api", "wild", 4),
        alias("web", "default", 5),
    ])
}

fn table() -> Snapshot {
    let mut leaving = instance("web", "web-out234", "10.0.0.9", &[80, 81]);
    leaving.state = InstanceState::Draining;
    let mut tagged = instance("web", "web-abc234", "10.0.0.1", &[80, 81]);
    tagged.traits = Some(Arc::new(Traits { tags: vec!["v1".into()], ..Traits::default() }));
    let list = [tagged, leaving];
    let table = set(&empty(), &[("web", &["http", "admin"], &list), ("staging/web", &["http"], &[])]);
    let mut wild = spec("staging", &["x"]).as_ref().clone();
    wild.dns.wildcard = true;
    let services = vec![Change::Set { spec: wild.into(), instances: vec![] }];
    build(&table, Changes { services, ..Changes::default() })
}

#[test]
fn finds_long_and_short_names_ports_instances_and_empty_non_terminals() {
    let (table, scope) = (table(), Scope::default());
    for (name, expected) in [
        ("weir.internal", "apex"),
        ("web.weir.internal", "service web"),
        ("web.default.weir.internal", "service web"),
        ("web.staging.weir.internal", "service staging/web"),
        ("_http._tcp.web.default.weir.internal", "port 0 of web"),
        ("_admin._tcp.web.weir.internal", "port 1 of web"),
        ("_http._tcp.web.staging.weir.internal", "port 0 of staging/web"),
        ("_http._udp.web.weir.internal", "missing 3"),
        ("default.weir.internal", "empty"),
        ("staging.weir.internal", "service staging"),
        ("_tcp.web.weir.internal", "empty"),
        ("_tcp.web.staging.weir.internal", "empty"),
        ("_tcp.weir.internal", "missing 1"),
        ("_http._tcp.weir.internal", "missing 2"),
        ("_a._b._c.web.weir.internal", "missing 4"),
        ("web-abc234.web.default.weir.internal", "web-abc234 of web"),
        ("web-out234.web.default.weir.internal", "draining 10.0.0.9"),
        ("web-abcdef.web.default.weir.internal", "missing 3"),
        ("web-abc234.web.weir.internal", "missing 2"),
        ("x.web-abcdef.web.default.weir.internal", "missing 4"),
        ("nope.weir.internal", "missing 1"),
        ("nope.default.weir.internal", "missing 2"),
        ("internal", "outside"),
        ("xweir.internal", "outside"),
        ("example.com", "outside"),
    ] {
        assert_eq!(kind(&table, &scope, name), expected, "{name}");
    }
}

#[test]
fn a_view_sees_its_namespaces_and_short_names_are_in_its_own() {
    let table = table();
    let options =
        ViewOptions { namespaces: Some(vec!["staging".into()]), namespace: "staging".into(), ..ViewOptions::default() };
    let scope = Scope::new(&options);
    for (name, expected) in [
        ("web.weir.internal", "service staging/web"),
        ("_http._tcp.web.weir.internal", "port 0 of staging/web"),
        ("web.staging.weir.internal", "service staging/web"),
        ("a.web.staging.weir.internal", "missing 3"),
        ("staging.weir.internal", "empty"),
        ("web.default.weir.internal", "missing 2"),
        ("a.web.default.weir.internal", "missing 3"),
        ("_tcp.web.default.weir.internal", "missing 3"),
        ("default.weir.internal", "missing 1"),
        ("weir.internal", "apex"),
    ] {
        assert_eq!(kind(&table, &scope, name), expected, "{name}");
    }
}

#[test]
fn names_of_kubernetes() {
    let (table, scope) = (table(), Scope::default());
    for (name, expected) in [
        ("", "apex"),
        ("svc", "empty"),
        ("pod", "empty"),
        ("default.svc", "empty"),
        ("default.pod", "empty"),
        ("nope.svc", "missing 2"),
        ("web.svc", "missing 2"),
        ("web", "missing 1"),
        ("web.default", "missing 2"),
        ("web.default.svc", "service web"),
        ("web.staging.svc", "service staging/web"),
        ("_http._tcp.web.default.svc", "port 0 of web"),
        ("_tcp.web.default.svc", "empty"),
        ("_tcp.default.svc", "missing 3"),
        ("web-abc234.web.default.svc", "web-abc234 of web"),
        ("nope.web.default.svc", "missing 4"),
        ("10-0-0-1.default.pod", "address 10.0.0.1"),
        ("10-0-0-1.staging.pod", "missing 3"),
        ("10-0-0-2.default.pod", "missing 3"),
        ("x.10-0-0-1.default.pod", "missing 4"),
        ("db.default.svc", "alias 1"),
        ("x.apps.default.svc", "alias 2"),
        ("x.staging.default.svc", "service staging"),
    ] {
        let name = format!("{name}.cluster.local");
        assert_eq!(kind(&table, &scope, name.trim_start_matches('.')), expected, "{name}");
    }
}

#[test]
fn names_of_consul() {
    let (table, scope) = (table(), Scope::default());
    for (name, expected) in [
        ("", "apex"),
        ("service", "empty"),
        ("dc1", "empty"),
        ("web.service", "service web port 0 direct"),
        ("web.service.dc1", "service web port 0 direct"),
        ("web.service.dc1.dc", "service web port 0 direct"),
        ("web.service.dc2", "missing 3"),
        ("web.service.dc2.dc", "missing 4"),
        ("web.service.staging.ns", "service staging/web port 0 direct"),
        ("web.service.staging.ns.dc1.dc", "service staging/web port 0 direct"),
        ("web.service.nope.ns", "missing 4"),
        ("v1.web.service", "service web tag v1 port 0 direct"),
        ("admin.web.service", "service web port 1 direct"),
        ("_web._tcp.service", "service web port 0 direct"),
        ("_web._admin.service.dc1", "service web port 1 direct"),
        ("_web._v1.service", "service web tag v1 port 0 direct"),
        ("_web.v1.service", "missing 3"),
        ("a.b.web.service", "missing 4"),
        ("nope.service", "missing 2"),
        ("db.service", "alias 1"),
        ("v1.db.service", "missing 3"),
        ("0a000001.addr", "address 10.0.0.1"),
        ("0a000001.addr.dc1", "address 10.0.0.1"),
        ("0a00001.addr", "missing 2"),
        ("addr", "empty"),
        ("web.query", "missing 2"),
        ("n.node", "missing 2"),
    ] {
        let name = format!("{name}.consul");
        assert_eq!(kind(&table, &scope, name.trim_start_matches('.')), expected, "{name}");
    }
}

#[test]
fn names_of_docker() {
    let (table, scope) = (table(), Scope::default());
    for (name, expected) in [
        ("web", "service web"),
        ("tasks.web", "service web direct"),
        ("tasks.nope", "outside"),
        ("tasks", "outside"),
        ("web-abc234", "web-abc234 of web"),
        ("web-nope", "outside"),
        ("db", "alias 1"),
        ("default", "outside"),
        ("nope", "outside"),
        ("web.com", "outside"),
        ("com.tasks.web", "outside"),
    ] {
        assert_eq!(kind(&table, &scope, name), expected, "{name}");
    }
}

#[test]
fn aliases_stand_where_no_service_does_and_wildcards_below_the_closest_name() {
    let (table, scope) = (table(), Scope::default());
    for (name, expected) in [
        ("db", "alias 1"),
        ("db.default", "alias 1"),
        ("web.default", "service web"),
        ("apps.default", "empty"),
        ("x.apps.default", "alias 2"),
        ("x.y.apps.default", "alias 2"),
        ("x.db.default", "missing 3"),
        ("wild", "empty"),
        ("api.wild", "alias 4"),
        ("x.wild", "alias 3"),
        ("x.y.wild", "alias 3"),
        ("x.api.wild", "missing 3"),
        ("x.staging.default", "service staging"),
        ("y.x.staging.default", "service staging"),
        ("x._tcp.staging.default", "missing 4"),
        ("x._x._tcp.staging.default", "missing 5"),
        ("x.web.default", "missing 3"),
    ] {
        assert_eq!(kind(&table, &scope, &format!("{name}.weir.internal")), expected, "{name}");
    }
    let unseen = Scope::new(&ViewOptions { namespaces: Some(vec!["default".into()]), ..ViewOptions::default() });
    for name in ["wild", "api.wild", "x.wild", "x.y.wild"] {
        let found = kind(&table, &unseen, &format!("{name}.weir.internal"));
        assert!(found.starts_with("missing"), "{name}: {found}");
    }
}

#[test]
fn a_short_name_that_grows_too_long_is_missing() {
    let options = ViewOptions { namespace: "n".repeat(63).into(), ..ViewOptions::default() };
    let name = format!("{}.weir.internal", ["_a".repeat(31), "_b".repeat(31), "c".repeat(63)].join("."));
    assert_eq!(kind(&table(), &Scope::new(&options), &name), "missing 3");
}
