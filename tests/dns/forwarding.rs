//! Names of others: what a real resolver says arrives as it is, and one that stalls, lies or dies costs nobody five seconds.

use crate::resolvers::{Liar, Unbound};
use crate::server::{self, Fixture, addresses, code};
use crate::support::process::Folder;
use crate::tools::dig;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use prometheus::core::Collector;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir::dns::{ForwardOptions, ForwardZoneOptions, Forwarded, ServerOptions};

/// Data of unbound: a zone with records of several kinds.
const DATA: &str = "local-zone: \"example.\" static\n local-data: \"example. 30 IN SOA ns.example. me.example. 1 2 3 4 30\"\n \
    local-data: \"www.example. 300 IN A 192.0.2.1\"\n local-data: \"www.example. 300 IN A 192.0.2.2\"\n \
    local-data: \"www.example. 300 IN AAAA 2001:db8::1\"\n local-data: \"mail.example. 300 IN MX 10 mx.example.\"\n \
    local-data: \"_x._tcp.example. 300 IN SRV 1 2 3 host.example.\"\n local-data: \"short.example. 1 IN A 192.0.2.3\"\n \
    local-data: 'text.example. 300 IN TXT \"one\" \"two\"'";

/// As long most clients wait before they ask again; less a little.
const FIVE_SECONDS: Duration = Duration::from_millis(4900);

fn forwarding(servers: Vec<ServerOptions>, change: impl FnOnce(&mut ForwardOptions)) -> Fixture {
    let mut forward = ForwardOptions { servers, hosts: None, ..ForwardOptions::default() };
    change(&mut forward);
    let mut fixture = Fixture::start(|options| options.forward = Some(forward));
    fixture.publish(Vec::new());
    fixture
}

fn plain(addresses: &[SocketAddr]) -> Vec<ServerOptions> {
    addresses.iter().map(|address| ServerOptions::Plain(*address)).collect()
}

/// Asks as stub resolvers do; returns the answer and how long it took.
fn ask(fixture: &Fixture, name: &str) -> (Message, Duration) {
    let mut question = server::question(name, RecordType::A);
    question.metadata.recursion_desired = true;
    let begin = weir::clock::now();
    let answer = server::ask_at(fixture.address, &question);
    (answer, begin.elapsed())
}

fn first(fixture: &Fixture, name: &str) -> String {
    let (answer, _) = ask(fixture, name);
    addresses(&answer.answers).first().cloned().unwrap_or_else(|| code(&answer).to_string())
}

fn count(fixture: &Fixture, path: &str) -> u64 {
    fixture.server.counters().counts().iter().filter(|count| count.path == path).map(|count| count.queries).sum()
}

fn gauge(fixture: &Fixture, name: &str) -> f64 {
    let families = fixture.server.gauges().collect();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric().iter().map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
}

#[test]
fn what_unbound_says_arrives_as_it_is_over_udp_tls_and_https() {
    let unbound = Unbound::start(DATA);
    let name: Arc<str> = "dns.test".into();
    let path: Arc<str> = "/dns-query".into();
    let ways = [
        ServerOptions::Plain(unbound.address),
        ServerOptions::Tls { address: unbound.tls, name: name.clone() },
        ServerOptions::Https { address: unbound.https, name, path },
    ];
    let asked = [
        "www.example A",
        "WWW.Example AAAA",
        "mail.example MX",
        "_x._tcp.example SRV",
        "text.example TXT",
        "none.example A",
        "www.example MX",
    ];
    for way in ways {
        let fixture = forwarding(vec![way.clone()], |forward| forward.ca = Some(unbound.ca.clone()));
        for words in asked {
            let words = format!("{words} +noall +answer +comments +nocookie +noedns");
            let said = dig(fixture.address, &words);
            let direct = dig(unbound.address, &words);
            let records =
                |said: &crate::tools::Said| said.lines().iter().map(|line| strip_ttl(line)).collect::<Vec<_>>();
            assert_eq!(records(&said), records(&direct), "{way} {words}");
            let status = |text: &str| text.split("status: ").nth(1).unwrap().split(',').next().unwrap().to_owned();
            assert_eq!(status(&said.text), status(&direct.text), "{way} {words}");
        }
    }
}

fn strip_ttl(line: &str) -> String {
    let words: Vec<String> =
        line.split_whitespace().enumerate().filter(|(i, _)| *i != 1).map(|(_, w)| w.to_lowercase()).collect();
    words.join(" ")
}

