//! One worker: a thread, a current-thread runtime, its own sockets, pools, scratch buffer and metric shard.
//!
//! Workers share nothing on the request path but the endpoints' in-flight counts. A publish wakes an idle worker so
//! that it acknowledges; a drain empties the accept queue before the socket is given back.

use crate::clock;
use crate::http1::head;
use crate::lifecycle::{Phase, Signal};
use crate::proxy::connection;
use crate::proxy::http::scratch::Scratch;
use crate::proxy::local::Locals;
use crate::proxy::options::Options;
use crate::proxy::pool::Pool;
use crate::proxy::timer::Timers;
use crate::rng::Rng;
use crate::sys;
use crate::table::{Reader, Table};
use crate::telemetry::{AccessLog, Metrics, Shard};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Time between two sweeps of the deadlines: their granularity.
const SWEEP: Duration = Duration::from_millis(100);
/// Wait after accept failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Buffers kept for reuse by one worker.
const MAX_BUFFERS: usize = 256;
/// A buffer that grew beyond this is given back to the allocator.
const MAX_BUFFER_BYTES: usize = 128 * 1024;

/// A listening socket lent to one worker.
#[derive(Debug)]
pub struct Lent {
    /// The listener's name.
    pub name: Arc<str>,
    /// Networks whose forwarding fields are believed.
    pub trusted: Vec<(IpAddr, u8)>,
    /// The worker's own socket; nonblocking.
    pub socket: std::net::TcpListener,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Waits until every worker has ended; they end when drained, or at once when stopping. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended with a panic");
            }
        }
    }
}

/// What workers need beside their sockets.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    options: Options,
    table: Table,
    metrics: Metrics,
    access: Option<AccessLog>,
    signal: Signal,
}

/// Starts one worker for each set of sockets.
///
/// # Errors
/// When a thread or its runtime cannot be made.
pub fn start(
    options: &Options,
    sockets: Vec<Vec<Lent>>,
    table: &Table,
    metrics: &Metrics,
    access: Option<AccessLog>,
    signal: &Signal,
) -> io::Result<Workers> {
    let shared = Shared {
        options: options.clone(),
        table: table.clone(),
        metrics: metrics.clone(),
        access,
        signal: signal.clone(),
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let pin = options.pin.unwrap_or(cpus >= 4);
    let mut threads = Vec::with_capacity(sockets.len());
    for (index, lent) in sockets.into_iter().enumerate() {
        let shared = shared.clone();
        let body = move || {
            if pin && let Err(error) = sys::thread::pin(index % cpus) {
                tracing::warn!(%error, worker = index, "failed to pin the worker to a CPU");
            }
            if let Err(error) = run(index, lent, &shared) {
                tracing::error!(%error, worker = index, "failed to run the worker");
            }
        };
        threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
    }
    Ok(Workers { threads })
}

fn run(index: usize, lent: Vec<Lent>, shared: &Shared) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build_local(Default::default())?;
    let worker = Rc::new(Worker::new(index, shared));
    runtime.block_on(async {
        let mut accepting = Vec::new();
        for lent in lent {
            accepting.push(tokio::task::spawn_local(accept_loop(worker.clone(), lent, shared.signal.clone())?));
        }
        let sweeping = tokio::task::spawn_local(sweep_loop(worker.clone()));
        let refreshing = tokio::task::spawn_local(refresh_loop(worker.clone()));
        let mut signal = shared.signal.clone();
        signal.reached(Phase::Draining).await;
        worker.drain();
        tokio::select! {
            () = async {
                for accept in accepting {
                    let _ = accept.await;
                }
                worker.idle().await;
            } => {}
            () = signal.reached(Phase::Stopping) => {}
        }
        sweeping.abort();
        refreshing.abort();
        io::Result::Ok(())
    })
}

/// A worker's state; owned by its thread, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) options: Options,
    pub(crate) limits: head::Limits,
    pub(crate) reader: RefCell<Reader>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) locals: RefCell<Locals>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) access: Option<AccessLog>,
    scratch: Cell<Option<Box<Scratch>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    open: Cell<usize>,
    /// When the drain began; 0 before.
    draining_ms: Cell<u64>,
    /// Told when a connection opens or closes.
    changed: Notify,
}

impl Worker {
    fn new(index: usize, shared: &Shared) -> Self {
        let options = shared.options.clone();
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            limits: head::Limits {
                head_bytes: options.limits.head_bytes,
                fields: options.limits.header_fields,
                target_bytes: options.limits.uri_bytes,
            },
            reader: RefCell::new(shared.table.reader(&format!("worker-{index}"))),
            rng: RefCell::new(Rng::from_os()),
            pool: RefCell::new(Pool::new(options.max_idle_per_endpoint, ms(options.pool_idle))),
            locals: RefCell::default(),
            timers: Rc::new(Timers::new(clock::now_ms())),
            shard: shared.metrics.shard(),
            access: shared.access.clone(),
            scratch: Cell::new(None),
            buffers: RefCell::default(),
            open: Cell::new(0),
            draining_ms: Cell::new(0),
            changed: Notify::new(),
            options,
        }
    }

    /// Lends the thread's scratch buffer within one poll: it cannot be held across an await.
    pub(crate) fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.take().unwrap_or_else(|| Box::new(Scratch::new(&self.options.limits)));
        let result = work(&mut scratch);
        self.scratch.set(Some(scratch));
        result
    }

    /// Takes an empty buffer, with its capacity from earlier use where there is one.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a buffer back for reuse.
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= MAX_BUFFER_BYTES && buffers.len() < MAX_BUFFERS {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// Returns when the drain began, if it did.
    pub(crate) fn draining_since(&self) -> Option<u64> {
        Some(self.draining_ms.get()).filter(|&at| at != 0)
    }

    fn drain(&self) {
        self.timers.set_now(clock::now_ms());
        self.draining_ms.set(self.timers.now_ms());
        // Idle connections look at the drain when they are polled.
        self.timers.wake_all();
    }

    /// Waits until no connection is open.
    async fn idle(&self) {
        while self.open.get() > 0 {
            self.changed.notified().await;
        }
    }
}

