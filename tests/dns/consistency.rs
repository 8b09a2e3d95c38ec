//! Answers and table say the same at every moment: each generation, each schema, and while the table changes.

use crate::server::{Fixture, WAIT, ask_at, exchange, instance, question, question_edns, spec};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use weir::dns::{Aliases, Asker, Authority, Options, SchemaOptions, Schemas, Scope, Scratch, Transport, View, answer};
use weir::dnswire::{Parsed, Query};
use weir::model::{Instance, InstanceState, Verdict};
use weir::rng::Rng;
use weir::table::names::Names;
use weir::table::{Change, Changes, Service, Snapshot, build};

/// When the answers are made, in milliseconds: past every short TTL.
const NOW_MS: u64 = 1_000_000;
const SERVICES: usize = 4;

/// Asks the pure core and decodes with hickory.
fn ask(view: &View<'_>, scratch: &mut Scratch, name: &str, kind: RecordType) -> Message {
    let message = question_edns(name, kind, 1232).to_vec().unwrap();
    let Parsed::Fast(query) = Query::parse(&message) else { panic!("{name} is unusual") };
    let mut out = vec![0; 65_535];
    let reply = answer(view, &query, Transport::Tcp, scratch, &mut out);
    Message::from_vec(&out[..reply.bytes]).unwrap()
}

/// The addresses of one family that the proxy may pick now.
fn usable(service: &Service, ipv4: bool) -> BTreeSet<String> {
    let addresses = service.candidates(NOW_MS).map(|index| service.endpoints[index].address);
    addresses.filter(|address: &IpAddr| address.is_ipv4() == ipv4).map(|address| address.to_string()).collect()
}

/// A random state of a service.
fn instances(rng: &mut Rng, service: &str) -> Vec<Instance> {
    (0..rng.below(6))
        .map(|n| {
            let v6 = rng.below(4) == 0;
            let host = rng.below(8);
            let address = if v6 { format!("fd00::{host}") } else { format!("10.0.0.{host}") };
            let mut one = instance(service, &format!("{service}-{n}"), &address, &[80, if v6 { 0 } else { 90 }]);
            one.weight = 1 + u32::try_from(rng.below(3)).unwrap();
            one.verdict = [Verdict::Healthy, Verdict::Healthy, Verdict::Unhealthy, Verdict::Unknown][rng.below(4)];
            let states = [InstanceState::Ready, InstanceState::Ready, InstanceState::Draining, InstanceState::Starting];
            one.state = states[rng.below(4)];
            one
        })
        .collect()
}

#[test]
fn at_every_generation_answers_name_exactly_what_the_proxy_may_pick() {
    let seed = 20_261_126;
    println!("seed {seed}");
    let mut rng = Rng::from_seed(seed);
    let options = Options {
        schemas: vec![
            SchemaOptions::Native,
            SchemaOptions::Kubernetes { zone: "cluster.local".to_owned() },
            SchemaOptions::Consul { zone: "consul".to_owned(), datacenter: "dc1".to_owned() },
            SchemaOptions::Docker,
        ],
        ..Options::default()
    };
    let (authority, schemas) = (Authority::new(&options, &[]), Schemas::new(&options.schemas, &options.zone));
    let (aliases, scope, mut scratch) = (Aliases::default(), Scope::default(), Scratch::new(Rng::from_seed(1)));
    let mut snapshot = Snapshot::empty(Names::new(&options.zone));
    let mut asked = 0;
    for _ in 0..400 {
        let name = format!("s{}", rng.below(SERVICES));
        let change = if rng.below(10) == 0 {
            Change::Remove(weir::model::ServiceName::parse(&name).unwrap())
        } else {
            Change::Set { spec: Arc::new(spec(&name, &["http", "admin"])), instances: instances(&mut rng, &name) }
        };
        snapshot = build(&snapshot, Changes { services: vec![change], now_ms: NOW_MS, ..Changes::default() });
        let (authority, schemas, aliases, scope) = (&authority, &schemas, &aliases, &scope);
        let asker = Asker::default();
        let view =
            View { snapshot: &snapshot, authority, now_ms: NOW_MS, forwards: false, schemas, aliases, asker, scope };
        for number in 0..SERVICES {
            let name = format!("s{number}");
            let service = snapshot.services.get(&weir::model::ServiceName::parse(&name).unwrap());
            let service = service.map(|service| &**service);
            asked += assert_addresses(&view, &mut scratch, &name, service);
            asked += assert_services(&view, &mut scratch, &name, service);
        }
    }
    println!("{asked} answers over 400 generations");
}