#[test]
fn a_resolver_in_tls_that_is_not_who_it_should_be_is_not_believed() {
    let unbound = Unbound::start(DATA);
    let tls = |name: &str| vec![ServerOptions::Tls { address: unbound.tls, name: name.into() }];
    let fixture = forwarding(tls("other.test"), |forward| forward.ca = Some(unbound.ca.clone()));
    assert_eq!(code(&ask(&fixture, "www.example.").0), ResponseCode::ServFail);
    let fixture = forwarding(tls("dns.test"), |_| {});
    assert_eq!(
        code(&ask(&fixture, "www.example.").0),
        ResponseCode::ServFail,
        "an authority that the system does not know"
    );
}

#[test]
fn with_unbound_killed_old_answers_are_given_and_nobody_waits_five_seconds_rfc8767() {
    let mut unbound = Unbound::start(DATA);
    let fixture = forwarding(plain(&[unbound.address]), |_| {});
    assert_eq!(first(&fixture, "short.example."), "192.0.2.3");
    unbound.kill();
    let (mut longest, mut stale) = (Duration::ZERO, 0);
    // Its TTL is 1 s: kept at first, then past it.
    while stale < 20 {
        let (answer, took) = ask(&fixture, "short.example.");
        assert_eq!((code(&answer), addresses(&answer.answers)), (ResponseCode::NoError, vec!["192.0.2.3".to_owned()]));
        stale += usize::from(answer.answers[0].ttl == 30);
        longest = longest.max(took);
    }
    println!("longest wait with the resolver killed: {longest:?}");
    assert!(longest < FIVE_SECONDS, "{longest:?}");
    assert!(count(&fixture, "stale") >= 20);
    let (answer, took) = ask(&fixture, "never-asked.example.");
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(took < FIVE_SECONDS, "{took:?}");
    assert!(gauge(&fixture, "weir_dns_upstream_up") < 1.0);
    unbound.restart();
    // Asked again within a second of a failure it is not; the one that was bad is asked at once.
    let served = (0..100).any(|_| {
        std::thread::park_timeout(Duration::from_millis(50));
        first(&fixture, "www.example.").starts_with("192.0.2.")
    });
    assert!(served);
}

#[test]
fn zones_have_resolvers_of_their_own_and_are_believed_about_nothing_else() {
    let (corp, rest) = (Liar::start(), Liar::start());
    corp.octet.store(7, Ordering::SeqCst);
    let fixture = forwarding(plain(&[rest.address]), |forward| {
        let servers = plain(&[corp.address]);
        forward.zones = vec![ForwardZoneOptions { zone: "corp.test".to_owned(), servers }];
    });
    assert_eq!(first(&fixture, "a.corp.test."), "192.0.2.7");
    assert_eq!((first(&fixture, "a.notcorp.test."), corp.asked("a.notcorp.test.")), ("192.0.2.1".to_owned(), 0));
    // It says where its alias leads, but who knows that is asked.
    let (answer, _) = ask(&fixture, "away.corp.test.");
    assert_eq!(addresses(&answer.answers), ["192.0.2.1", "bank.example."]);
    assert_eq!((rest.asked("bank.example."), corp.asked("bank.example.")), (1, 0));
}

#[test]
fn who_stalls_is_passed_over_after_a_moment_and_then_at_once() {
    let (stalling, good) = (Liar::start(), Liar::start());
    stalling.silent.store(true, Ordering::SeqCst);
    let fixture = forwarding(plain(&[stalling.address, good.address]), |_| {});
    let took: Vec<Duration> = (0..20).map(|n| ask(&fixture, &format!("host{n}.example.")).1).collect();
    println!("{took:?}");
    assert!(took.iter().all(|took| *took < FIVE_SECONDS), "{took:?}");
    // Whoever answered comes first from then on.
    let mut later = took[5..].to_vec();
    later.sort();
    assert!(later[later.len() / 2] < Duration::from_millis(150), "{took:?}");
    assert_eq!(fixture.server.counters().forwards().of(Forwarded::Answered), 20);
}

