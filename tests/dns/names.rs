//! Names in every schema, as programs of others read them: one table, one set of records, four forms of names.

use crate::server::{
    Fixture, addresses, ask_at, code, connect, instance, question, question_edns, read_frame, send_frame, spec,
};
use crate::tools::{dig, drill, kdig, python};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use weir::dns::{AliasOptions, AliasTargetOptions, ForwardOptions, Options, SchemaOptions, ViewOptions};
use weir::model::{Instance, ServiceName, ServiceSpec, Traits};
use weir::table::{Change, Changes, build};

/// All schemas and an alias to every kind of place.
fn options(options: &mut Options) {
    options.schemas = vec![
        SchemaOptions::Native,
        SchemaOptions::Kubernetes { zone: "cluster.local".to_owned() },
        SchemaOptions::Consul { zone: "consul".to_owned(), datacenter: "dc1".to_owned() },
        SchemaOptions::Docker,
    ];
    let alias = |name: &str, to: AliasTargetOptions| AliasOptions {
        name: name.to_owned(),
        namespace: "default".into(),
        to,
        ttl: Duration::from_secs(7),
    };
    let service = |name: &str| AliasTargetOptions::Service(ServiceName::parse(name).unwrap());
    options.aliases = vec![
        alias("website", service("web")),
        alias("site", service("website")),
        alias("*.apps", service("web")),
        alias("gone", service("nothing")),
        alias("loop", service("pool")),
        alias("pool", service("loop")),
        alias("outside", AliasTargetOptions::Name("db.example.com".to_owned())),
    ];
}

fn services() -> Vec<(ServiceSpec, Vec<Instance>)> {
    let traits = |zone: &str, tag: &str| {
        let meta = [("owner".into(), "team-a".into())].into();
        Some(Arc::new(Traits { zone: Some(zone.into()), tags: vec![tag.into()], meta }))
    };
    let one = Instance { traits: traits("eu-1", "v1"), ..instance("web", "web-abc234", "10.1.0.1", &[8080, 9000]) };
    let two = Instance { traits: traits("eu-2", "v2"), ..instance("web", "web-def567", "10.1.0.2", &[8080, 0]) };
    let mut web = spec("web", &["http", "admin"]);
    web.dns.txt = vec!["team=a".into(), "tier=1".into()];
    web.dns.prefer_zone = true;
    let mut idle = spec("idle", &["http"]);
    idle.dns.headless = true;
    let mut wild = spec("wild", &["http"]);
    wild.dns.wildcard = true;
    vec![
        (web, vec![one, two]),
        (idle, vec![]),
        (wild, vec![instance("wild", "wild-abc234", "10.4.0.1", &[80])]),
        (spec("none", &["http"]), vec![]),
        (spec("staging/web", &["http"]), vec![instance("staging/web", "web-ghi234", "10.3.0.1", &[80])]),
    ]
}

fn all() -> &'static Fixture {
    static ALL: OnceLock<Fixture> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut fixture = Fixture::start(options);
        fixture.publish(services());
        fixture
    })
}

/// Asks over UDP; the answers as text, `TYPE data` each, sorted.
fn ask(fixture: &Fixture, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let mut message = question_edns(name, kind, 1232);
    message.metadata.recursion_desired = true;
    let answer = ask_at(fixture.address, &message);
    let mut shown: Vec<String> =
        answer.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    shown.sort();
    (code(&answer), shown)
}

const BOTH: [&str; 2] = ["10.1.0.1", "10.1.0.2"];

