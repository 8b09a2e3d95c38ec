//! Forwarding: names outside the zone, asked of an upstream that the test controls and whose questions it counts.

use crate::dns::{self, Fixture, WAIT, addresses, ask_at, code, connect, instance, read_frame, send_frame, spec};
use crate::support::ports::free_address;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir::dns::{ForwardOptions, Forwarded, Options, ServerOptions};

/// A resolver for `*.example.`; ends with the test's process.
#[derive(Clone)]
struct Upstream {
    address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Upstream {
    fn start() -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let upstream = Self { address: udp.local_addr().unwrap(), asked: Arc::default() };
        let (over_udp, over_tcp) = (upstream.clone(), upstream.clone());
        std::thread::spawn(move || over_udp.serve_udp(&udp));
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let upstream = over_tcp.clone();
                std::thread::spawn(move || upstream.serve_tcp(stream.unwrap()));
            }
        });
        upstream
    }

    /// How often a name was asked, whatever the letter case.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut room = vec![0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut room).unwrap();
            let Some(reply) = self.answer(&room[..length], true) else { continue };
            // Slow enough for questions to overlap, each on a thread of its own.
            let (socket, slow) = (socket.try_clone().unwrap(), reply.queries[0].name().to_ascii().contains("slow"));
            std::thread::spawn(move || {
                std::thread::park_timeout(Duration::from_millis(if slow { 200 } else { 0 }));
                socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
            });
        }
    }

    fn serve_tcp(&self, mut stream: std::net::TcpStream) {
        let mut length = [0; 2];
        while stream.read_exact(&mut length).is_ok() {
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).unwrap();
            let Some(reply) = self.answer(&message, false) else { continue };
            stream.write_all(&dns::frame(&reply.to_vec().unwrap())).unwrap();
        }
    }

    /// Answers by the first label of the name; `None` is silence.
    fn answer(&self, message: &[u8], udp: bool) -> Option<Message> {
        let request = Message::from_vec(message).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_ascii().to_ascii_lowercase();
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.queries = vec![query.clone()];
        let label = name.split('.').next().unwrap();
        let address =
            |owner: &Name, last| Record::from_rdata(owner.clone(), 300, RData::A(A(Ipv4Addr::new(192, 0, 2, last))));
        let soa = || {
            let zone = Name::from_ascii("example.").unwrap();
            Record::from_rdata(zone.clone(), 30, RData::SOA(SOA::new(zone.clone(), zone, 1, 2, 3, 4, 30)))
        };
        match label {
            "silent" => return None,
            "nxdomain" => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities = vec![soa()];
            }
            "servfail" => reply.metadata.response_code = ResponseCode::ServFail,
            "refused" => reply.metadata.response_code = ResponseCode::Refused,
            "alias" => {
                let target = Name::from_ascii("www.example.").unwrap();
                let alias = RData::CNAME(CNAME(target.clone()));
                reply.answers = vec![Record::from_rdata(query.name().clone(), 60, alias), address(&target, 1)];
            }
            // An upstream, or whoever speaks for it, that slips in what was not asked.
            "poison" => {
                let bank = Name::from_ascii("bank.example.").unwrap();
                reply.answers = vec![address(query.name(), 7), address(&bank, 66)];
                reply.authorities = vec![address(&bank, 66)];
                reply.additionals = vec![address(&bank, 66)];
            }
            "private" => {
                let inside = RData::A(A(Ipv4Addr::new(10, 0, 0, 1)));
                reply.answers = vec![Record::from_rdata(query.name().clone(), 60, inside), address(query.name(), 9)];
            }
            "big" if udp => reply.metadata.truncation = true,
            "big" => {
                let text = RData::TXT(TXT::new(vec!["x".repeat(250)]));
                reply.answers = (0..20).map(|_| Record::from_rdata(query.name().clone(), 60, text.clone())).collect();
            }
            _ if query.query_type() == RecordType::A => reply.answers = vec![address(query.name(), 1)],
            _ => reply.authorities = vec![soa()],
        }
        Some(reply)
    }
}