#[test]
fn lies_garbage_and_circles_are_not_believed_and_end() {
    let liar = Liar::start();
    let fixture = forwarding(plain(&[liar.address]), |forward| forward.timeout = Duration::from_millis(500));
    assert_eq!(first(&fixture, "forged.example."), "192.0.2.1");
    assert_eq!((first(&fixture, "bank.example."), liar.asked("bank.example.")), ("192.0.2.1".to_owned(), 1));
    for name in ["garbage.example.", "cut.example.", "circle.example.", "endless.example."] {
        let (answer, took) = ask(&fixture, name);
        assert_eq!(code(&answer), ResponseCode::ServFail, "{name}");
        assert!(took < FIVE_SECONDS, "{name}: {took:?}");
    }
    let endless = liar.asked("endless.example.");
    assert!(endless <= 3, "asked {endless} times");
    assert_eq!(first(&fixture, "honest.example."), "192.0.2.1");
}

#[test]
fn what_is_used_often_is_asked_for_before_its_end_and_never_missed() {
    let liar = Liar::start();
    let fixture = forwarding(plain(&[liar.address]), |_| {});
    let begin = weir::clock::now();
    while begin.elapsed() < Duration::from_secs(16) {
        assert_eq!(first(&fixture, "popular.example."), "192.0.2.1");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(liar.asked("popular.example."), 2, "a TTL of 12 s, asked for anew in its last tenth");
    assert_eq!(count(&fixture, "forwarded"), 1, "the first only; all others were kept");
}

#[test]
fn files_of_the_system_are_taken_up_when_they_change() {
    let (one, two) = (Liar::start(), Liar::start());
    two.octet.store(2, Ordering::SeqCst);
    let folder = Folder::new("files");
    let hosts = folder.write("hosts", "10.0.0.7 printer db.office\n");
    let fixture = forwarding(plain(&[one.address]), |forward| forward.hosts = Some(hosts));
    assert_eq!(first(&fixture, "printer."), "10.0.0.7");
    assert_eq!(first(&fixture, "db.office."), "10.0.0.7");
    assert_eq!((one.asked("printer."), one.asked("db.office.")), (0, 0));
    folder.write("hosts", "10.0.0.88 printer\n");
    let changed = (0..100).any(|_| {
        std::thread::park_timeout(Duration::from_millis(50));
        first(&fixture, "printer.") == "10.0.0.88"
    });
    assert!(changed);
    assert_eq!(first(&fixture, "db.office."), "192.0.2.1", "no longer in the file");
}

#[test]
fn two_servers_that_ask_each_other_notice_it() {
    let [a, b] = [(); 2].map(|()| {
        let mut fixture = Fixture::start(|_| {});
        fixture.publish(Vec::new());
        fixture
    });
    for (this, other) in [(&a, &b), (&b, &a)] {
        let forward = ForwardOptions { servers: plain(&[other.address]), hosts: None, ..ForwardOptions::default() };
        this.server.live().apply(&weir::dns::Options { forward: Some(forward), ..weir::dns::Options::default() });
    }
    let (answer, took) = ask(&a, "www.example.");
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(took < FIVE_SECONDS, "{took:?}");
    // Neither is asked any more: an answer at once.
    let (answer, took) = ask(&a, "other.example.");
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(took < Duration::from_millis(1500), "{took:?}");
    // Whoever noticed it first answers the other, which then has no reason to.
    let is_down = |fixture: &Fixture| gauge(fixture, "weir_dns_upstream_up") < 1.0;
    assert!(is_down(&a) || is_down(&b));
}

/// Asks for so many names of which each is another, and says how much is kept.
fn flood(names: usize, cache_bytes: usize) {
    let liar = Liar::start();
    let fixture = forwarding(plain(&[liar.address]), |forward| forward.cache_bytes = cache_bytes);
    let before = resident_bytes();
    for n in 0..names {
        assert_eq!(first(&fixture, &format!("n{n}.example.")), "192.0.2.1");
        assert!(gauge(&fixture, "weir_dns_cache_bytes") <= cache_bytes as f64);
    }
    let kept = gauge(&fixture, "weir_dns_cache_entries");
    let grown = resident_bytes().saturating_sub(before);
    println!("{names} names: {kept} kept in {} octets, resident {grown} more", gauge(&fixture, "weir_dns_cache_bytes"));
    assert!(kept > 100.0 && kept + gauge(&fixture, "weir_dns_cache_evicted_total") >= names as f64);
    // Of the test's own resolver too, which remembers every name.
    assert!(grown < 64 << 20, "{grown} octets more");
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn the_cache_stays_within_its_octets() {
    flood(2_000, 256 * 1024);
}

#[test]
#[ignore = "long: 100,000 names, each asked of a resolver"]
fn a_hundred_thousand_names_stay_within_the_cache_s_octets() {
    flood(100_000, 4 << 20);
}
