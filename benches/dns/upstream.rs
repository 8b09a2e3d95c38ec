//! What forwarders ask: a real unbound with made-up names, and before it a relay that counts, takes its time and falls silent.

use crate::proxies::process::{Peer, free_address, program};
use hickory_proto::rr::RecordType;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use weir::clock;
use weir::rng::Rng;

/// The zone of the names; it is delegated nowhere.
const ZONE: &str = "bench.example";
/// How long the relay keeps a question: a resolver in the same town.
pub(crate) const DELAY: Duration = Duration::from_millis(5);
/// TTLs: of one name in ten, of the names that are let expire, of all others.
const SHORT_TTL: u32 = 5;
const EXPIRING_TTL: u32 = 1;
const LONG_TTL: u32 = 3600;
/// Names that are let expire.
pub(crate) const EXPIRING: u32 = 200;

/// One question of a stream.
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    /// The address; `None`: the name does not exist.
    pub(crate) expected: Option<String>,
}

/// Returns the question of a place in the order of popularity: three of four for IPv4, one of ten for nothing.
pub(crate) fn asked(place: u32) -> Asked {
    let (v4, v6) = addresses(place);
    match place % 20 {
        3 | 13 => Asked { name: format!("none{place:06}.{ZONE}."), kind: RecordType::A, expected: None },
        5 | 10 | 15 => {
            Asked { name: format!("n{place:06}.{ZONE}."), kind: RecordType::AAAA, expected: Some(v6.to_string()) }
        }
        _ => Asked { name: format!("n{place:06}.{ZONE}."), kind: RecordType::A, expected: Some(v4.to_string()) },
    }
}

/// Returns the question for a name that is let expire.
pub(crate) fn expiring(place: u32) -> Asked {
    let name = format!("e{place:03}.{ZONE}.");
    Asked { name, kind: RecordType::A, expected: Some(addresses(place).0.to_string()) }
}

fn addresses(place: u32) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::from(0x0a80_0000 + place), Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(place)))
}

/// Returns places by Zipf's law: the n-th most popular of `names` is asked 1/n as often as the first.
pub(crate) fn zipf(names: u32, count: usize, seed: u64) -> Vec<u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=names)
        .map(|n| {
            sum += 1.0 / f64::from(n);
            sum
        })
        .collect();
    let mut rng = Rng::from_seed(seed);
    (0..count)
        .map(|_| {
            let at = rng.unit() * sum;
            sums.partition_point(|upto| *upto <= at).min(names as usize - 1) as u32
        })
        .collect()
}

/// Starts an unbound that knows the names by heart.
pub(crate) fn unbound(folder: &Path, cpu: usize, names: u32) -> io::Result<Peer> {
    let folder = folder.join("upstream");
    fs::create_dir_all(&folder)?;
    let listen = free_address()?;
    let dir = folder.display();
    let mut text = format!(
        "server:\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    directory: \"{dir}\"\n    pidfile: \"{dir}/pid\"
    logfile: \"{dir}/unbound.log\"\n    interface: {}@{}\n    access-control: 127.0.0.0/8 allow\n    num-threads: 1
    module-config: \"iterator\"\n    local-zone: \"{ZONE}.\" static
    local-data: \"{ZONE}. 3600 IN SOA ns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 3600\"\n",
        listen.ip(),
        listen.port()
    );
    for place in 0..names {
        let (v4, v6) = addresses(place);
        let ttl = if place % 10 == 7 { SHORT_TTL } else { LONG_TTL };
        let _ = writeln!(
            text,
            "    local-data: \"n{place:06}.{ZONE}. {ttl} A {v4}\"\n    local-data: \"n{place:06}.{ZONE}. {ttl} AAAA {v6}\""
        );
    }
    for place in 0..EXPIRING {
        let v4 = addresses(place).0;
        let _ = writeln!(text, "    local-data: \"e{place:03}.{ZONE}. {EXPIRING_TTL} A {v4}\"");
    }
    text.push_str("remote-control:\n    control-enable: no\n");
    let file = folder.join("unbound.conf");
    fs::write(&file, text)?;
    let command = vec![program("unbound")?, "-d".into(), "-c".into(), file.to_string_lossy().into_owned()];
    Peer::spawn("upstream", (folder, &cpu.to_string()), [listen; 2], true, command)
}

