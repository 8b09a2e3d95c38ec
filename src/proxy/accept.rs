//! Accepting: the sockets that one worker holds, and the loops that take connections from them.
//!
//! Sockets are lent: the worker may be told at any time to hold others. Giving one back leaves its accept queue to whoever
//! holds it next. A listener that is removed for good is closed here, by whoever holds it last: what waits in its queue is
//! taken first, and the connections that came through it end with their next response. Next on the path: `connection.rs`.

use crate::clock;
use crate::lifecycle::{Phase, Signal};
use crate::model::{ListenerProtocol, ListenerSpec};
use crate::net::{Door, Stream};
use crate::proxy::capture;
use crate::proxy::connection;
use crate::proxy::datagram;
use crate::proxy::entry::Entry;
use crate::proxy::handshake;
use crate::proxy::memory::Pressure;
use crate::proxy::network::contains;
use crate::proxy::passing;
use crate::proxy::preface::{Arrival, greet};
use crate::proxy::shortage::Shortage;
use crate::proxy::spread::Handed;
use crate::proxy::state::{Open, Worker};
use crate::proxy::tcp::{self, Way};
use crate::proxy::timer::ms;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A listening socket lent to one worker.
#[derive(Debug)]
pub struct Lent {
    /// Names the socket within the process, so that a worker knows what it holds already.
    pub id: u64,
    /// The listener that it belongs to, with its exact address.
    pub listener: Arc<ListenerSpec>,
    /// A duplicate of the socket; nonblocking.
    pub socket: Door,
}

/// One socket that is being accepted from.
struct Held {
    id: u64,
    entry: Rc<Entry>,
    accepting: JoinHandle<()>,
}

/// All that one worker accepts from.
pub(crate) struct Holdings {
    worker: Rc<Worker>,
    signal: Signal,
    held: Vec<Held>,
    /// Also of listeners whose sockets are elsewhere now: connections that came here stay here.
    entries: Entries,
    /// Takes what other workers hand on.
    receiving: Option<JoinHandle<()>>,
}

type Entries = Rc<RefCell<Vec<Rc<Entry>>>>;

impl Holdings {
    pub(crate) fn new(worker: Rc<Worker>, signal: Signal) -> Self {
        let entries = Entries::default();
        let handed = worker.take_handed();
        let receiving = handed.map(|handed| tokio::task::spawn_local(receive(worker.clone(), handed, entries.clone())));
        Self { worker, signal, held: Vec::new(), entries, receiving }
    }

    /// Holds exactly these sockets from now on; `listeners` are all that exist, also those whose sockets others hold.
    ///
    /// Returns when what belongs to removed listeners is closed.
    pub(crate) async fn hold(&mut self, sockets: Vec<Lent>, listeners: &[Arc<ListenerSpec>]) {
        for lent in sockets.iter().map(|lent| &lent.listener).chain(listeners) {
            for entry in self.entries.borrow().iter().filter(|entry| entry.is_of(lent)) {
                entry.update(lent.clone());
            }
        }
        self.remove_others(listeners).await;
        self.held.retain(|held| {
            let stays = sockets.iter().any(|lent| lent.id == held.id);
            if !stays {
                // Ends between two connections: what was accepted was handed on in the same poll.
                held.accepting.abort();
            }
            stays
        });
        for lent in sockets {
            if self.held.iter().any(|held| held.id == lent.id) {
                continue;
            }
            let (name, id) = (lent.listener.name.clone(), lent.id);
            let entry = self.entry(&lent.listener);
            match self.enter(lent.socket, &entry) {
                Ok(accepting) => self.held.push(Held { id, entry, accepting }),
                Err(error) => tracing::error!(%error, listener = %name, "failed to accept from a socket"),
            }
        }
    }

