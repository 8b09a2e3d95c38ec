//! The server as a whole: its sockets, its threads, its end.

use crate::dns::cookies::Baker;
use crate::dns::counters::Counters;
use crate::dns::explain::{Explanation, Riddle, explain};
use crate::dns::gauges::Gauges;
use crate::dns::responder::Tools;
use crate::dns::settings::{Settings, Shared};
use crate::dns::tcp::{Door, Plan, Speech};
use crate::dns::udp::{RECEIVE_TIMEOUT, Worker};
use crate::dns::{Containers, Options, Scratch, tcp, udp};
use crate::dnswire::parse_name;
use crate::lifecycle::Signal;
use crate::net::{BindError, Binder, Kind, Wanted, tls};
use crate::rng::Rng;
use crate::table::{Snapshot, Table};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;

/// Unusual questions that may wait; further ones get SERVFAIL. At some 10 us each this is 10 ms of work.
pub(crate) const MAX_SLOW_JOBS: usize = 1024;
/// Ports that are tried when any will do: the one that TCP got may be taken for UDP.
const PORT_TRIES: usize = 16;

/// Why the server could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The zone is no DNS name.
    #[error("zone {0:?} is no DNS name")]
    Zone(String),
    /// An address could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Bound sockets of every address.
#[derive(Debug)]
pub struct Sockets {
    addresses: Vec<SocketAddr>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    /// Listeners for TLS and for HTTPS, with their addresses.
    tls: [Vec<(SocketAddr, TcpListener)>; 2],
    /// How TLS is spoken.
    secure: Option<tls::Server>,
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    tls_addresses: [Vec<SocketAddr>; 2],
    counters: Counters,
    settings: Shared,
    threads: Vec<JoinHandle<()>>,
}

/// Changes a running server; clones change the same one.
#[derive(Debug, Clone)]
pub struct Live {
    addresses: Arc<[SocketAddr]>,
    settings: Shared,
}

impl Live {
    /// Takes up what may change while it runs: forwarding, the TTL of negative answers, sizes and limits. Addresses, zone
    /// and threads stay as they are. A forwarder that stays keeps its cache; a new one may read `/etc/resolv.conf`.
    pub fn apply(&self, options: &Options) {
        let before = self.settings.load_full();
        self.settings.store(Arc::new(Settings::new(options, &self.addresses, Some(&before))));
    }

    /// Answers a question as the server would now, and says why the answer is what it is.
    ///
    /// # Errors
    /// When the name or the type cannot be read.
    pub fn explain(&self, snapshot: &Snapshot, now_ms: u64, riddle: &Riddle) -> Result<Explanation, String> {
        explain(&self.settings.load(), snapshot, now_ms, riddle)
    }
}

/// Binds UDP and TCP on every address of the options; port 0 takes a free port, the same for both. `free` takes one also
/// where the wanted one is taken.
///
/// # Errors
/// [`ServerError`] with the address and who holds it.
pub fn bind(options: &Options, binder: &Binder, free: bool) -> Result<Sockets, ServerError> {
    if parse_name(&options.zone).is_none_or(|zone| zone.len() < 2) {
        return Err(ServerError::Zone(options.zone.clone()));
    }
    let mut sockets =
        Sockets { addresses: Vec::new(), udp: Vec::new(), tcp: Vec::new(), tls: Default::default(), secure: None };
    for (index, &address) in options.listen.iter().enumerate() {
        let label = format!("dns-{index}");
        let wanted = Wanted { address, count: options.threads.max(1), free, ahead: false, label: &label };
        let (bound, udp, tcp) = bind_pair(&wanted, binder)?;
        if address.port() != 0 && bound.port() != address.port() {
            tracing::warn!("{address} is taken; taking {bound} instead");
        }
        sockets.addresses.push(bound);
        sockets.udp.extend(udp);
        sockets.tcp.extend(tcp);
    }
    let tls = options.tls.iter();
    let wanted = tls.flat_map(|tls| [("tls", &tls.listen), ("https", &tls.https)].into_iter().enumerate());
    for (place, (what, addresses)) in wanted {
        for (index, &address) in addresses.iter().enumerate() {
            let label = format!("dns-{what}-{index}");
            let bound = binder.tcp(&Wanted { address, count: 1, free, ahead: false, label: &label })?;
            if let Some(taken) = bound.instead_of {
                tracing::warn!("{taken}");
            }
            let listed = bound.sockets.into_iter().map(|socket| (socket.local_addr().unwrap_or(address), socket));
            if let Some(list) = sockets.tls.get_mut(place) {
                list.extend(listed);
            }
        }
    }
    Ok(sockets)
}

fn bind_pair(
    wanted: &Wanted<'_>,
    binder: &Binder,
) -> Result<(SocketAddr, Vec<UdpSocket>, Vec<TcpListener>), BindError> {
    let any = Wanted { address: SocketAddr::new(wanted.address.ip(), 0), ..*wanted };
    let mut wanted = Wanted { count: 1, ..*wanted };
    let mut tries = if wanted.free || wanted.address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = binder.tcp(&wanted)?;
        if let Some(taken) = tcp.instead_of {
            tracing::warn!("{taken}");
        }
        let bound = tcp.sockets.first().and_then(|listener| listener.local_addr().ok()).unwrap_or(wanted.address);
        match binder.udp(&Wanted { address: bound, free: false, ..any }, RECEIVE_TIMEOUT) {
            Ok(udp) => return Ok((bound, udp.sockets, tcp.sockets)),
            Err(error) if tries == 0 || error.source.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => {
                if wanted.address.port() != 0 {
                    tracing::warn!("{error}");
                }
                drop(tcp.sockets);
                binder.close(Kind::Tcp, &wanted);
                wanted = Wanted { count: 1, ..any };
            }
        }
    }
}

