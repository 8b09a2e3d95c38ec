//! A DNS server with a small table, and a client that decodes with hickory, independently of the server's own code.

use crate::support::table::ready;
pub(crate) use crate::support::table::spec;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use weir::dns::{Options, Server, bind, serve};
use weir::lifecycle::{Trigger, drain};
use weir::model::{Instance, ServiceSpec, Verdict};
use weir::net::Binder;
use weir::table::names::Names;
use weir::table::{Change, Changes, Publisher, Snapshot, Table, build, channel};

/// Longest wait for an answer that must come.
pub(crate) const WAIT: Duration = Duration::from_secs(5);

/// A running server with its table.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) address: SocketAddr,
    pub(crate) table: Table,
    pub(crate) publisher: Publisher,
    pub(crate) server: Server,
    pub(crate) trigger: Trigger,
}

impl Fixture {
    /// Starts a server whose table has no generation yet.
    pub(crate) fn start(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options { listen: vec![([127, 0, 0, 1], 0).into()], threads: 2, ..Options::default() };
        change(&mut options);
        let (publisher, table) = channel(Snapshot::empty(Names::new(&options.zone)));
        let (trigger, signal) = drain();
        let sockets = bind(&options, &Binder::Local, false).unwrap();
        let server = serve(sockets, &options, &table, &signal).unwrap();
        let address = server.addresses()[0];
        Self { address, table, publisher, server, trigger }
    }

    /// Publishes services: name, ports and instances of each.
    pub(crate) fn publish(&mut self, services: Vec<(ServiceSpec, Vec<Instance>)>) {
        let services = services.into_iter().map(|(spec, instances)| Change::Set { spec: Arc::new(spec), instances });
        let changes = Changes { services: services.collect(), ..Changes::default() };
        let next = build(&self.publisher.current(), changes);
        self.publisher.publish(next);
    }
}

/// Returns the server that tests share: `web`, `local`, `staging/api`, `big`, `none`.
pub(crate) fn shared() -> &'static Fixture {
    static SHARED: OnceLock<Fixture> = OnceLock::new();
    SHARED.get_or_init(|| {
        let mut fixture = Fixture::start(|_| {});
        let ready = |service: &str, n: usize, address: &str, ports: &[u16]| {
            instance(service, &format!("{}-{n}", service.rsplit('/').next().unwrap()), address, ports)
        };
        let mut sick = ready("staging/api", 2, "10.3.0.2", &[80]);
        sick.verdict = Verdict::Unhealthy;
        fixture.publish(vec![
            (
                spec("web", &["http", "admin"]),
                vec![
                    ready("web", 1, "10.1.0.1", &[8080, 9000]),
                    ready("web", 2, "10.1.0.2", &[8080, 0]),
                    ready("web", 3, "fd00::3", &[8080, 9000]),
                ],
            ),
            (spec("local", &["http"]), (1..=3).map(|n| ready("local", n, "127.0.0.1", &[8000 + n as u16])).collect()),
            (spec("staging/api", &["http"]), vec![ready("staging/api", 1, "10.3.0.1", &[80]), sick]),
            (
                spec("big", &["http"]),
                (0..3000).map(|n| ready("big", n, &format!("10.2.{}.{}", n / 250, n % 250), &[80])).collect(),
            ),
            (spec("none", &["http"]), vec![]),
        ]);
        fixture
    })
}

/// Returns a ready instance.
pub(crate) fn instance(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance { weight: 10, ..ready(service, id, address, ports) }
}

/// Returns a question without EDNS.
pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    message.add_query(Query::query(name, kind));
    message
}

/// Returns a question with EDNS of a size.
pub(crate) fn question_edns(name: &str, kind: RecordType, size: u16) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.edns = Some(edns);
    message
}

/// Sends octets over UDP and returns the answer's; `None` when none comes in time.
pub(crate) fn exchange(server: SocketAddr, octets: &[u8], wait: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    socket.connect(server).unwrap();
    socket.send(octets).unwrap();
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

/// Asks over UDP and decodes the answer.
pub(crate) fn ask_at(server: SocketAddr, message: &Message) -> Message {
    let answer = exchange(server, &message.to_vec().unwrap(), WAIT).expect("an answer");
    Message::from_vec(&answer).unwrap()
}

/// Asks the shared server over UDP.
pub(crate) fn ask(name: &str, kind: RecordType) -> Message {
    let message = question(name, kind);
    let answer = ask_at(shared().address, &message);
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.metadata.message_type, MessageType::Response);
    assert_eq!(answer.queries, message.queries);
    answer
}

/// Asks the shared server over TCP.
pub(crate) fn ask_tcp(name: &str, kind: RecordType) -> Message {
    let mut stream = connect(shared().address);
    send_frame(&mut stream, &question(name, kind).to_vec().unwrap());
    Message::from_vec(&read_frame(&mut stream)).unwrap()
}

/// Opens a TCP connection.
pub(crate) fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream
}

/// Returns a message with its length before it.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// Sends one framed message.
pub(crate) fn send_frame(stream: &mut TcpStream, message: &[u8]) {
    stream.write_all(&frame(message)).unwrap();
}

/// Reads one framed message.
pub(crate) fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

/// Returns the response code.
pub(crate) fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// Returns the addresses of a list of records, sorted.
pub(crate) fn addresses(records: &[Record]) -> Vec<String> {
    let mut list: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
    list.sort();
    list
}

/// Asserts that the authority section is the zone's SOA with the TTL of negative answers.
pub(crate) fn assert_soa(message: &Message, zone: &str) {
    let [record] = &message.authorities[..] else { panic!("one SOA: {:?}", message.authorities) };
    let RData::SOA(soa) = &record.data else { panic!("no SOA: {record:?}") };
    assert_eq!(record.name.to_ascii(), zone);
    assert_eq!((record.ttl, soa.minimum, record.dns_class), (5, 5, DNSClass::IN));
}

/// Asserts: no such type, but the name exists.
pub(crate) fn assert_no_data(message: &Message) {
    assert_eq!(code(message), ResponseCode::NoError);
    assert!(message.answers.is_empty() && message.metadata.authoritative, "{message:?}");
    assert_soa(message, "weir.internal.");
}