#[test]
fn four_clients_read_the_names_of_every_schema() {
    let server = all().address;
    let names = ["web.default.svc.cluster.local", "web.service.consul", "web.service.dc1.consul", "web.", "tasks.web."];
    for name in names {
        assert_eq!(dig(server, &format!("+short {name} A")).lines(), BOTH, "{name}");
        assert_eq!(kdig(server, &format!("+short +tcp {name} A")).lines(), BOTH, "{name}");
        drill(server, &format!("{name} A")).has(&["rcode: NOERROR", "10.1.0.1", "10.1.0.2"]);
    }
    let said = python(
        server,
        "import sys, dns.resolver, dns.reversename
r = dns.resolver.Resolver(configure=False)
r.nameservers, r.port = [sys.argv[1]], int(sys.argv[2])
srv = lambda name: sorted((s.priority, s.weight, s.port, str(s.target)) for s in r.resolve(name, 'SRV'))
for name in ['_http._tcp.web.default.svc.cluster.local.', 'web.service.consul.', '_web._admin.service.consul.', 'v2.web.service.consul.']:
    found = srv(name)
    print(name, found)
    for *_, target in found:
        print(target, [a.address for a in r.resolve(target, 'A')])
print([t.strings for t in r.resolve('dns-version.cluster.local.', 'TXT')])
print([t.strings for t in r.resolve('web.default.svc.cluster.local.', 'TXT')])
print([t.strings for t in r.resolve('web-abc234.web.weir.internal.'.replace('.web.', '.web.default.'), 'TXT')])
print([a.address for a in r.resolve('10-1-0-1.default.pod.cluster.local.', 'A')])",
    );
    said.has(&[
        "(0, 10, 8080, 'web-abc234.web.default.svc.cluster.local.'), \
         (0, 10, 8080, 'web-def567.web.default.svc.cluster.local.')",
        "web-abc234.web.default.svc.cluster.local. ['10.1.0.1']",
        "web.service.consul. [(1, 10, 8080, '0a010001.addr.dc1.consul.'), (1, 10, 8080, '0a010002.addr.dc1.consul.')]",
        "0a010002.addr.dc1.consul. ['10.1.0.2']",
        "_web._admin.service.consul. [(1, 10, 9000, '0a010001.addr.dc1.consul.')]",
        "v2.web.service.consul. [(1, 10, 8080, '0a010002.addr.dc1.consul.')]",
        "[(b'1.1.0',)]",
        "[(b'team=a', b'tier=1')]",
        "[(b'owner=team-a',)]",
        "['10.1.0.1']",
    ]);
}

#[test]
fn additional_records_are_of_the_targets_as_written() {
    let answer = ask_at(all().address, &question_edns("_web._admin.service.consul.", RecordType::SRV, 1232));
    let [extra] = &answer.additionals[..] else { panic!("{answer:?}") };
    assert_eq!(
        (extra.name.to_ascii(), extra.data.to_string()),
        ("0a010001.addr.dc1.consul.".into(), "10.1.0.1".into())
    );
}

