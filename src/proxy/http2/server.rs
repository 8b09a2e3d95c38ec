//! A client's HTTP/2 connection: octets into the codec and out of it, lanes for its streams, and an end in two steps.
//!
//! One task reads and writes the socket; each lane is another, that serves one stream after the other. A turn reads what is
//! there, wakes the lanes that something came for, and writes what all of them have put into the buffer, with one call.

use crate::clock;
use crate::http1::head as head1;
use crate::http2::connection::{Config, Connection};
use crate::http2::meter::{Bounds, Breach};
use crate::http2::streams::Failure;
use crate::net::Stream;
use crate::proxy::http2::lane::{Hub, Lane};
use crate::proxy::patience::{Pace, Patience};
use crate::proxy::scratch::poll_read;
use crate::proxy::timer::{Deadline, Timers};
use crate::telemetry::Shard;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// After the last stream and GOAWAY, and after a breach, the peer gets so long.
const CLOSE_MS: u64 = 1000;
/// So much is read and thrown away meanwhile, so that GOAWAY is not lost to a reset.
const LINGER_BYTES: usize = 256 * 1024;
/// A buffer that is larger is not kept for the next part of a frame.
const KEPT_BYTES: usize = 1024;
/// Reads of one turn, before other connections get theirs.
const READS: usize = 4;

/// What a connection needs of its worker.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) timers: Rc<Timers>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) limits: head1::Limits,
    pub(crate) streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) bounds: Bounds,
    /// Time for the preface and the first request, and for each head.
    pub(crate) head_ms: u64,
    pub(crate) keepalive_ms: u64,
    /// How fast the peer takes what is to be sent, at least.
    pub(crate) pace: Pace,
    pub(crate) drain_idle_ms: u64,
}

/// What only the caller can do.
pub(crate) trait Host {
    /// Serves a lane, in a task of its own.
    fn open(&self, lane: Stream);
    /// Returns 128 random bits.
    fn random(&self) -> u128;
    /// Returns since when connections end with their next answer.
    fn ending_since(&self) -> Option<u64>;
    /// Lends a buffer to read into, larger than a frame.
    fn lend(&self, work: &mut dyn FnMut(&mut [u8]));
}

/// Serves a connection to its end. `front` was read already, from the preface on.
pub(crate) async fn serve(terms: Terms, (stream, front): (Stream, Vec<u8>), deadline: Deadline, host: impl Host) {
    let config = Config {
        streams: terms.streams,
        stream_window: terms.stream_window,
        connection_window: terms.connection_window,
        head_bytes: terms.limits.head_bytes,
        head_fields: terms.limits.fields,
        bounds: terms.bounds,
    };
    let limits = head1::Limits {
        // The request path bounds what it writes; this only must not be less.
        head_bytes: terms.limits.head_bytes + 16 * 1024,
        fields: terms.limits.fields + 32,
        target_bytes: terms.limits.target_bytes,
    };
    let hub = Rc::new(Hub::new(Connection::new(config), terms.shard.clone(), limits));
    let mut server = Server {
        hub: hub.clone(),
        stream,
        fresh: !front.is_empty(),
        front,
        deadline,
        host,
        state: State::Open,
        begun: false,
        last: 0,
        patience: Patience::default(),
        written: 0,
        blocked_until_ms: None,
        head_ms: None,
        idle_until_ms: terms.timers.now_ms() + terms.head_ms,
        goaway_ms: 0,
        unflushed: false,
        ended: false,
        notices: Vec::new(),
        terms,
    };
    let shard = server.terms.shard.clone();
    poll_fn(|cx| {
        let polled = server.poll(cx);
        shard.turns.ended(clock::now_ns());
        polled
    })
    .await;
    drop(server);
    hub.close();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// GOAWAY was sent: what runs ends.
    Leaving,
    /// Nothing but what is in the buffer is still to be sent; what comes is thrown away, so much at most.
    Closing(usize),
}

/// The connection is over.
struct Over;