/// A question as stub resolvers send it: recursion desired.
fn question(name: &str, kind: RecordType) -> Message {
    let mut message = dns::question(name, kind);
    message.metadata.recursion_desired = true;
    message
}

fn question_edns(name: &str, kind: RecordType, size: u16) -> Message {
    let mut message = dns::question_edns(name, kind, size);
    message.metadata.recursion_desired = true;
    message
}

fn plain(addresses: Vec<SocketAddr>) -> Vec<ServerOptions> {
    addresses.into_iter().map(ServerOptions::Plain).collect()
}

fn server(upstreams: Vec<SocketAddr>, change: impl FnOnce(&mut ForwardOptions)) -> Fixture {
    let mut forward =
        ForwardOptions { servers: plain(upstreams), timeout: Duration::from_secs(1), ..ForwardOptions::default() };
    change(&mut forward);
    let mut fixture = Fixture::start(|options: &mut Options| options.forward = Some(forward));
    fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", "web-1", "10.1.0.1", &[80])])]);
    fixture
}

fn forwarded() -> (Upstream, Fixture) {
    let upstream = Upstream::start();
    let fixture = server(vec![upstream.address], |_| {});
    (upstream, fixture)
}

fn count(fixture: &Fixture, outcome: Forwarded) -> u64 {
    fixture.server.counters().forwards().of(outcome)
}