#[test]
fn what_does_not_exist_is_told_with_the_soa_of_the_zone_asked() {
    for (name, kind, expected, owner) in [
        ("web.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain, "cluster.local."),
        // Kubernetes DNS specification 1.1, section 2.4.1: headless, and none is ready.
        ("idle.default.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain, "cluster.local."),
        ("idle.weir.internal.", RecordType::A, ResponseCode::NoError, "weir.internal."),
        ("none.default.svc.cluster.local.", RecordType::A, ResponseCode::NoError, "cluster.local."),
        ("web.default.svc.cluster.local.", RecordType::AAAA, ResponseCode::NoError, "cluster.local."),
        ("default.svc.cluster.local.", RecordType::A, ResponseCode::NoError, "cluster.local."),
        ("v3.web.service.consul.", RecordType::A, ResponseCode::NXDomain, "consul."),
        ("web.", RecordType::AAAA, ResponseCode::NoError, "web."),
        ("gone.weir.internal.", RecordType::A, ResponseCode::NXDomain, "weir.internal."),
    ] {
        let answer = ask_at(all().address, &question(name, kind));
        assert_eq!(code(&answer), expected, "{name}");
        assert_eq!(answer.authorities.len(), 1, "{name}");
        assert_eq!(answer.authorities[0].name.to_ascii(), owner, "{name}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    assert_eq!(ask(all(), "nothing.", RecordType::A).0, ResponseCode::NXDomain, "a short name that nobody has");
    assert_eq!(ask(all(), "example.com.", RecordType::A).0, ResponseCode::Refused);
}

#[test]
fn aliases_are_followed_inside_the_answer_and_in_the_schema_asked() {
    let chain = |target: &str| vec!["A 10.1.0.1".to_owned(), "A 10.1.0.2".to_owned(), format!("CNAME {target}")];
    for (name, target) in [
        ("website.weir.internal.", "web.default.weir.internal."),
        ("website.default.svc.cluster.local.", "web.default.svc.cluster.local."),
        ("website.service.consul.", "web.service.default.ns.consul."),
        ("x.apps.default.weir.internal.", "web.default.weir.internal."),
        ("x.y.apps.default.svc.cluster.local.", "web.default.svc.cluster.local."),
    ] {
        assert_eq!(ask(all(), name, RecordType::A), (ResponseCode::NoError, chain(target)), "{name}");
    }
    let two = ask(all(), "site.weir.internal.", RecordType::A).1;
    assert_eq!(two[2..], ["CNAME web.default.weir.internal.", "CNAME website.default.weir.internal."]);
    assert_eq!(ask(all(), "site.weir.internal.", RecordType::CNAME).1, ["CNAME website.default.weir.internal."]);
    assert_eq!(ask(all(), "outside.weir.internal.", RecordType::A).1, ["CNAME db.example.com."]);
    assert_eq!(ask(all(), "loop.weir.internal.", RecordType::A).0, ResponseCode::ServFail);
    let answer = ask_at(all().address, &question("website.weir.internal.", RecordType::A));
    let owners: Vec<String> = answer.answers.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners[0], "website.weir.internal.");
    assert_eq!(owners[1..], ["web.default.weir.internal.", "web.default.weir.internal."]);
    assert_eq!(answer.answers[0].ttl, 7);
}

#[test]
fn a_wildcard_stands_for_what_does_not_exist() {
    for name in ["a.wild.default.weir.internal.", "a.b.wild.default.svc.cluster.local."] {
        assert_eq!(ask(all(), name, RecordType::A).1, ["A 10.4.0.1"], "{name}");
    }
    let below = ask(all(), "a.wild-abc234.wild.default.weir.internal.", RecordType::A);
    assert_eq!(below, (ResponseCode::NXDomain, vec![]), "the instance exists: RFC 4592, section 3.3.1");
}

/// A server of the outside world that has one name.
fn outside() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut octets = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut octets) {
            let asked = Message::from_vec(&octets[..length]).unwrap();
            let mut answer =
                Message::new(asked.metadata.id, hickory_proto::op::MessageType::Response, asked.metadata.op_code);
            answer.queries = asked.queries.clone();
            let query = &asked.queries[0];
            let known = query.name().to_ascii().to_lowercase();
            if known == "db.example.com." || known == "api.example.com." {
                if query.query_type() == RecordType::A {
                    let data = hickory_proto::rr::RData::A("192.0.2.7".parse().unwrap());
                    answer.answers.push(hickory_proto::rr::Record::from_rdata(query.name().clone(), 60, data));
                }
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), peer).unwrap();
        }
    });
    address
}

/// Who asks with `ndots:5` and the search line of a pod.
fn completing() -> Fixture {
    let upstream = outside();
    let mut fixture = Fixture::start(|all| {
        options(all);
        all.views = vec![ViewOptions {
            name: "pods".into(),
            search: ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned).into(),
            ..ViewOptions::default()
        }];
        all.forward = Some(forward_to(upstream));
    });
    fixture.publish(services());
    fixture
}

fn forward_to(upstream: SocketAddr) -> ForwardOptions {
    ForwardOptions {
        servers: vec![weir::dns::ServerOptions::Plain(upstream)],
        hosts: None,
        ..ForwardOptions::default()
    }
}

