//! Resolvers behind the server: unbound as it is installed, and ones of the test that stall, lie and go away.

use crate::support::process::{Folder, free_address};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Until it answers, also on a machine that does much else.
const STARTED: Duration = Duration::from_secs(30);

/// Unbound with data of its own, offline; killed at the end.
#[derive(Debug)]
pub(crate) struct Unbound {
    pub(crate) address: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) https: SocketAddr,
    /// The authority of its certificate.
    pub(crate) ca: std::path::PathBuf,
    folder: Folder,
    child: Child,
}

impl Unbound {
    /// Starts it with lines of the section `server`, over UDP, TCP, TLS and HTTPS, and waits until it answers.
    pub(crate) fn start(lines: &str) -> Self {
        let folder = Folder::new("unbound");
        let [address, tls, https] = [free_address(), free_address(), free_address()];
        let names = vec!["dns.test".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let ca = folder.write("ca.pem", &made.cert.pem());
        let key = folder.write("key.pem", &made.signing_key.serialize_pem());
        let text = format!(
            "server:\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n directory: \"{}\"\n \
             interface: 127.0.0.1@{}\n interface: 127.0.0.1@{}\n interface: 127.0.0.1@{}\n tls-port: {}\n https-port: {}\n \
             tls-service-pem: \"{}\"\n tls-service-key: \"{}\"\n access-control: 127.0.0.0/8 allow\n module-config: iterator\n \
             {lines}\n",
            folder.0.display(),
            address.port(),
            tls.port(),
            https.port(),
            tls.port(),
            https.port(),
            ca.display(),
            key.display(),
        );
        folder.write("unbound.conf", &text);
        let child = Self::spawn(&folder);
        let unbound = Self { address, tls, https, ca, folder, child };
        unbound.wait();
        unbound
    }

    fn spawn(folder: &Folder) -> Child {
        let conf = folder.0.join("unbound.conf");
        let started = Command::new("unbound").arg("-d").arg("-c").arg(conf).stderr(Stdio::null()).spawn();
        started.expect("unbound: tests/run installs it")
    }

    fn wait(&self) {
        let question = crate::server::question("up.test.", RecordType::A).to_vec().unwrap();
        let deadline = Instant::now() + STARTED;
        let up = std::iter::from_fn(|| (Instant::now() < deadline).then_some(())).any(|()| {
            let answer = crate::server::exchange(self.address, &question, Duration::from_millis(100));
            if answer.is_none() {
                std::thread::park_timeout(Duration::from_millis(25));
            }
            answer.is_some()
        });
        assert!(up, "unbound does not answer");
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same ports.
    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(&self.folder);
        self.wait();
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A resolver over UDP that answers by the first label of the name; ends with the test's process.
#[derive(Clone)]
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    pub(crate) silent: Arc<AtomicBool>,
    /// What each question is answered with besides its name: the last octet of addresses.
    pub(crate) octet: Arc<AtomicUsize>,
}

impl Liar {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (silent, octet) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(1)));
        let liar = Self { address, asked: Arc::default(), silent, octet };
        let this = liar.clone();
        std::thread::spawn(move || {
            let mut room = vec![0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut room).unwrap();
                for answer in this.answers(&room[..length]) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        liar
    }

    /// How often a name was asked.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn answers(&self, message: &[u8]) -> Vec<Vec<u8>> {
        let request = Message::from_vec(message).unwrap();
        let query = request.queries[0].clone();
        let name = query.name().to_ascii().to_ascii_lowercase();
        *self.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        if self.silent.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut reply = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.queries = vec![query.clone()];
        let octet = u8::try_from(self.octet.load(Ordering::SeqCst)).unwrap();
        let at = |owner: &Name, ttl, last| {
            Record::from_rdata(owner.clone(), ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
        };
        let alias = |owner: &Name, target: &str| {
            let target = Name::from_ascii(target).unwrap();
            Record::from_rdata(owner.clone(), 60, RData::CNAME(CNAME(target)))
        };
        let own = query.name();
        match name.split(['.', '-']).next().unwrap() {
            // A forged answer with another number, one for another question, and then the right one.
            "forged" => {
                let mut other = reply.clone();
                other.metadata.id ^= 1;
                other.answers = vec![at(own, 60, 66)];
                let mut bank = reply.clone();
                bank.queries[0].name = Name::from_ascii("bank.example.").unwrap();
                bank.answers = vec![at(&bank.queries[0].name, 60, 66)];
                reply.answers = vec![at(own, 60, octet)];
                return [other, bank, reply].iter().map(|message| message.to_vec().unwrap()).collect();
            }
            "garbage" => {
                let mut octets = message[..12].to_vec();
                octets[2] |= 0x80;
                octets.extend([0xC0; 40]);
                return vec![octets];
            }
            "cut" => return vec![message[..7].to_vec(), message[..13].to_vec()],
            "circle" => {
                reply.answers = vec![alias(own, "a.example."), alias(&Name::from_ascii("a.example.").unwrap(), &name)]
            }
            // A new alias for each question, for ever.
            "endless" => {
                let next = format!("endless-{}.example.", self.asked.lock().unwrap().len());
                reply.answers = vec![alias(own, &next)];
            }
            "away" => {
                let bank = Name::from_ascii("bank.example.").unwrap();
                reply.answers = vec![alias(own, "bank.example."), at(&bank, 60, 66)];
            }
            "local" => {
                let here = RData::A(A(Ipv4Addr::new(127, 0, 0, octet)));
                reply.answers = vec![Record::from_rdata(own.clone(), 1, here)];
            }
            "second" => reply.answers = vec![at(own, 1, octet)],
            "popular" => reply.answers = vec![at(own, 12, octet)],
            "missing" => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                let zone = Name::from_ascii("example.").unwrap();
                let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 30);
                reply.authorities = vec![Record::from_rdata(zone, 30, RData::SOA(soa))];
            }
            _ if query.query_type() == RecordType::A => reply.answers = vec![at(own, 300, octet)],
            _ => {}
        }
        vec![reply.to_vec().unwrap()]
    }
}
