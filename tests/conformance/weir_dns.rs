//! Promises of this server beyond the RFCs: rotation, sync, health, stamps, acknowledgement, drain, metrics.

use crate::dns::{
    Fixture, WAIT, addresses, ask, ask_at, code, exchange, instance, question, question_edns, shared, spec,
};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::collections::HashMap;
use std::time::Duration;
use weir::dns::{Options, bind};
use weir::lifecycle::Phase;
use weir::net::Binder;

#[test]
fn servfail_until_the_first_generation_and_refused_outside_all_along() {
    let mut fixture = Fixture::start(|_| {});
    let ask = |name: &str, fixture: &Fixture| ask_at(fixture.address, &question(name, RecordType::A));
    assert_eq!(code(&ask("web.weir.internal.", &fixture)), ResponseCode::ServFail);
    assert_eq!(code(&ask("1.0.0.10.in-addr.arpa.", &fixture)), ResponseCode::ServFail);
    assert_eq!(code(&ask("example.com.", &fixture)), ResponseCode::Refused);
    fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", "web-1", "10.0.0.1", &[80])])]);
    assert_eq!(addresses(&ask("web.weir.internal.", &fixture).answers), ["10.0.0.1"]);
}

#[test]
fn records_come_in_random_order_and_a_cut_answer_is_a_random_part() {
    let mut first: HashMap<String, u32> = HashMap::new();
    for _ in 0..300 {
        let answer = ask("_http._tcp.web.weir.internal.", RecordType::SRV);
        *first.entry(answer.answers[0].data.to_string()).or_default() += 1;
    }
    // Each of three is expected 100 times; 50 is six standard deviations away.
    assert!(first.len() == 3 && first.values().all(|&n| n > 50), "{first:?}");
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        let cut = ask_at(shared().address, &question_edns("big.weir.internal.", RecordType::A, 1232));
        seen.extend(addresses(&cut.answers));
    }
    assert!(seen.len() > 2900, "{} of 3000 were named", seen.len());
}

#[test]
fn shared_addresses_are_named_once() {
    assert_eq!(addresses(&ask("local.weir.internal.", RecordType::A).answers), ["127.0.0.1"]);
}

#[test]
fn all_unhealthy_fails_open_and_a_changed_table_shows_at_once() {
    let mut fixture = Fixture::start(|_| {});
    let sick = |n: usize| {
        let mut instance = instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80]);
        instance.verdict = weir::model::Verdict::Unhealthy;
        instance
    };
    let ask =
        |fixture: &Fixture| addresses(&ask_at(fixture.address, &question("web.weir.internal.", RecordType::A)).answers);
    fixture.publish(vec![(spec("web", &["http"]), vec![sick(1), sick(2)])]);
    assert_eq!(ask(&fixture), ["10.0.0.1", "10.0.0.2"]);
    fixture.publish(vec![(spec("web", &["http"]), vec![sick(1), instance("web", "web-3", "10.0.0.3", &[80])])]);
    assert_eq!(ask(&fixture), ["10.0.0.3"]);
    let mut draining = instance("web", "web-3", "10.0.0.3", &[80]);
    draining.state = weir::model::InstanceState::Draining;
    fixture.publish(vec![(spec("web", &["http"]), vec![sick(1), draining])]);
    assert_eq!(ask(&fixture), ["10.0.0.1"]);
}

/// Service records that name an instance may be cached for their TTL; a client then asks for its address.
#[test]
fn the_name_of_a_draining_instance_still_leads_to_it_and_is_not_cached() {
    let mut fixture = Fixture::start(|_| {});
    let mut draining = instance("web", "web-2", "10.0.0.2", &[80]);
    draining.state = weir::model::InstanceState::Draining;
    let ready = instance("web", "web-1", "10.0.0.1", &[80]);
    fixture.publish(vec![(spec("web", &["http"]), vec![ready.clone(), draining])]);
    let ask = |name: &str, kind| ask_at(fixture.address, &question(name, kind));
    assert_eq!(ask("_http._tcp.web.weir.internal.", RecordType::SRV).answers.len(), 1);
    assert_eq!(addresses(&ask("web.weir.internal.", RecordType::A).answers), ["10.0.0.1"]);
    let own = ask("web-2.web.default.weir.internal.", RecordType::A);
    assert_eq!((addresses(&own.answers), own.answers[0].ttl), (vec!["10.0.0.2".to_owned()], 0));
    let other_family = ask("web-2.web.default.weir.internal.", RecordType::AAAA);
    assert_eq!((code(&other_family), other_family.answers.len()), (ResponseCode::NoError, 0));
    fixture.publish(vec![(spec("web", &["http"]), vec![ready])]);
    let gone = ask_at(fixture.address, &question("web-2.web.default.weir.internal.", RecordType::A));
    assert_eq!(code(&gone), ResponseCode::NXDomain);
}