#[test]
fn what_a_search_line_completes_in_vain_costs_one_question() {
    let fixture = completing();
    // The names that glibc asks for first with ndots:5.
    let first = |name: &str| format!("{name}.default.svc.cluster.local.");
    let (yes, no) = (ResponseCode::NoError, ResponseCode::NXDomain);
    assert_eq!(ask(&fixture, &first("web"), RecordType::A).1, ["A 10.1.0.1", "A 10.1.0.2"], "its own name");
    let other = ask(&fixture, &first("web.staging"), RecordType::A);
    assert_eq!(other, (yes, vec!["A 10.3.0.1".into(), "CNAME web.staging.svc.cluster.local.".into()]));
    let whole = ask(&fixture, &first("web.default.weir.internal"), RecordType::A);
    assert_eq!(whole.1[2], "CNAME web.default.weir.internal.");
    let far = ask(&fixture, &first("api.example.com"), RecordType::A);
    assert_eq!(far, (yes, vec!["A 192.0.2.7".into(), "CNAME api.example.com.".into()]));
    assert_eq!(ask(&fixture, &first("nothing"), RecordType::A), (no, vec![]), "one label goes no further");
    let nowhere = ask(&fixture, &first("nothing.example.com"), RecordType::A);
    assert_eq!(nowhere, (no, vec!["CNAME nothing.example.com.".into()]));
    // Only what the first domain completes: a client asks for the others after it.
    assert_eq!(ask(&fixture, "api.example.com.svc.cluster.local.", RecordType::A), (no, vec![]));
    // And over TCP, where the rest of the answer comes later.
    let mut stream = connect(fixture.address);
    let mut message = question(&first("api.example.com"), RecordType::A);
    message.metadata.recursion_desired = true;
    send_frame(&mut stream, &message.to_vec().unwrap());
    let answer = Message::from_vec(&read_frame(&mut stream)).unwrap();
    assert_eq!(answer.answers.len(), 2, "{answer:?}");
    assert_eq!(answer.queries[0].name().to_ascii(), first("api.example.com"));
    let alias = ask(&fixture, "outside.weir.internal.", RecordType::A);
    assert_eq!(alias, (yes, vec!["A 192.0.2.7".into(), "CNAME db.example.com.".into()]));
}

/// Asks from an address of loopback.
fn ask_from(last: u8, server: SocketAddr, message: &Message) -> Message {
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.set_read_timeout(Some(crate::server::WAIT)).unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).unwrap();
    let mut octets = [0; 1500];
    let length = socket.recv(&mut octets).unwrap();
    Message::from_vec(&octets[..length]).unwrap()
}

