//! One flow of datagrams: its socket to the endpoint, and what it shares with the others of its listener. See `datagram.rs`.

use crate::clock;
use crate::model::UdpSpec;
use crate::proxy::copy::Watch;
use crate::proxy::entry::Entry;
use crate::proxy::observe::StreamSummary;
use crate::proxy::pick::Picked;
use crate::proxy::state::Worker;
use crate::proxy::streams::Place;
use crate::proxy::timer::{Deadline, ms};
use crate::rng::Rng;
use crate::sys::accept::watch_datagrams;
use crate::sys::datagram::{BATCH, Batch, Peer, receive_merged, send_merged};
use crate::telemetry::ServiceCounters;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

/// A flow whose client sent but one datagram ends after this: enough for an answer, too little to fill the table for long.
const YOUNG_MS: u64 = 10_000;
/// The least that a socket is asked for.
const LEAST: usize = 4;
/// Batches of answers that a flow passes on before others get a turn.
const TURNS: usize = 4;

/// Whose datagrams they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) client: SocketAddr,
    /// Which of our addresses they were sent to, where the listener has all.
    pub(crate) local: Option<IpAddr>,
}

/// What the flows of one listener on one worker share.
pub(crate) struct Shared {
    pub(crate) worker: Rc<Worker>,
    pub(crate) entry: Rc<Entry>,
    pub(crate) socket: AsyncFd<UdpSocket>,
    /// Borrowed within one poll.
    pub(crate) batch: RefCell<Batch>,
    /// Of the listener's own socket.
    pub(crate) asked: Asked,
}

/// How many datagrams a socket is asked for at a time: as many as it had lately, and one more, which says that there are no more.
#[derive(Debug)]
pub(crate) struct Asked(Cell<usize>);

impl Default for Asked {
    fn default() -> Self {
        Self(Cell::new(LEAST))
    }
}

impl Asked {
    pub(crate) fn most(&self) -> usize {
        self.0.get()
    }

    /// Notes how many came; returns whether there may be more.
    pub(crate) fn took(&self, count: usize) -> bool {
        let asked = self.0.get();
        let next = if count == asked { 4 * asked } else { asked.min(asked / 2 + count) };
        self.0.set(next.clamp(LEAST, BATCH));
        count == asked
    }
}

/// One flow.
pub(crate) struct Flow {
    pub(crate) id: u64,
    pub(crate) key: Key,
    /// Where answers go, from the address that was asked.
    peer: Peer,
    pub(crate) upstream: AsyncFd<UdpSocket>,
    pub(crate) picked: Picked,
    pub(crate) place: Place,
    deadline: Deadline,
    idle_ms: Cell<u64>,
    counters: Arc<ServiceCounters>,
    /// Datagrams that came of the client.
    came: Cell<u64>,
    received_bytes: Cell<u64>,
    sent_bytes: Cell<u64>,
    /// Why it ended; empty: nothing came any more.
    pub(crate) reason: Cell<&'static str>,
    pub(crate) task: RefCell<Option<AbortHandle>>,
    started: Instant,
    /// Whether datagrams may leave as one: to the endpoint, to the client.
    pub(crate) merges: (Cell<bool>, Cell<bool>),
    asked: Asked,
}

impl Flow {
    pub(crate) fn new(
        worker: &Worker,
        (key, id): (Key, u64),
        peer: Peer,
        upstream: AsyncFd<UdpSocket>,
        picked: Picked,
    ) -> Self {
        let deadline = worker.timers.register();
        let Watch { counters, place, .. } = Watch::new(worker, &deadline, &picked, 0);
        counters.streams.add(1);
        counters.streams_open.add(1);
        Self {
            id,
            key,
            peer,
            upstream,
            picked,
            place,
            deadline,
            idle_ms: Cell::new(YOUNG_MS),
            counters,
            came: Cell::new(0),
            received_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
            reason: Cell::new(""),
            task: RefCell::default(),
            started: clock::now(),
            merges: (Cell::new(true), Cell::new(true)),
            asked: Asked::default(),
        }
    }

    /// Returns whether its client sent more than one datagram.
    pub(crate) fn goes_on(&self) -> bool {
        self.came.get() > 1
    }

    /// Returns for how long nothing has come of either side.
    pub(crate) fn silent_ms(&self) -> u64 {
        self.idle_ms.get().saturating_sub(self.deadline.left_ms())
    }

    /// Counts what was passed on to the endpoint.
    pub(crate) fn came(&self, datagrams: &[&[u8]], spec: &UdpSpec) {
        let octets = datagrams.iter().map(|datagram| datagram.len() as u64).sum();
        self.came.set(self.came.get() + datagrams.len() as u64);
        self.received_bytes.set(self.received_bytes.get() + octets);
        self.counters.received_bytes.add(octets);
        self.counters.datagrams_in.add(datagrams.len() as u64);
        let idle_ms = ms(spec.idle);
        self.idle_ms.set(if self.goes_on() { idle_ms } else { idle_ms.min(YOUNG_MS) });
        self.deadline.set(self.idle_ms.get());
    }