/// Asks for the addresses of a service in every schema; returns how many questions that were.
fn assert_addresses(view: &View<'_>, scratch: &mut Scratch, name: &str, service: Option<&Service>) -> usize {
    let mut asked = 0;
    for form in ["S.weir.internal.", "S.default.svc.cluster.local.", "S.service.consul.", "tasks.S."] {
        let form = form.replace('S', name);
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = ask(view, scratch, &form, kind);
            let named: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
            let set: BTreeSet<String> = named.iter().cloned().collect();
            let context = format!("generation {}: {form} {kind}", view.snapshot.generation);
            assert_eq!(set.len(), named.len(), "{context} repeats {named:?}");
            let expected = service.map(|s| usable(s, kind == RecordType::A)).unwrap_or_default();
            assert_eq!(set, expected, "{context}");
            assert_soa(&found, view.snapshot.generation, &form);
            asked += 1;
        }
    }
    asked
}

/// Asks for a port that only some endpoints offer, and for the target of each record.
fn assert_services(view: &View<'_>, scratch: &mut Scratch, name: &str, service: Option<&Service>) -> usize {
    let mut asked = 0;
    for form in
        ["_admin._tcp.S.weir.internal.", "_admin._tcp.S.default.svc.cluster.local.", "_S._admin.service.consul."]
    {
        let form = form.replace('S', name);
        let found = ask(view, scratch, &form, RecordType::SRV);
        let offers = |s: &Service| s.candidates(NOW_MS).filter(|&index| s.endpoints[index].ports[1] != 0).count();
        let context = format!("generation {}: {form}", view.snapshot.generation);
        assert_eq!(found.answers.len(), service.map_or(0, offers), "{context}");
        for record in &found.answers {
            let RData::SRV(srv) = &record.data else { panic!("{record}") };
            let target = ask(view, scratch, &srv.target.to_ascii(), RecordType::A);
            assert_eq!(target.answers.len(), 1, "{} of {context}", srv.target);
            assert!(usable(service.unwrap(), true).contains(&target.answers[0].data.to_string()), "{context}");
            asked += 1;
        }
        asked += 1;
    }
    asked
}

/// What is empty says since which generation.
fn assert_soa(found: &Message, generation: u64, name: &str) {
    let serial = found.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(u64::from(soa.serial)),
        _ => None,
    });
    let docker_missing = found.metadata.response_code != ResponseCode::NoError && name.starts_with("tasks.");
    if found.answers.is_empty() && !docker_missing {
        assert_eq!(serial, Some(generation), "{name}");
    }
}

#[test]
fn the_first_question_after_a_publish_sees_it() {
    let mut fixture = Fixture::start(|_| {});
    let state = |sick: usize| {
        let list = (1..=2).map(|n| {
            let mut one = instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80]);
            one.verdict = if n == sick { Verdict::Unhealthy } else { Verdict::Healthy };
            one
        });
        vec![(spec("web", &["http"]), list.collect::<Vec<_>>())]
    };
    let mut slowest = Duration::ZERO;
    for round in 0..300 {
        let sick = 1 + round % 2;
        fixture.publish(state(sick));
        let published = weir::clock::now();
        let found = ask_at(fixture.address, &question("web.weir.internal.", RecordType::A));
        slowest = slowest.max(weir::clock::now() - published);
        let named: Vec<String> = found.answers.iter().map(|record| record.data.to_string()).collect();
        assert_eq!(named, [format!("10.0.0.{}", 3 - sick)], "round {round}");
    }
    println!("300 transitions, each seen by the first question; the slowest answer came {slowest:?} after the publish");
}

#[test]
fn a_change_shortens_the_ttl_for_a_while_and_stamps_no_longer() {
    let mut fixture = Fixture::start(|options| options.settle = Duration::from_secs(3600));
    let list = |n: usize| -> Vec<Instance> {
        (1..=n).map(|n| instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80])).collect()
    };
    let ttls = |fixture: &Fixture, name: &str, kind: RecordType| -> Vec<u32> {
        let found = ask_at(fixture.address, &question_edns(name, kind, 1232));
        found.answers.iter().chain(&found.additionals).map(|record| record.ttl).collect()
    };
    fixture.publish(vec![(spec("web", &["http"]), list(2))]);
    assert_eq!(ttls(&fixture, "web.weir.internal.", RecordType::A), [5, 5]);
    let changes = Changes {
        services: vec![Change::Set { spec: Arc::new(spec("web", &["http"])), instances: list(3) }],
        now_ms: weir::clock::now_ms().max(1),
        ..Changes::default()
    };
    let next = build(&fixture.publisher.current(), changes);
    fixture.publisher.publish(next);
    assert_eq!(ttls(&fixture, "web.weir.internal.", RecordType::A), [1; 3]);
    assert_eq!(ttls(&fixture, "_http._tcp.web.weir.internal.", RecordType::SRV), [1; 6]);
    assert_eq!(ttls(&fixture, "web-3.web.default.weir.internal.", RecordType::A), [1]);
    let stats = &fixture.publisher.current().services.iter().next().unwrap().candidates[0].stats.clone();
    assert!(stats.marks().named_until_ms() <= weir::clock::now_ms() + 5000, "the first answer's TTL, not an hour");
}