#[test]
fn a_view_sees_its_namespaces_and_prefers_its_zone() {
    let mut fixture = Fixture::start(|all| {
        options(all);
        let network = |last: u8| vec![([127, 0, 0, last].into(), 32)];
        all.views = vec![
            ViewOptions {
                name: "staging".into(),
                networks: network(2),
                namespaces: Some(vec!["staging".into()]),
                namespace: "staging".into(),
                ..ViewOptions::default()
            },
            ViewOptions {
                name: "near".into(),
                networks: network(3),
                zone: Some("eu-2".into()),
                ..ViewOptions::default()
            },
            ViewOptions {
                name: "far".into(),
                networks: network(4),
                zone: Some("us-1".into()),
                ..ViewOptions::default()
            },
        ];
    });
    fixture.publish(services());
    let from = |last: u8, name: &str, kind: RecordType| {
        let answer = ask_from(last, fixture.address, &question(name, kind));
        (code(&answer), addresses(&answer.answers))
    };
    let a = RecordType::A;
    let found = |list: &[&str]| (ResponseCode::NoError, list.iter().map(|ip| (*ip).to_owned()).collect::<Vec<_>>());
    let missing = (ResponseCode::NXDomain, vec![]);
    assert_eq!(from(2, "web.weir.internal.", a), found(&["10.3.0.1"]));
    assert_eq!(from(2, "web.", a), found(&["10.3.0.1"]));
    assert_eq!(from(2, "web.service.consul.", a), found(&["10.3.0.1"]));
    for name in ["web.default.weir.internal.", "default.weir.internal.", "web.default.svc.cluster.local."] {
        assert_eq!(from(2, name, a), missing, "{name}");
    }
    let reverse = |last| from(last, "1.0.1.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reverse(2).0, ResponseCode::Refused);
    assert_eq!(reverse(1), found(&["web-abc234.web.default.weir.internal."]));
    assert_eq!(from(3, "web.weir.internal.", a), found(&["10.1.0.2"]));
    assert_eq!(from(4, "web.weir.internal.", a), found(&BOTH), "no endpoint is near");
    assert_eq!(from(1, "web.weir.internal.", a), found(&BOTH));
}

#[test]
fn a_service_s_own_address_has_the_service_s_name() {
    let kubernetes = SchemaOptions::Kubernetes { zone: "cluster.local".to_owned() };
    for (schemas, name) in [
        (vec![SchemaOptions::Native], "web.default.weir.internal."),
        (vec![kubernetes, SchemaOptions::Native], "web.default.svc.cluster.local."),
    ] {
        let mut fixture = Fixture::start(|all| {
            all.schemas = schemas;
            all.service_addresses = Some(([198, 18, 0, 0].into(), 24));
            let hidden = ViewOptions { namespaces: Some(vec!["staging".into()]), ..ViewOptions::default() };
            all.views = vec![ViewOptions { networks: vec![([127, 0, 0, 2].into(), 32)], ..hidden }];
        });
        let web = spec("web", &["http"]);
        let own = Some(Arc::new([(web.name.clone(), [198, 18, 0, 7].into())].into()));
        let services = vec![Change::Set { spec: Arc::new(web), instances: vec![] }];
        let next = build(&fixture.publisher.current(), Changes { services, addresses: own, ..Changes::default() });
        fixture.publisher.publish(next);
        let reverse = |last: u8, name: &str| {
            let answer = ask_from(last, fixture.address, &question(name, RecordType::PTR));
            (code(&answer), addresses(&answer.answers))
        };
        assert_eq!(reverse(1, "7.0.18.198.in-addr.arpa."), (ResponseCode::NoError, vec![name.to_owned()]));
        // Whoever else is asked knows less.
        assert_eq!(reverse(2, "7.0.18.198.in-addr.arpa."), (ResponseCode::NXDomain, vec![]), "not of its namespaces");
        assert_eq!(reverse(1, "8.0.18.198.in-addr.arpa."), (ResponseCode::NXDomain, vec![]), "nobody's yet");
        let nobody = ask_from(1, fixture.address, &question("8.0.18.198.in-addr.arpa.", RecordType::PTR));
        assert_eq!(nobody.authorities[0].name.to_ascii(), "0.18.198.in-addr.arpa.", "the zone of the range");
        assert_eq!(reverse(1, "7.1.18.198.in-addr.arpa."), (ResponseCode::Refused, vec![]), "beside the range");
    }
}

#[test]
fn weights_decide_the_share_of_the_first_record() {
    let mut fixture = Fixture::start(|_| {});
    let weighted = |n: u32, weight: u32| Instance {
        weight,
        ..instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80])
    };
    let mut web = spec("web", &["http"]);
    web.dns.answers = Some(1);
    fixture.publish(vec![(web, vec![weighted(1, 100), weighted(2, 300)])]);
    let mut first: HashMap<String, u32> = HashMap::new();
    for _ in 0..400 {
        let answer = ask_at(fixture.address, &question("web.weir.internal.", RecordType::A));
        assert_eq!(answer.answers.len(), 1, "as many as answers says");
        *first.entry(answer.answers[0].data.to_string()).or_default() += 1;
    }
    // 300 of 400 are expected; the standard deviation is 9.
    assert!((250..350).contains(&first["10.0.0.2"]), "{first:?}");
}