impl Sockets {
    /// Returns the bound addresses in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Says how TLS is spoken; without it nobody listens there.
    pub fn secure(&mut self, server: tls::Server) {
        self.secure = Some(server);
    }

    fn tls_doors(&mut self) -> Vec<Door> {
        let Some(server) = &self.secure else { return Vec::new() };
        let offering = |protocols: &[&[u8]]| {
            let mut config = ServerConfig::clone(&server.config);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        // RFC 7858 §3.1 needs no name; "dot" is the one that IANA knows.
        let speeches = [Speech::Tls(offering(&[b"dot"])), Speech::Https(offering(&[b"h2", b"http/1.1"]))];
        let lists = self.tls.iter_mut().zip(speeches);
        let doors = lists.flat_map(|(list, speech)| {
            std::mem::take(list).into_iter().map(move |(_, listener)| Door { listener, speech: speech.clone() })
        });
        doors.collect()
    }
}

/// Starts the threads: `dns-N` per UDP socket, `dns-slow` for TCP and everything unusual, `dns-tls` for TLS. They end with the drain.
///
/// # Errors
/// When a thread or the runtime of `dns-slow` cannot be made.
pub fn serve(mut sockets: Sockets, options: &Options, table: &Table, signal: &Signal) -> io::Result<Server> {
    let settings: Shared = Arc::new(ArcSwap::from_pointee(Settings::new(options, &sockets.addresses, None)));
    let tls_addresses = sockets.tls.each_ref().map(|list| list.iter().map(|(address, _)| *address).collect());
    let tls_doors = sockets.tls_doors();
    // Those for UDP, the slow path, and TLS.
    let counters = Counters::new(sockets.udp.len() + 2);
    let baker = Baker::from_os();
    let (slow, jobs) = mpsc::channel(MAX_SLOW_JOBS);
    let mut threads = Vec::with_capacity(sockets.udp.len() + 2);
    let shards = (0..).map_while(|index| counters.shard(index));
    let mut shards = shards.enumerate();
    for (socket, (index, shard)) in sockets.udp.into_iter().zip(&mut shards) {
        let name = format!("dns-{index}");
        let worker = Worker {
            address: socket.local_addr()?,
            socket: Arc::new(socket),
            reader: table.reader(&name),
            settings: settings.clone(),
            counters: shard,
            forwards: counters.forwards().clone(),
            slow: slow.clone(),
            scratch: Scratch::new(Rng::from_os()),
            baker: baker.clone(),
            limits: counters.limits().clone(),
        };
        let signal = signal.clone();
        threads.push(thread::Builder::new().name(name).spawn(move || udp::run(worker, &signal))?);
    }
    let tools = |name: &str, shard, elsewhere| Tools {
        reader: table.reader(name),
        scratch: Scratch::new(Rng::from_os()),
        baker: baker.clone(),
        settings: settings.clone(),
        counters: shard,
        forwards: counters.forwards().clone(),
        elsewhere,
    };
    let mut start = |name: &str, plan| -> io::Result<()> {
        let signal = signal.clone();
        threads.push(thread::Builder::new().name(name.to_owned()).spawn(move || run_streams(plan, signal))?);
        Ok(())
    };
    if let Some((_, shard)) = shards.next()
        && !tls_doors.is_empty()
    {
        let tools = tools("dns-tls", shard, Some(slow.clone()));
        start("dns-tls", Plan { doors: tls_doors, jobs: None, tools })?;
    }
    // The thread ends when the last sender is gone: those of the threads before.
    drop(slow);
    if let Some((_, shard)) = shards.next() {
        let doors = sockets.tcp.into_iter().map(|listener| Door { listener, speech: Speech::Plain }).collect();
        start("dns-slow", Plan { doors, jobs: Some(jobs), tools: tools("dns-slow", shard, None) })?;
    }
    Ok(Server { addresses: sockets.addresses, tls_addresses, counters, settings, threads })
}

pub(crate) fn run_streams(plan: Plan, signal: Signal) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    let result = runtime.and_then(|runtime: LocalRuntime| runtime.block_on(tcp::run(plan, signal)));
    if let Err(error) = result {
        tracing::error!(%error, "a thread for DNS over streams has stopped");
    }
}

impl Server {
    /// Returns the bound addresses in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the bound addresses for DNS over TLS and for DNS over HTTPS in the order of the options.
    pub fn tls_addresses(&self) -> &[Vec<SocketAddr>; 2] {
        &self.tls_addresses
    }

    /// Returns the counters; a Prometheus collector.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns what listens on the gateways of containers' networks, at this port; on none yet.
    pub fn containers(&self, port: u16, binder: &Binder, table: &Table) -> Containers {
        Containers {
            port,
            binder: binder.clone(),
            table: table.clone(),
            settings: self.settings.clone(),
            counters: self.counters.clone(),
            baker: Baker::from_os(),
            open: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    /// Returns what the forwarder has and how its resolvers do; a Prometheus collector.
    pub fn gauges(&self) -> Gauges {
        Gauges::new(self.settings.clone())
    }

    /// Returns what changes the server while it runs.
    pub fn live(&self) -> Live {
        Live { addresses: self.addresses.clone().into(), settings: self.settings.clone() }
    }

    /// Waits until every thread has ended, at most a second after the drain began. Blocks: not for a runtime's thread.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a DNS thread panicked");
            }
        }
    }
}