    /// Begins to take what comes to a socket.
    fn enter(&self, socket: Door, entry: &Rc<Entry>) -> io::Result<JoinHandle<()>> {
        let (worker, entry, signal) = (self.worker.clone(), entry.clone(), self.signal.clone());
        match socket {
            Door::Tcp(socket) => {
                // Small answers must not wait for the client's delayed acknowledgement; what is accepted inherits this.
                SockRef::from(&socket).set_tcp_nodelay(true)?;
                let listener = crate::sys::accept::watch(socket)?;
                Ok(tokio::task::spawn_local(accept(worker, listener, entry, signal)))
            }
            Door::Udp(socket) => {
                let socket = crate::sys::accept::watch_datagrams(socket)?;
                Ok(tokio::task::spawn_local(datagram::serve(worker, socket, entry, signal)))
            }
        }
    }

    /// Waits until every loop has emptied its accept queue, after the drain began.
    pub(crate) async fn finished(&mut self) {
        for held in self.held.drain(..) {
            let _ = held.accepting.await;
        }
        if let Some(receiving) = self.receiving.take() {
            let _ = receiving.await;
        }
    }

    fn entry(&mut self, listener: &Arc<ListenerSpec>) -> Rc<Entry> {
        let mut entries = self.entries.borrow_mut();
        if let Some(known) = entries.iter().find(|entry| entry.is_of(listener)) {
            return known.clone();
        }
        let entry = Rc::new(Entry::new(listener.clone()));
        entries.push(entry.clone());
        entry
    }