/// What the relay's threads share.
struct Shared {
    /// Where forwarders ask.
    front: UdpSocket,
    /// Towards unbound.
    back: UdpSocket,
    questions: AtomicU64,
    silent: AtomicBool,
    ended: AtomicBool,
}

/// Stands before the upstream.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// A question that waits: when it is due, who asked, and its octets.
type Waiting = (Instant, SocketAddr, Vec<u8>);

impl Relay {
    /// Starts it; its threads are pinned as the one that calls.
    pub(crate) fn start(upstream: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let back = UdpSocket::bind("127.0.0.1:0")?;
        back.connect(upstream)?;
        let front = UdpSocket::bind("127.0.0.1:0")?;
        let tick = Some(Duration::from_millis(100));
        front.set_read_timeout(tick)?;
        back.set_read_timeout(tick)?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            back,
            questions: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let (sender, waiting) = mpsc::channel();
        let (known, asker) = mpsc::channel();
        let (one, two, three) = (shared.clone(), shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || one.take(&sender)),
            std::thread::spawn(move || two.pass(&waiting, &known)),
            std::thread::spawn(move || three.give(&asker)),
        ];
        Ok(Self { shared, address, threads })
    }

    /// Returns how many questions came.
    pub(crate) fn questions(&self) -> u64 {
        self.shared.questions.load(Ordering::Relaxed)
    }

    /// Falls silent, or speaks again.
    pub(crate) fn silence(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn take(&self, sender: &mpsc::Sender<Waiting>) {
        let mut room = [0; 4096];
        while !self.is_over() {
            let Ok((length, client)) = self.front.recv_from(&mut room) else { continue };
            self.questions.fetch_add(1, Ordering::Relaxed);
            if !self.silent.load(Ordering::Relaxed) {
                let _ = sender.send((clock::now() + DELAY, client, room[..length].to_vec()));
            }
        }
    }

    /// Numbers questions anew: those of different forwarders may have the same number.
    fn pass(&self, waiting: &mpsc::Receiver<Waiting>, known: &mpsc::Sender<(u16, [u8; 2], SocketAddr)>) {
        for (number, (due, client, mut message)) in (0u16..).cycle().zip(waiting.iter()) {
            while let Some(rest) = due.checked_duration_since(clock::now()).filter(|rest| !rest.is_zero()) {
                std::thread::park_timeout(rest);
            }
            let Some(id) = message.first_chunk_mut::<2>() else { continue };
            let _ = known.send((number, *id, client));
            *id = number.to_be_bytes();
            let _ = self.back.send(&message);
        }
    }

    fn give(&self, known: &mpsc::Receiver<(u16, [u8; 2], SocketAddr)>) {
        let mut room = [0; 4096];
        // Who is not answered is forgotten when its number comes again.
        let mut waiting: VecDeque<(u16, [u8; 2], SocketAddr)> = VecDeque::new();
        while !self.is_over() {
            let Ok(length) = self.back.recv(&mut room) else { continue };
            waiting.extend(known.try_iter());
            let Some(id) = room.first_chunk_mut::<2>() else { continue };
            let number = u16::from_be_bytes(*id);
            let Some(place) = waiting.iter().position(|(known, ..)| *known == number) else { continue };
            let Some((_, own, client)) = waiting.remove(place) else { continue };
            *id = own;
            let _ = self.front.send_to(&room[..length], client);
            while waiting.len() > usize::from(u16::MAX / 2) {
                let _ = waiting.pop_front();
            }
        }
    }
}