    /// Passes on what the endpoint sent; ready with why the flow has ended.
    pub(crate) fn poll(&self, shared: &Shared, cx: &mut Context<'_>) -> Poll<io::Result<&'static str>> {
        let mut turns = 0;
        while let Poll::Ready(ready) = self.upstream.poll_read_ready(cx) {
            let mut ready = ready?;
            if !self.answer(shared)? {
                // What comes from now on makes the socket ready again.
                ready.clear_ready();
            }
            turns += 1;
            if turns > TURNS {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if self.place.is_due(shared.worker.timers.now_ms()) {
            self.cut();
            return Poll::Ready(Ok("drain_deadline"));
        }
        if self.deadline.poll_expired(cx) { Poll::Ready(Ok("")) } else { Poll::Pending }
    }

    /// Takes a batch from the endpoint and sends it to the client; returns whether there may be more.
    fn answer(&self, shared: &Shared) -> io::Result<bool> {
        let mut batch = shared.batch.borrow_mut();
        let count = match batch.receive_some(self.upstream.get_ref(), self.asked.most(), false) {
            // Somebody on the way told of a shorter one: the endpoint is well, and the kernel knows it now.
            Err(error) if is_too_long(&error) => return Ok(true),
            received => received?,
        };
        let goes_on = self.asked.took(count);
        if count == 0 {
            return Ok(false);
        }
        let (mut datagrams, mut length): ([&[u8]; BATCH], _) = ([&[]; BATCH], 0);
        let (mut octets, mut all) = (0, 0);
        for piece in (0..count).flat_map(|index| batch.pieces(index)) {
            if length == BATCH {
                self.pass_back(shared, &datagrams);
                length = 0;
            }
            if let Some(place) = datagrams.get_mut(length) {
                *place = piece;
            }
            (length, all, octets) = (length + 1, all + 1, octets + piece.len() as u64);
        }
        self.pass_back(shared, datagrams.get(..length).unwrap_or_default());
        self.sent_bytes.set(self.sent_bytes.get() + octets);
        self.counters.sent_bytes.add(octets);
        self.counters.datagrams_out.add(all);
        self.deadline.set(self.idle_ms.get());
        shared.worker.piece_ended(octets as usize);
        Ok(goes_on)
    }

    /// Sends datagrams to the client. What its way does not take is lost, as it would be on that way.
    fn pass_back(&self, shared: &Shared, datagrams: &[&[u8]]) {
        let mut left = datagrams;
        while !left.is_empty() {
            let sent = send_merged(shared.socket.get_ref(), left, Some(&self.peer), &self.merges.1).unwrap_or(0);
            if sent == 0 {
                shared.worker.shard.refused("udp_send");
            }
            left = left.get(sent.max(1)..).unwrap_or_default();
        }
    }

    /// Counts that it ended at its endpoint's drain deadline.
    pub(crate) fn cut(&self) {
        self.counters.streams_cut.add(1);
    }

    /// Counts its end, and returns how it ended.
    pub(crate) fn ended(&self) -> StreamSummary {
        self.counters.streams_open.sub(1);
        StreamSummary {
            started: self.started,
            connected: self.started,
            endpoint: Some(self.picked.address),
            reason: self.reason.get(),
            attempts: 1,
            sent_bytes: self.sent_bytes.get(),
            received_bytes: self.received_bytes.get(),
        }
    }
}

/// A datagram was longer than the way takes.
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// It is this machine that does not take a datagram now: a buffer is full, or the kernel's table of connections, or a rule of a
/// firewall drops it.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EPERM))
}

/// Returns the flow that a received datagram belongs to.
pub(crate) fn key(batch: &Batch, index: usize) -> Option<Key> {
    let (_, peer) = batch.received(index)?;
    let client = peer.address()?;
    Some(Key { client: SocketAddr::new(client.ip().to_canonical(), client.port()), local: peer.local() })
}

/// Returns a number for an address, the same everywhere.
pub(crate) fn number(address: SocketAddr) -> u64 {
    let bits = match address.ip().to_canonical() {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    [low, u64::from(address.port())].iter().fold(high, |seed, word| Rng::from_seed(seed ^ word).next_u64())
}

/// Makes a nonblocking socket that is connected to an endpoint.
pub(crate) fn connected(to: SocketAddr) -> io::Result<AsyncFd<UdpSocket>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(to)?;
    // Where the kernel cannot, they come one by one.
    let _ = receive_merged(&socket);
    watch_datagrams(socket)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn an_address_has_the_same_number_in_every_form_and_build() {
        let of = |text: &str| number(text.parse().unwrap());
        assert_eq!(of("10.0.0.1:53"), of("[::ffff:10.0.0.1]:53"));
        assert!(of("10.0.0.1:53") != of("10.0.0.1:54") && of("10.0.0.1:53") != of("10.0.0.2:53"));
    }
}