/// Counts a connection as open until dropped, also when its task panics.
pub(crate) struct Open {
    worker: Rc<Worker>,
}

impl Open {
    fn new(worker: &Rc<Worker>) -> Self {
        // The sweep sleeps while nothing is open: the coarse clock may be old.
        worker.timers.set_now(clock::now_ms());
        worker.open.set(worker.open.get() + 1);
        worker.shard.accepted.add(1);
        worker.shard.open.add(1);
        worker.changed.notify_waiters();
        Self { worker: worker.clone() }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.open.set(self.worker.open.get() - 1);
        self.worker.shard.open.sub(1);
        if thread::panicking() {
            self.worker.shard.panics.add(1);
        }
        self.worker.changed.notify_waiters();
    }
}

/// Prepares the accept loop of one listener; registering the socket may fail, so it is done before the task starts.
fn accept_loop(worker: Rc<Worker>, lent: Lent, signal: Signal) -> io::Result<impl Future<Output = ()>> {
    let listener = TcpListener::from_std(lent.socket)?;
    let trusted: Rc<[(IpAddr, u8)]> = lent.trusted.into();
    Ok(accept(worker, listener, lent.name, trusted, signal))
}

async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    name: Arc<str>,
    trusted: Rc<[(IpAddr, u8)]>,
    mut signal: Signal,
) {
    loop {
        while worker.open.get() >= worker.options.limits.connections && worker.draining_since().is_none() {
            worker.changed.notified().await;
        }
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = signal.reached(Phase::Draining) => match try_accept(&listener) {
                Some(accepted) => accepted,
                // The queue is empty: now the socket may go.
                None => return,
            },
        };
        match accepted {
            Ok((stream, peer)) => admit(&worker, stream, peer, &name, &trusted),
            Err(error) if is_transient(&error) => {}
            Err(error) => {
                tracing::warn!(%error, listener = %name, "failed to accept; pausing");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn try_accept(listener: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match listener.poll_accept(&mut cx) {
        std::task::Poll::Ready(accepted) => Some(accepted),
        std::task::Poll::Pending => None,
    }
}

/// The connection failed before it was accepted: nothing is wrong with the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, name: &Arc<str>, trusted: &Rc<[(IpAddr, u8)]>) {
    let open = Open::new(worker);
    let peer_ip = peer.ip().to_canonical();
    let is_trusted = trusted.iter().any(|(network, length)| contains(*network, *length, peer_ip));
    tokio::task::spawn_local(connection::serve(open, worker.clone(), stream, (peer_ip, is_trusted), name.clone()));
}

/// Returns whether a network of the given prefix length holds the address.
fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let (a, b, width) = match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let shift = width - u32::from(length).min(width);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

/// Moves the coarse clock and wakes expired tasks; sleeps without a timer while nothing is open.
async fn sweep_loop(worker: Rc<Worker>) {
    let mut turns = 0u32;
    loop {
        if worker.timers.is_empty() && worker.pool.borrow().is_empty() {
            worker.changed.notified().await;
        }
        tokio::time::sleep(SWEEP).await;
        let now_ms = clock::now_ms();
        worker.timers.set_now(now_ms);
        worker.timers.sweep();
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(5) {
            worker.pool.borrow_mut().sweep(now_ms);
        }
    }
}

/// Follows publishes while the worker is idle: acknowledges, closes pooled connections to endpoints that are gone, and
/// lets waiting requests try again.
async fn refresh_loop(worker: Rc<Worker>) {
    let acknowledger = worker.reader.borrow().acknowledger().clone();
    loop {
        acknowledger.woken().await;
        let snapshot = worker.reader.borrow_mut().load().clone();
        worker.pool.borrow_mut().retain(|key| {
            let service = snapshot.services.at(key.slot);
            service.is_some_and(|s| s.candidates.iter().any(|c| c.stats.serial() == key.serial))
        });
        worker.locals.borrow_mut().retain(|local| {
            let now = snapshot.services.at(local.service.slot);
            let stays = now.is_some_and(|s| Arc::ptr_eq(&s.stats, &local.service.stats));
            if stays && local.service.stats.waiting() > 0 {
                local.service.stats.wake(usize::MAX);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_network_holds_its_addresses() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(contains(ip("10.0.0.0"), 8, ip("10.255.1.2")));
        assert!(!contains(ip("10.0.0.0"), 8, ip("11.0.0.0")));
        assert!(contains(ip("0.0.0.0"), 0, ip("1.2.3.4")) && !contains(ip("0.0.0.0"), 0, ip("::1")));
        assert!(contains(ip("fd00::"), 8, ip("fdff::1")) && contains(ip("::"), 0, ip("::1")));
        assert!(contains(ip("192.0.2.1"), 32, ip("192.0.2.1")) && !contains(ip("192.0.2.1"), 32, ip("192.0.2.2")));
    }
}