#[test]
fn resolves_what_is_outside_the_zone_and_never_asks_others_for_what_is_inside() {
    let (upstream, fixture) = forwarded();
    let answer = ask_at(fixture.address, &question("WwW.example.", RecordType::A));
    assert_eq!((code(&answer), addresses(&answer.answers)), (ResponseCode::NoError, vec!["192.0.2.1".to_owned()]));
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    assert_eq!(answer.queries[0].name().to_string(), "WwW.example.", "the letter case comes back");
    for name in ["web.weir.internal.", "none.weir.internal.", "www.example.weir.internal."] {
        let answer = ask_at(fixture.address, &question(name, RecordType::A));
        assert!(answer.metadata.authoritative && !answer.metadata.recursion_available, "{name}");
        assert_eq!(upstream.asked(name), 0);
    }
    let reverse = ask_at(fixture.address, &question("1.0.1.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!((reverse.answers.len(), upstream.asked("1.0.1.10.in-addr.arpa.")), (1, 0));
    ask_at(fixture.address, &question("2.0.1.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(upstream.asked("2.0.1.10.in-addr.arpa."), 1, "an address that is not in the table");
}

#[test]
fn passes_on_what_upstream_says_as_it_is() {
    let (_upstream, fixture) = forwarded();
    let ask = |name: &str, kind| ask_at(fixture.address, &question(name, kind));
    let missing = ask("nxdomain.example.", RecordType::A);
    assert_eq!((code(&missing), missing.authorities.len()), (ResponseCode::NXDomain, 1));
    assert!(missing.authorities[0].ttl <= 30 && missing.answers.is_empty());
    let empty = ask("www.example.", RecordType::AAAA);
    assert_eq!((code(&empty), empty.answers.len(), empty.authorities.len()), (ResponseCode::NoError, 0, 1));
    assert_eq!(code(&ask("servfail.example.", RecordType::A)), ResponseCode::ServFail);
    assert_eq!(code(&ask("refused.example.", RecordType::A)), ResponseCode::ServFail);
    let alias = ask("alias.example.", RecordType::A);
    assert_eq!(addresses(&alias.answers), ["192.0.2.1", "www.example."]);
    let counts = [Forwarded::NxDomain, Forwarded::NoData, Forwarded::Failed, Forwarded::Answered];
    assert_eq!(counts.map(|outcome| count(&fixture, outcome)), [1, 1, 2, 1]);
}

#[test]
fn only_records_that_answer_the_question_are_believed_rfc5452() {
    let (upstream, fixture) = forwarded();
    let answer = ask_at(fixture.address, &question("poison.example.", RecordType::A));
    assert_eq!(addresses(&answer.answers), ["192.0.2.7"]);
    assert!(answer.authorities.is_empty() && answer.additionals.is_empty(), "{answer:?}");
    let bank = ask_at(fixture.address, &question("bank.example.", RecordType::A));
    assert_eq!((addresses(&bank.answers), upstream.asked("bank.example.")), (vec!["192.0.2.1".to_owned()], 1));
}

#[test]
fn addresses_that_answers_must_not_name_are_left_out() {
    let upstream = Upstream::start();
    let private = |forward: &mut ForwardOptions| forward.deny_answers = vec![("10.0.0.0".parse().unwrap(), 8)];
    let fixture = server(vec![upstream.address], private);
    let answer = ask_at(fixture.address, &question("private.example.", RecordType::A));
    assert_eq!(addresses(&answer.answers), ["192.0.2.9"]);
    let fixture = server(vec![upstream.address], |_| {});
    assert_eq!(ask_at(fixture.address, &question("private.example.", RecordType::A)).answers.len(), 2);
}

#[test]
fn an_answer_is_kept_for_its_ttl_and_identical_questions_are_asked_once() {
    let (upstream, fixture) = forwarded();
    let address = fixture.address;
    let ask = move || code(&ask_at(address, &question("slow.example.", RecordType::A)));
    let asking: Vec<_> = (0..50).map(|_| std::thread::spawn(ask)).collect();
    assert!(asking.into_iter().all(|answer| answer.join().unwrap() == ResponseCode::NoError));
    assert!(upstream.asked("slow.example.") <= 2, "{} questions to upstream", upstream.asked("slow.example."));
    let before = upstream.asked("slow.example.");
    let again = ask_at(address, &question("SLOW.example.", RecordType::A));
    assert_eq!((upstream.asked("slow.example."), again.answers.len()), (before, 1));
    assert!(again.answers[0].ttl <= 300);
}

#[test]
fn who_may_not_ask_is_refused_and_nobody_digs_in_the_cache() {
    let upstream = Upstream::start();
    let fixture = server(vec![upstream.address], |forward| forward.allow = vec![("10.0.0.0".parse().unwrap(), 8)]);
    assert_eq!(code(&ask_at(fixture.address, &question("www.example.", RecordType::A))), ResponseCode::Refused);
    let mut stream = connect(fixture.address);
    send_frame(&mut stream, &question("www.example.", RecordType::A).to_vec().unwrap());
    assert_eq!(code(&Message::from_vec(&read_frame(&mut stream)).unwrap()), ResponseCode::Refused);
    assert_eq!((count(&fixture, Forwarded::Denied), upstream.asked("www.example.")), (2, 0));
    // Recursion not desired: a question about what others asked before.
    let fixture = server(vec![upstream.address], |_| {});
    let mut snooping = question("www.example.", RecordType::A);
    snooping.metadata.recursion_desired = false;
    assert_eq!(code(&ask_at(fixture.address, &snooping)), ResponseCode::Refused);
    assert_eq!(upstream.asked("www.example."), 0);
}

#[test]
fn short_names_and_any_go_no_further() {
    let (upstream, fixture) = forwarded();
    for kind in [RecordType::A, RecordType::AAAA] {
        let short = ask_at(fixture.address, &question("printer.", kind));
        assert_eq!((code(&short), short.authorities.len()), (ResponseCode::NXDomain, 0));
    }
    let any = ask_at(fixture.address, &question("www.example.", RecordType::ANY));
    assert_eq!((code(&any), any.answers[0].record_type()), (ResponseCode::NoError, RecordType::HINFO));
    let local = ask_at(fixture.address, &question("localhost.", RecordType::A));
    assert_eq!(addresses(&local.answers), ["127.0.0.1"]);
    assert_eq!(upstream.asked.lock().unwrap().len(), 0, "RFC 6761, RFC 8482");
}

#[test]
fn what_does_not_fit_a_datagram_is_truncated_and_comes_whole_over_tcp() {
    let (_upstream, fixture) = forwarded();
    let plain = ask_at(fixture.address, &question("big.example.", RecordType::TXT));
    assert!(plain.metadata.truncation && plain.answers.is_empty());
    let edns = ask_at(fixture.address, &question_edns("big.example.", RecordType::TXT, 4096));
    assert!(edns.metadata.truncation && edns.edns.is_some(), "at most 1232 octets over UDP");
    let mut stream = connect(fixture.address);
    send_frame(&mut stream, &question_edns("big.example.", RecordType::TXT, 4096).to_vec().unwrap());
    let whole = Message::from_vec(&read_frame(&mut stream)).unwrap();
    assert!(!whole.metadata.truncation && whole.edns.is_some());
    assert_eq!(whole.answers.len(), 20);
}

#[test]
fn a_slow_answer_does_not_hold_up_the_next_question_of_a_connection_rfc7766() {
    let (_upstream, fixture) = forwarded();
    let mut stream = connect(fixture.address);
    for name in ["slow-1.example.", "slow-2.example.", "web.weir.internal."] {
        send_frame(&mut stream, &question(name, RecordType::A).to_vec().unwrap());
    }
    // The end of the questions is not the end of the answers.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let names = [0; 3].map(|_| Message::from_vec(&read_frame(&mut stream)).unwrap().queries[0].name().to_string());
    assert_eq!(names[0], "web.weir.internal.");
    let mut rest = names[1..].to_vec();
    rest.sort();
    assert_eq!(rest, ["slow-1.example.", "slow-2.example."]);
}

#[test]
fn silent_upstreams_become_servfail_in_time_and_one_that_is_down_costs_nothing() {
    let upstream = Upstream::start();
    let timeout = Duration::from_millis(300);
    let fixture = server(vec![upstream.address], |forward| forward.timeout = timeout);
    let begin = weir::clock::now();
    assert_eq!(code(&ask_at(fixture.address, &question("silent.example.", RecordType::A))), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_millis(4900), "{:?}", begin.elapsed());
    assert_eq!(count(&fixture, Forwarded::Unreachable), 1);
    let down = free_address();
    let fixture = server(vec![down, upstream.address], |_| {});
    let mut took = Vec::new();
    for n in 0..5 {
        let begin = weir::clock::now();
        let answer = ask_at(fixture.address, &question(&format!("host-{n}.example."), RecordType::A));
        assert_eq!(code(&answer), ResponseCode::NoError);
        took.push(begin.elapsed());
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(900), "less than the time for one try: {took:?}");
    let fixture = server(vec![down], |forward| forward.timeout = timeout);
    assert_eq!(code(&ask_at(fixture.address, &question("www.example.", RecordType::A))), ResponseCode::ServFail);
    assert_eq!(count(&fixture, Forwarded::Unreachable), 1);
}

#[test]
fn more_than_may_be_in_flight_is_servfail_at_once_and_own_names_are_not_affected() {
    let upstream = Upstream::start();
    let fixture = server(vec![upstream.address], |forward| forward.max_in_flight = 2);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(fixture.address).unwrap();
    for n in 0..3 {
        let silent = question(&format!("silent.n{n}.example."), RecordType::A);
        socket.send(&silent.to_vec().unwrap()).unwrap();
    }
    let mut room = [0; 512];
    let begin = weir::clock::now();
    let length = socket.recv(&mut room).unwrap();
    assert_eq!(code(&Message::from_vec(&room[..length]).unwrap()), ResponseCode::ServFail);
    assert!(begin.elapsed() < Duration::from_millis(1900), "before those that wait: {:?}", begin.elapsed());
    assert_eq!(count(&fixture, Forwarded::Overloaded), 1);
    assert_eq!(ask_at(fixture.address, &question("web.weir.internal.", RecordType::A)).answers.len(), 1);
}

#[test]
fn one_client_has_no_more_in_flight_than_its_share_and_leaves_room_for_others() {
    let upstream = Upstream::start();
    let fixture = server(vec![upstream.address], |forward| {
        forward.max_in_flight = 3;
        forward.max_in_flight_per_client = 2;
    });
    let client = |address: &str| {
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.connect(fixture.address).unwrap();
        socket
    };
    let (greedy, other) = (client("127.0.0.1"), client("127.0.0.2"));
    let mut room = [0; 512];
    for n in 0..3 {
        greedy.send(&question(&format!("silent.n{n}.example."), RecordType::A).to_vec().unwrap()).unwrap();
    }
    let length = greedy.recv(&mut room).unwrap();
    assert_eq!(code(&Message::from_vec(&room[..length]).unwrap()), ResponseCode::ServFail);
    assert_eq!([Forwarded::ClientOverloaded, Forwarded::Overloaded].map(|outcome| count(&fixture, outcome)), [1, 0]);
    other.send(&question("www.example.", RecordType::A).to_vec().unwrap()).unwrap();
    let length = other.recv(&mut room).unwrap();
    assert_eq!(addresses(&Message::from_vec(&room[..length]).unwrap().answers), ["192.0.2.1"]);
    // What is kept costs nobody a place.
    greedy.send(&question("www.example.", RecordType::A).to_vec().unwrap()).unwrap();
    let length = greedy.recv(&mut room).unwrap();
    assert_eq!(addresses(&Message::from_vec(&room[..length]).unwrap().answers), ["192.0.2.1"]);
}

#[test]
fn forwarding_is_taken_up_and_given_up_while_it_runs() {
    let upstream = Upstream::start();
    let fixture = Fixture::start(|_| {});
    let ask = || code(&ask_at(fixture.address, &question("www.example.", RecordType::A)));
    assert_eq!(ask(), ResponseCode::Refused);
    let forward = ForwardOptions { servers: plain(vec![upstream.address]), ..ForwardOptions::default() };
    let live = fixture.server.live();
    live.apply(&Options { forward: Some(forward.clone()), ..Options::default() });
    assert_eq!((ask(), ask()), (ResponseCode::NoError, ResponseCode::NoError));
    // Something else changes: the answers that are kept stay.
    live.apply(&Options { forward: Some(forward), negative_ttl: Duration::ZERO, ..Options::default() });
    assert_eq!((ask(), upstream.asked("www.example.")), (ResponseCode::NoError, 1));
    live.apply(&Options::default());
    assert_eq!(ask(), ResponseCode::Refused);
}

/// What an independent client makes of it.
#[test]
fn dig_understands_every_answer() {
    let (_upstream, fixture) = forwarded();
    let dig = |args: &[&str]| {
        let port = fixture.address.port().to_string();
        let output = Command::new("dig").args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"]).args(args).output();
        let output = output.expect("dig: tests/run installs bind9-dnsutils");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && !text.contains("WARN") && !text.contains("malformed"), "{text}");
        text
    };
    let address = dig(&["www.example", "A"]);
    assert!(address.contains("status: NOERROR") && address.contains("flags: qr rd ra;"), "{address}");
    assert!(address.contains("192.0.2.1"), "{address}");
    let bare = dig(&["+noedns", "+nocookie", "alias.example", "A"]);
    assert!(bare.contains("ANSWER: 2") && !bare.contains("OPT PSEUDOSECTION"), "{bare}");
    // dig turns to TCP by itself when it is told that there is more.
    let big = dig(&["big.example", "TXT"]);
    assert!(big.contains("ANSWER: 20") && big.contains("Truncated, retrying in TCP mode"), "{big}");
    assert!(dig(&["nxdomain.example"]).contains("status: NXDOMAIN"));
    assert!(dig(&["servfail.example"]).contains("status: SERVFAIL"));
    assert!(dig(&["+norecurse", "www.example"]).contains("status: REFUSED"));
    let secure = dig(&["+dnssec", "www.example"]);
    assert!(secure.contains("flags: do;") && !secure.contains("flags: qr rd ra ad"), "{secure}");
}
