//! One worker: a thread, a current-thread runtime, its own sockets, and the loops that accept, sweep and refresh.
//!
//! Workers share nothing on the request path but the endpoints' in-flight counts. A publish wakes an idle worker so
//! that it acknowledges; a drain empties the accept queue before the socket is given back.

use crate::clock;
use crate::lifecycle::{Phase, Signal};
use crate::model::ListenerProtocol;
use crate::proxy::connection;
use crate::proxy::options::Options;
use crate::proxy::state::{Open, Shared, Worker};
use crate::proxy::timer::ms;
use crate::sys;
use crate::table::Table;
use crate::telemetry::{AccessLog, Metrics};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Time between two sweeps of the deadlines: their granularity.
const SWEEP: Duration = Duration::from_millis(100);
/// Wait after accept failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A listening socket lent to one worker.
#[derive(Debug)]
pub struct Lent {
    /// The listener's name.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: ListenerProtocol,
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
        // Clients that reconnect without a pause must not hold the listener open: what came by now was served.
        if worker
            .draining_since()
            .is_some_and(|at| worker.timers.now_ms() > at + ms(worker.options.timeouts.drain_idle))
        {
            return;
        }
        let accepted = tokio::select! {
            biased;
            () = signal.reached(Phase::Draining) => break,
            accepted = listener.accept() => accepted,
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
    if let Err(error) = empty_queue(listener, |stream, peer| admit(&worker, stream, peer, &name, &trusted)) {
        tracing::warn!(%error, listener = %name, "failed to empty the accept queue");
    }
}

/// Takes what waits in the accept queue, so that the socket may go. By system call: the reactor reports connections only
/// when it is polled next.
fn empty_queue(listener: TcpListener, mut admit: impl FnMut(TcpStream, SocketAddr)) -> io::Result<()> {
    let listener = listener.into_std()?;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                admit(TcpStream::from_std(stream)?, peer);
            }
            Err(error) if is_transient(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
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
            // Also when the service is gone: they must hear of it.
            if local.service.stats.waiting() > 0 {
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