    async fn remove_others(&mut self, listeners: &[Arc<ListenerSpec>]) {
        let stays = |entry: &Rc<Entry>| listeners.iter().any(|listener| entry.is_of(listener));
        let (stay, gone) = self.entries.take().into_iter().partition::<Vec<_>, _>(stays);
        self.entries.replace(stay);
        if gone.is_empty() {
            return;
        }
        self.worker.timers.set_now(clock::now_ms());
        for entry in &gone {
            entry.remove(self.worker.timers.now_ms());
        }
        // Idle connections look whether it is theirs; loops at the bound of connections empty their queues.
        self.worker.timers.wake_all();
        self.worker.changed.notify_waiters();
        let mut index = 0;
        while let Some(held) = self.held.get(index) {
            if held.entry.removed_since().is_some() {
                let _ = self.held.swap_remove(index).accepting.await;
            } else {
                index += 1;
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: AsyncFd<TcpListener>, entry: Rc<Entry>, mut signal: Signal) {
    let (mut stopping, shortage) = (signal.clone(), Shortage::new());
    loop {
        let is_full = worker.open.get() >= worker.options.limits.connections;
        if is_full && worker.ending_since(&entry).is_none() {
            worker.changed.notified().await;
            continue;
        }
        // Clients that reconnect without a pause must not hold the listener open: what came by now was served.
        if worker
            .ending_since(&entry)
            .is_some_and(|at| worker.timers.now_ms() > at + ms(worker.options.timeouts.drain_idle))
        {
            return;
        }
        let accepted = tokio::select! {
            biased;
            () = signal.reached(Phase::Draining) => break,
            () = entry.removed() => break,
            accepted = listener.async_io(Interest::READABLE, take) => accepted,
        };
        let lack = match accepted {
            Ok((stream, peer)) => {
                let is_last = shortage.is_near(&stream);
                if !is_last {
                    shortage.end(None);
                }
                admit(&worker, stream, peer, &entry);
                is_last.then_some(None)
            }
            Err(error) if is_transient(&error) => None,
            Err(error) => Some(Some(error)),
        };
        if let Some(error) = lack {
            tokio::select! {
                () = pause(&worker, &listener, &entry, (&shortage, error)) => {}
                () = entry.removed() => break,
                () = stopping.reached(Phase::Draining) => break,
            }
        }
    }
    if let Err(error) = empty_queue(&listener.into_inner(), |stream, peer| admit(&worker, stream, peer, &entry)) {
        tracing::warn!(%error, listener = %entry.name, "failed to empty the accept queue");
    }
}

/// Waits until there are descriptors for more connections; those that are open go on, and those that come wait in the queue.
async fn pause(
    worker: &Worker,
    listener: &AsyncFd<TcpListener>,
    entry: &Entry,
    (shortage, error): (&Shortage, Option<io::Error>),
) {
    loop {
        let (wait, first) = shortage.begin(clock::now());
        if first {
            let error = error.as_ref().map(tracing::field::display);
            tracing::warn!(reason = "descriptors", listener = %entry.name, error, "too few descriptors: accepting pauses");
        }
        worker.shard.accept_pauses.add(1);
        tokio::time::sleep(wait).await;
        if shortage.has_passed(listener.as_fd()) {
            break;
        }
    }
    // What else is wrong is over when a connection was accepted.
    let lacked = error.is_none_or(|error| is_shortage(&error));
    if let Some(passed) = lacked.then(|| shortage.end(Some(clock::now()))).flatten() {
        let seconds = passed.as_secs_f64();
        tracing::info!(reason = "descriptors", listener = %entry.name, seconds, "there are descriptors again: accepting");
    }
}

/// There are not enough descriptors, of the process or of the machine, or not enough memory.
fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Takes what waits in the accept queue, so that the socket may go. By system call: the reactor reports connections only
/// when it is polled next.
fn empty_queue(listener: &TcpListener, mut admit: impl FnMut(TcpStream, SocketAddr)) -> io::Result<()> {
    loop {
        match take(listener) {
            Ok((stream, peer)) => admit(stream, peer),
            Err(error) if is_transient(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Takes one connection, nonblocking; who serves it decides whether the reactor watches it.
fn take(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((socket.into(), peer))
}

/// The connection failed before it was accepted: nothing is wrong with the listener.
fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Takes what other workers hand on, until the drain has begun and nothing is on its way any more.
async fn receive(worker: Rc<Worker>, mut handed: mpsc::Receiver<Handed>, entries: Entries) {
    loop {
        let next = tokio::select! {
            () = worker.draining(), if !handed.is_closed() => {
                // Whoever has one now finds the way closed and keeps it.
                handed.close();
                continue;
            }
            next = handed.recv() => next,
        };
        let Some(Handed { stream, peer, listener }) = next else { return };
        let open = Open::counted(&worker);
        let known = entries.borrow().iter().find(|entry| entry.is_of(&listener)).cloned();
        let entry = known.unwrap_or_else(|| {
            // Removed meanwhile: the connection ends with its next response.
            let entry = Rc::new(Entry::new(listener));
            entry.remove(worker.timers.now_ms());
            entry
        });
        serve(&worker, open, stream, peer, &entry);
    }
}

/// Serves a connection that was accepted here, or hands it to a worker that has fewer.
fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, entry: &Rc<Entry>) {
    if worker.memory.pressure(clock::now_ms) >= Pressure::Shed {
        worker.shard.shed.add(1);
        // At once, with all that the kernel holds for it.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let other = match worker.ending_since(entry) {
        None => worker.spread.other(&worker.seat, worker.options.limits.connections),
        Some(_) => None,
    };
    let Some(other) = other else { return serve(worker, Open::new(worker), stream, peer, entry) };
    if let Err(kept) = other.hand(Handed { stream, peer, listener: entry.spec() }) {
        serve(worker, Open::new(worker), kept.stream, peer, entry);
    }
}

fn serve(worker: &Rc<Worker>, mut open: Open, stream: TcpStream, peer: SocketAddr, entry: &Rc<Entry>) {
    let (peer, spec) = (peer.ip().to_canonical(), entry.spec());
    if spec.admission.proxy_protocol.is_none() && !enter(worker, &mut open, &spec, peer) {
        // At once, with all that the kernel holds for it.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let arrival = Arrival { peer, origin: None };
    if spec.protocol.is_http() && spec.tls.is_none() && spec.admission.proxy_protocol.is_none() {
        return serve_plain(worker, open, stream.into(), arrival, (entry, &spec));
    }
    let stream = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, listener = %entry.name, "failed to watch a connection"),
    };
    if spec.admission.proxy_protocol.is_none() {
        return serve_watched(worker, open, stream, arrival, (entry, spec));
    }
    let (worker, entry) = (worker.clone(), entry.clone());
    tokio::task::spawn_local(async move {
        let Some(said) = &spec.admission.proxy_protocol else { return };
        let deadline = worker.timers.register();
        let arrival = greet(&worker, &deadline, &stream, peer, (said, &entry.name)).await;
        // Whom the proxy tells of is the client.
        if let Some(arrival) = arrival
            && enter(&worker, &mut open, &spec, arrival.peer)
        {
            let spec = entry.spec();
            serve_watched(&worker, open, stream, arrival, (&entry, spec));
        }
    });
}

/// Counts a connection where its listener bounds them; false: it must not stay.
fn enter(worker: &Worker, open: &mut Open, spec: &ListenerSpec, client: IpAddr) -> bool {
    match worker.admissions.enter(spec, client) {
        Ok(place) => open.keep(place),
        Err(reason) => {
            worker.shard.refused(reason);
            worker.underway.say_preface(worker.timers.now_ms(), &spec.name, client, reason);
            return false;
        }
    }
    true
}

/// Serves HTTP in clear text.
fn serve_plain(
    worker: &Rc<Worker>,
    open: Open,
    stream: Stream,
    arrival: Arrival,
    (entry, spec): (&Rc<Entry>, &ListenerSpec),
) {
    let trusted = is_trusted(spec, arrival.peer);
    tokio::task::spawn_local(connection::serve(open, worker.clone(), stream, (arrival, trusted), entry.clone()));
}

/// Serves a connection that the reactor watches.
fn serve_watched(
    worker: &Rc<Worker>,
    open: Open,
    stream: tokio::net::TcpStream,
    arrival: Arrival,
    (entry, spec): (&Rc<Entry>, Arc<ListenerSpec>),
) {
    match spec.protocol {
        ListenerProtocol::Tcp { .. } if spec.tls.is_none() && spec.admission.is_blind() => {
            let forwarding = tcp::forward(open, worker.clone(), stream.into(), arrival, spec, Way::default());
            tokio::task::spawn_local(forwarding);
        }
        ListenerProtocol::Tcp { .. } => {
            tokio::task::spawn_local(passing::serve(open, worker.clone(), stream, arrival, entry.clone()));
        }
        ListenerProtocol::Captured => {
            if let Some(capture) = &spec.admission.capture {
                capture::serve(open, worker, stream, arrival, (entry, capture));
            }
        }
        // Has no connections.
        ListenerProtocol::Udp { .. } => {}
        _ if spec.tls.is_none() => serve_plain(worker, open, stream.into(), arrival, (entry, &spec)),
        ListenerProtocol::Http | ListenerProtocol::Service { .. } => {
            let trusted = is_trusted(&spec, arrival.peer);
            let secured = handshake::serve(open, worker.clone(), stream, (arrival, trusted), entry.clone());
            tokio::task::spawn_local(secured);
        }
    }
}

/// Returns whether the forwarding fields of a client are believed.
fn is_trusted(spec: &ListenerSpec, peer: IpAddr) -> bool {
    spec.trusted_proxies.iter().any(|(network, length)| contains(*network, *length, peer))
}

#[cfg(test)]
mod tests {
    use super::empty_queue;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn what_is_accepted_never_blocks_and_never_waits_to_fill_a_segment() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut taken = Vec::new();
        empty_queue(&listener, |stream, peer| taken.push((stream, peer))).unwrap();
        let [(stream, peer)] = &taken[..] else { panic!("{} connections", taken.len()) };
        assert_eq!(*peer, client.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        assert!(socket2::SockRef::from(stream).nonblocking().unwrap());
    }
}
