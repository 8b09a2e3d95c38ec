//! The server as a whole: its sockets, its threads, its end.

use crate::dns::counters::Counters;
use crate::dns::settings::{Settings, Shared};
use crate::dns::udp::{RECEIVE_TIMEOUT, Worker};
use crate::dns::{Options, Scratch, tcp, udp};
use crate::dnswire::parse_name;
use crate::lifecycle::Signal;
use crate::net::{BindError, Binder, Kind, Wanted};
use crate::rng::Rng;
use crate::table::Table;
use arc_swap::ArcSwap;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::runtime::LocalRuntime;
use tokio::sync::mpsc;

/// Unusual questions that may wait; further ones get SERVFAIL. At some 10 us each this is 10 ms of work.
const MAX_SLOW_JOBS: usize = 1024;
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
}

/// The running server.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
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
    let mut sockets = Sockets { addresses: Vec::new(), udp: Vec::new(), tcp: Vec::new() };
    for (index, &address) in options.listen.iter().enumerate() {
        let label = format!("dns-{index}");
        let wanted = Wanted { address, count: options.threads.max(1), free, label: &label };
        let (bound, udp, tcp) = bind_pair(&wanted, binder)?;
        if address.port() != 0 && bound.port() != address.port() {
            tracing::warn!("{address} is taken; taking {bound} instead");
        }
        sockets.addresses.push(bound);
        sockets.udp.extend(udp);
        sockets.tcp.extend(tcp);
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
}

/// Starts the threads: `dns-N` per UDP socket and `dns-slow` for TCP and everything unusual. They end with the drain.
///
/// # Errors
/// When a thread or the runtime of `dns-slow` cannot be made.
pub fn serve(sockets: Sockets, options: &Options, table: &Table, signal: &Signal) -> io::Result<Server> {
    let settings: Shared = Arc::new(ArcSwap::from_pointee(Settings::new(options, &sockets.addresses, None)));
    let counters = Counters::new(sockets.udp.len() + 1);
    let (slow, jobs) = mpsc::channel(MAX_SLOW_JOBS);
    let mut threads = Vec::with_capacity(sockets.udp.len() + 1);
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
        };
        let signal = signal.clone();
        threads.push(thread::Builder::new().name(name).spawn(move || udp::run(worker, &signal))?);
    }
    // The thread ends when the last sender is gone: those of the UDP threads.
    drop(slow);
    if let Some((_, shard)) = shards.next() {
        let plan = tcp::Plan {
            listeners: sockets.tcp,
            jobs,
            reader: table.reader("dns-slow"),
            settings: settings.clone(),
            counters: shard,
            forwards: counters.forwards().clone(),
            scratch: Scratch::new(Rng::from_os()),
        };
        let signal = signal.clone();
        threads.push(thread::Builder::new().name("dns-slow".to_owned()).spawn(move || run_slow(plan, signal))?);
    }
    Ok(Server { addresses: sockets.addresses, counters, settings, threads })
}

fn run_slow(plan: tcp::Plan, signal: Signal) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    let result = runtime.and_then(|runtime: LocalRuntime| runtime.block_on(tcp::run(plan, signal)));
    if let Err(error) = result {
        tracing::error!(%error, "DNS over TCP and the slow path have stopped");
    }
}

impl Server {
    /// Returns the bound addresses in the order of the options.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the counters; a Prometheus collector.
    pub fn counters(&self) -> &Counters {
        &self.counters
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