struct Server<H> {
    terms: Terms,
    hub: Rc<Hub>,
    stream: Stream,
    /// What was read and holds no whole frame.
    front: Vec<u8>,
    /// Nobody has looked at `front` yet.
    fresh: bool,
    deadline: Deadline,
    host: H,
    state: State,
    /// A stream has come.
    begun: bool,
    /// The highest stream that was seen.
    last: u32,
    /// While the peer has yet to take something of what is to be sent.
    patience: Patience,
    /// Octets that the socket took.
    written: u64,
    /// So long it is waited for that.
    blocked_until_ms: Option<u64>,
    /// Since when a head waits for its end.
    head_ms: Option<u64>,
    /// So long the connection may be idle.
    idle_until_ms: u64,
    /// When GOAWAY was sent.
    goaway_ms: u64,
    unflushed: bool,
    /// Our side of the socket is closed.
    ended: bool,
    notices: Vec<usize>,
}

impl<H: Host> Server<H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.hub.runs(cx);
        if self.turn(cx).is_err() {
            return Poll::Ready(());
        }
        self.set_deadline(cx);
        if self.deadline.poll_expired(cx) { self.expired(cx) } else { Poll::Pending }
    }

    /// Writes and reads until there is neither.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let mut more = true;
        for _ in 0..READS {
            self.write(cx)?;
            more = self.read(cx)?;
            self.distribute();
            self.look_for_the_end();
            if !more {
                break;
            }
        }
        self.write(cx)?;
        // What was sent may have made room for more.
        self.distribute();
        if more {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// Writes what waits, all of it with one call where the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Over> {
        let mut codec = self.hub.codec.borrow_mut();
        while !codec.pending().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, codec.pending()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    codec.wrote(n);
                    self.written += n as u64;
                    self.unflushed = self.stream.buffers();
                }
                Poll::Ready(_) => return Err(Over),
                Poll::Pending => {
                    let now = self.terms.timers.now_ms();
                    let until = self.patience.until(now, self.terms.pace, self.written, || self.stream.queued());
                    self.blocked_until_ms = Some(until);
                    return Ok(());
                }
            }
        }
        drop(codec);
        if self.blocked_until_ms.take().is_some() {
            self.patience.rest();
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Over),
                Poll::Pending => return Ok(()),
            }
        }
        if matches!(self.state, State::Closing(_)) && !self.ended {
            // Where the socket is gone, reading tells.
            self.ended = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
        }
        Ok(())
    }

    /// Reads once and hands it to the codec; returns whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Over> {
        // Who takes nothing is not read from; its taking something wakes this task.
        if self.hub.codec.borrow().is_clogged() {
            return Ok(false);
        }
        let Self { host, terms, hub, front, stream, state, fresh, .. } = self;
        let mut result = Ok(false);
        host.lend(&mut |buffer| {
            let have = front.len();
            if let Some(place) = buffer.get_mut(..have) {
                place.copy_from_slice(front);
            }
            let came = match poll_read(stream, cx, buffer.get_mut(have..).unwrap_or_default()) {
                Poll::Ready(Ok(n)) if n > 0 => n,
                Poll::Pending if !*fresh => return,
                Poll::Ready(_) if !*fresh => {
                    result = Err(Over);
                    return;
                }
                _ => 0,
            };
            *fresh = false;
            let octets = buffer.get(..have + came).unwrap_or_default();
            front.clear();
            result = Ok(true);
            if let State::Closing(left) = state {
                match left.checked_sub(came) {
                    Some(rest) => *left = rest,
                    None => result = Err(Over),
                }
                return;
            }
            let used = hub.codec.borrow_mut().receive(octets, terms.timers.now_ms(), &mut || host.random());
            let rest = octets.get(used..).unwrap_or_default();
            // An idle connection holds no buffer.
            if rest.is_empty() && front.capacity() > KEPT_BYTES {
                *front = Vec::new();
            }
            front.extend_from_slice(rest);
        });
        result
    }

    /// Gives streams to lanes, wakes those that something came for, and counts what was refused.
    fn distribute(&mut self) {
        let mut codec = self.hub.codec.borrow_mut();
        while let Some(reason) = codec.take_refusal() {
            self.terms.shard.refused(reason);
        }
        while let Some(slot) = codec.take_unowned() {
            self.host.open(Stream::Layered(Box::new(Lane::new(self.hub.clone(), slot))));
        }
        codec.take_notices(&mut self.notices);
        drop(codec);
        for slot in self.notices.drain(..) {
            self.hub.wake_lane(slot);
        }
    }

    /// Looks whether nothing more is to be served.
    fn look_for_the_end(&mut self) {
        if matches!(self.state, State::Closing(_)) {
            return;
        }
        let codec = self.hub.codec.borrow();
        let failure = codec.failure();
        let left = codec.has_left() && codec.busy() == 0;
        drop(codec);
        if let Some(failure) = failure {
            self.say(failure);
        }
        if failure.is_some() || left {
            self.state = State::Closing(LINGER_BYTES);
            self.deadline.set(CLOSE_MS);
        }
    }

    /// Sets how long what is waited for now may take.
    fn set_deadline(&mut self, cx: &Context<'_>) {
        if matches!(self.state, State::Closing(_)) {
            return;
        }
        let now = self.terms.timers.now_ms();
        if let Some(since) = self.host.ending_since()
            && self.state == State::Open
        {
            self.leave(cx);
            self.idle_until_ms = since + self.terms.drain_idle_ms;
        }
        let codec = self.hub.codec.borrow();
        let (busy, last, left) = (codec.busy(), codec.last_stream(), codec.has_left());
        let waits = codec.awaits_head() && self.last > 0;
        drop(codec);
        let moved = std::mem::replace(&mut self.last, last) != last || (waits && self.head_ms.is_none());
        self.head_ms = if waits { Some(self.head_ms.unwrap_or(now)) } else { None };
        if busy > 0 {
            self.begun = true;
            let head = self.head_ms.map_or(u64::MAX, |since| since + self.terms.head_ms);
            // The client may never say that it has seen the first GOAWAY.
            let unsure = self.state == State::Leaving && !left;
            let leaving = if unsure { self.goaway_ms + CLOSE_MS } else { u64::MAX };
            let blocked = self.blocked_until_ms.unwrap_or(now + self.terms.pace.window_ms);
            self.deadline.set_at(blocked.min(head).min(leaving));
            return;
        }
        if moved || std::mem::take(&mut self.begun) {
            let wait = if self.state == State::Leaving { CLOSE_MS } else { self.terms.keepalive_ms };
            self.idle_until_ms = now + if self.head_ms.is_some() { wait.min(self.terms.head_ms) } else { wait };
        }
        self.deadline.set_at(self.idle_until_ms.min(self.blocked_until_ms.unwrap_or(u64::MAX)));
    }

    fn expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.terms.timers.now_ms();
        let since = |at: Option<u64>, limit: u64| at.is_some_and(|at| at + limit <= now);
        if self.blocked_until_ms.is_some_and(|until| until <= now) {
            if self.patience.renew(now, self.terms.pace, self.written, self.stream.queued()) {
                self.blocked_until_ms = Some(now + self.terms.pace.window_ms);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.say(Failure::Breach(Breach::Stalled));
            self.stream.abort_on_close();
            return Poll::Ready(());
        }
        let mut codec = self.hub.codec.borrow_mut();
        match self.state {
            State::Closing(_) => return Poll::Ready(()),
            _ if since(self.head_ms, self.terms.head_ms) => codec.breach(Breach::SlowHead),
            State::Leaving => codec.leave_finally(),
            State::Open if codec.busy() > 0 => {}
            State::Open if codec.last_stream() == 0 && codec.awaits_head() => {
                self.terms.shard.refused("h2_preface");
                return Poll::Ready(());
            }
            State::Open => {
                drop(codec);
                self.leave(cx);
                self.idle_until_ms = now + CLOSE_MS;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Asks the client to open nothing more.
    fn leave(&mut self, cx: &Context<'_>) {
        self.hub.codec.borrow_mut().leave();
        self.state = State::Leaving;
        self.goaway_ms = self.terms.timers.now_ms();
        cx.waker().wake_by_ref();
    }

    fn say(&self, failure: Failure) {
        let reason = match failure {
            Failure::Preface => "h2_preface",
            Failure::Fault(_) => "h2_protocol",
            Failure::Breach(breach) => breach.reason(),
        };
        self.terms.shard.refused(reason);
        if failure != Failure::Preface {
            tracing::info!(reason, ?failure, "HTTP/2 connection ended");
        }
    }
}