/// Publishes a thousand changes a second for `seconds` while `askers` ask, each question after the other. Returns questions,
/// wrong answers, lost answers and changes.
fn churn(seconds: u64, askers: usize) -> (usize, usize, usize, u64) {
    let mut fixture = Fixture::start(|_| {});
    let usable = |step: u64| (step % 3 + 1, (step + 1) % 3 + 1);
    let state = |step: u64| {
        let (a, b) = usable(step);
        let list = (1..=3u64).map(|n| {
            let mut one = instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80]);
            one.verdict = if n == a || n == b { Verdict::Healthy } else { Verdict::Unhealthy };
            one
        });
        vec![(spec("web", &["http"]), list.collect::<Vec<_>>())]
    };
    fixture.publish(state(0));
    let address = fixture.address;
    // The step that is certainly published, and the one that may be.
    let (sure, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (stop, asked, lost) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let wrong = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..askers)
        .map(|_| {
            let (sure, begun, stop, asked, lost, wrong) =
                (sure.clone(), begun.clone(), stop.clone(), asked.clone(), lost.clone(), wrong.clone());
            thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_read_timeout(Some(WAIT)).unwrap();
                socket.connect(address).unwrap();
                let message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
                let mut octets = [0; 512];
                while !stop.load(Ordering::Relaxed) {
                    let first = sure.load(Ordering::SeqCst);
                    socket.send(&message).unwrap();
                    let Ok(length) = socket.recv(&mut octets) else {
                        lost.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let last = begun.load(Ordering::SeqCst);
                    asked.fetch_add(1, Ordering::Relaxed);
                    let named = last_octets(&octets[..length]);
                    let fits = (first..=last).any(|step| {
                        let (a, b) = usable(step);
                        named == BTreeSet::from([a, b])
                    });
                    if !fits {
                        wrong.lock().unwrap().push((first, last, named));
                    }
                }
            })
        })
        .collect();
    let begin = weir::clock::now();
    let mut step = 0;
    while weir::clock::now() - begin < Duration::from_secs(seconds) {
        step += 1;
        begun.store(step, Ordering::SeqCst);
        fixture.publish(state(step));
        sure.store(step, Ordering::SeqCst);
        pause_until(begin + Duration::from_millis(step));
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let wrong = wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), asked.load(Ordering::Relaxed), wrong.first());
    (asked.load(Ordering::Relaxed), wrong.len(), lost.load(Ordering::Relaxed), step)
}

/// Waits for the next step of a steady rate.
fn pause_until(when: Instant) {
    let left = when.saturating_duration_since(weir::clock::now());
    if !left.is_zero() {
        thread::park_timeout(left);
    }
}

/// The last octets of the addresses in an answer with two records: read by hand, for the client must not be the slow one.
fn last_octets(message: &[u8]) -> BTreeSet<u64> {
    let count = usize::from(message[7]);
    let end = message.len();
    (0..count).map(|n| u64::from(message[end - 1 - 16 * n])).collect()
}

#[test]
fn a_thousand_changes_a_second_leave_no_answer_wrong_or_lost() {
    let (asked, wrong, lost, changes) = churn(2, 1);
    println!("{asked} questions during {changes} changes in 2 s: {wrong} wrong, {lost} lost");
    assert_eq!((wrong, lost), (0, 0));
    assert!(asked > 0 && changes > 100);
}

#[test]
#[ignore = "long: 20 s of changes; tests/run --long runs it"]
fn a_thousand_changes_a_second_for_long() {
    let (asked, wrong, lost, changes) = churn(20, 2);
    println!("{asked} questions during {changes} changes in 20 s: {wrong} wrong, {lost} lost");
    assert_eq!((wrong, lost), (0, 0));
}

#[test]
fn an_answer_is_never_larger_than_the_question_allows() {
    let fixture = crate::server::shared();
    for size in [512_u16, 600, 1232, 4096] {
        let message = question_edns("big.weir.internal.", RecordType::A, size).to_vec().unwrap();
        let octets = exchange(fixture.address, &message, WAIT).unwrap();
        assert!(octets.len() <= usize::from(size.min(1232)), "{} for {size}", octets.len());
    }
}