#[test]
fn a_named_service_is_stamped_until_its_answer_has_aged_out() {
    let mut fixture = Fixture::start(|_| {});
    let list = |service: &str, address: &str| {
        (1..=3).map(|n| instance(service, &format!("{service}-{n}"), address, &[80])).collect::<Vec<_>>()
    };
    let mut sick = instance("web", "web-9", "10.0.0.9", &[80]);
    sick.verdict = weir::model::Verdict::Unhealthy;
    let mut web = list("web", "127.0.0.1");
    web.push(sick);
    let mut quick = spec("quick", &["http"]);
    quick.dns_ttl = Duration::from_secs(60);
    fixture.publish(vec![(spec("web", &["http"]), web), (quick, list("quick", "10.0.0.5"))]);
    let stamp = |name: &str| {
        let snapshot = fixture.table.load();
        let service = snapshot.services.get(&weir::model::ServiceName::parse(name).unwrap()).unwrap();
        let own = service.stats.marks().named_until_ms();
        assert!(service.candidates.iter().all(|c| c.stats.marks().named_until_ms() == own));
        own
    };
    assert_eq!(stamp("web"), 0);
    let before = weir::clock::now_ms();
    ask_at(fixture.address, &question("web.weir.internal.", RecordType::A));
    let after = weir::clock::now_ms();
    let web = stamp("web");
    assert!((before + 5_000..=after + 5_000).contains(&web), "{web}");
    assert_eq!(stamp("quick"), 0);
    ask_at(fixture.address, &question("_http._tcp.quick.weir.internal.", RecordType::SRV));
    assert!(stamp("quick") >= before + 60_000);
}

#[tokio::test]
async fn idle_dns_threads_do_not_hold_up_an_acknowledgement() {
    let mut fixture = Fixture::start(|_| {});
    let deadline = weir::clock::now() + WAIT;
    for n in 1..=20 {
        fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", &format!("web-{n}"), "10.0.0.1", &[80])])]);
        let generation = fixture.table.load().generation;
        tokio::time::timeout_at(deadline.into(), fixture.table.acknowledged(generation)).await.unwrap();
    }
    let names: Vec<String> = fixture.table.acknowledgers().iter().map(|a| a.name.to_string()).collect();
    assert_eq!(names, ["dns-0", "dns-1", "dns-slow"]);
}

#[test]
fn the_drain_ends_every_thread_and_frees_the_address() {
    let fixture = Fixture::start(|_| {});
    let address = fixture.address;
    let open = crate::dns::connect(address);
    fixture.trigger.raise(Phase::Draining);
    let start = weir::clock::now();
    fixture.server.join();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(open);
    let again = Options { listen: vec![address], ..Options::default() };
    assert_eq!(bind(&again, &Binder::Local, false).unwrap().addresses(), [address]);
}

#[test]
fn a_taken_address_and_a_zone_that_is_no_name_are_refused_with_the_reason() {
    let fixture = Fixture::start(|_| {});
    let taken = Options { listen: vec![fixture.address], ..Options::default() };
    let text = bind(&taken, &Binder::Local, false).unwrap_err().to_string();
    assert!(text.contains(&fixture.address.to_string()), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    let zone = Options { zone: "a..b".to_owned(), ..Options::default() };
    assert_eq!(bind(&zone, &Binder::Local, false).unwrap_err().to_string(), "zone \"a..b\" is no DNS name");
}

#[test]
fn questions_are_counted_by_type_code_transport_and_path() {
    let mut fixture = Fixture::start(|_| {});
    fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", "web-1", "10.0.0.1", &[80])])]);
    ask_at(fixture.address, &question("web.weir.internal.", RecordType::A));
    ask_at(fixture.address, &question("nope.weir.internal.", RecordType::A));
    ask_at(fixture.address, &question("web.weir.internal.", RecordType::ANY));
    let mut stream = crate::dns::connect(fixture.address);
    crate::dns::send_frame(&mut stream, &question("weir.internal.", RecordType::SOA).to_vec().unwrap());
    crate::dns::read_frame(&mut stream);
    let counted = fixture.server.counters().counts();
    let counts: Vec<_> = counted.iter().map(|c| (c.rtype, c.rcode, c.transport, c.path, c.queries)).collect();
    assert_eq!(
        counts,
        [
            ("A", "NOERROR", "udp", "fast", 1),
            ("A", "NXDOMAIN", "udp", "fast", 1),
            ("SOA", "NOERROR", "tcp", "fast", 1),
            ("ANY", "NOERROR", "udp", "full", 1),
        ]
    );
}

#[test]
fn a_wildcard_server_replies_from_the_address_that_was_asked() {
    let mut fixture = Fixture::start(|options| options.listen = vec!["0.0.0.0:0".parse().unwrap()]);
    fixture.publish(vec![]);
    for host in ["127.0.0.1", "127.0.0.7"] {
        let server = format!("{host}:{}", fixture.address.port()).parse().unwrap();
        // The client's socket is connected: it takes answers from the asked address only.
        for kind in [RecordType::SOA, RecordType::ANY] {
            let message = question("weir.internal.", kind).to_vec().unwrap();
            assert!(exchange(server, &message, WAIT).is_some(), "{host}");
        }
    }
}
