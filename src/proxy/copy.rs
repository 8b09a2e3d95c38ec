//! Octets both ways between two sockets: TCP streams and HTTP tunnels.
//!
//! Small pieces go through the worker's scratch buffer, one receive and one send. After some full reads a direction moves
//! bulk by splice(2) until little comes at once. An idle stream owns no buffer and no pipe. The end of one side is passed
//! on when everything before it was delivered; the other direction goes on.

use crate::net::Stream;
use crate::proxy::observe::ORIGINAL;
use crate::proxy::pick::Picked;
use crate::proxy::pipe::{PIPE_BYTES, Pipe};
use crate::proxy::scratch::{HEADROOM, poll_read};
use crate::proxy::state::Worker;
use crate::proxy::streams::Place;
use crate::proxy::timer::{Deadline, ms};
use crate::telemetry::ServiceCounters;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncWrite, Interest};
use tokio::task::coop::has_budget_remaining;

/// Octets moved before the other direction, and then other connections, get a turn.
const TURN_BYTES: u64 = 256 * 1024;
/// A read of so much is full: more is waiting.
const FULL_BYTES: usize = 64 * 1024;
/// After so many full reads in a row splice pays: it costs 7 % more than copying for small pieces and 55 % less for bulk.
const FULL_READS: u8 = 3;
/// Below this, copying is cheaper again.
const SMALL_BYTES: usize = 16 * 1024;

/// Longest pause of a stream to an address of no service: the default of a service.
const ORIGINAL_IDLE_MS: u64 = 3_600_000;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides closed.
    Closed,
    /// One side reset its connection; the other was reset too.
    Broken,
    /// Nothing moved for the idle time; where octets were under way both sides were reset.
    Idle,
    /// It lasted as long as it may: both sides were reset.
    Session,
    /// Its endpoint was withdrawn and the drain time passed: both sides were reset.
    Cut,
}

impl End {
    /// Returns the reason for logs and metrics; empty when it ended well.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Closed => "",
            Self::Broken => "stream_reset",
            Self::Idle => "idle_timeout",
            Self::Session => "session_timeout",
            Self::Cut => "drain_deadline",
        }
    }
}

/// What a stream is bounded by and counted in.
pub(crate) struct Watch<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) deadline: &'a Deadline,
    pub(crate) idle_ms: u64,
    /// When it is over whatever moves, by the worker's clock.
    pub(crate) until_ms: u64,
    pub(crate) counters: Arc<ServiceCounters>,
    pub(crate) place: Place,
}

impl<'a> Watch<'a> {
    /// Returns the watch of a stream to a picked endpoint.
    pub(crate) fn new(worker: &'a Worker, deadline: &'a Deadline, picked: &Picked, idle_ms: u64) -> Self {
        let mut locals = worker.locals.borrow_mut();
        let local = locals.at(picked.key.slot);
        // A service that was removed since the pick is counted nowhere and drains as the worker does.
        let drain = local.as_ref().map_or(worker.options.timeouts.drain, |local| local.service.spec.drain_timeout);
        let session = local.as_ref().and_then(|local| local.service.spec.streams.session);
        let until_ms = session.map_or(u64::MAX, |session| worker.timers.now_ms() + ms(session));
        let counters = local.map(|local| local.counters.clone()).unwrap_or_default();
        let place = worker.streams.enter(picked.key.slot, picked.key.serial, ms(drain));
        let mut reader = worker.reader.borrow_mut();
        place.begin(|| reader.load(), worker.timers.now_ms());
        drop(reader);
        Self { worker, deadline, idle_ms, until_ms, counters, place }
    }

    /// Returns the watch of a stream to an address of no service: it drains with the worker.
    pub(crate) fn original(worker: &'a Worker, deadline: &'a Deadline) -> Self {
        let place = worker.streams.enter(usize::MAX, u64::MAX, u64::MAX / 4);
        let counters = worker.shard.service(ORIGINAL);
        Self { worker, deadline, idle_ms: ORIGINAL_IDLE_MS, until_ms: u64::MAX, counters, place }
    }

    /// Waits for the idle time from now on, and no longer than the whole of it may last.
    fn rest(&self) {
        self.deadline.set_at(self.worker.timers.now_ms().saturating_add(self.idle_ms).min(self.until_ms));
    }
}

/// A stream between two sockets. What did not end by itself is reset, also when the worker stops at its drain deadline.
pub(crate) struct Relay<'a> {
    watch: Watch<'a>,
    down: &'a mut Stream,
    up: &'a mut Stream,
    upward: Direction,
    downward: Direction,
    /// Octets that the last poll delivered, both ways.
    moved: usize,
    end: Option<End>,
}

impl<'a> Relay<'a> {
    /// Begins a stream. The two vectors are octets that were read before: from the client, from the endpoint.
    pub(crate) fn new(
        watch: Watch<'a>,
        (down, up): (&'a mut Stream, &'a mut Stream),
        (from_client, from_endpoint): (Vec<u8>, Vec<u8>),
    ) -> Self {
        watch.counters.streams.add(1);
        watch.counters.streams_open.add(1);
        watch.rest();
        let (upward, downward) = (Direction::new(from_client), Direction::new(from_endpoint));
        Self { watch, down, up, upward, downward, moved: 0, end: None }
    }

    /// Moves what there is; ready when the stream has ended.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let end = self.poll_both(cx);
        if let Poll::Ready(end) = end {
            self.end = Some(end);
        }
        end
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Self { watch, down, up, upward, downward, moved, .. } = self;
        let worker = watch.worker;
        let before = (upward.moved, downward.moved);
        let polled = upward.poll(worker, down, up, cx).and_then(|()| downward.poll(worker, up, down, cx));
        // Whatever ended the poll: what was delivered counts.
        let (received, sent) = (upward.moved - before.0, downward.moved - before.1);
        *moved = usize::try_from(received + sent).unwrap_or(usize::MAX);
        if *moved > 0 {
            watch.counters.received_bytes.add(received);
            watch.counters.sent_bytes.add(sent);
            watch.rest();
        }
        if polled.is_err() {
            return Poll::Ready(End::Broken);
        }
        if upward.write_ended && downward.write_ended {
            return Poll::Ready(End::Closed);
        }
        if watch.place.is_due(worker.timers.now_ms()) {
            return Poll::Ready(End::Cut);
        }
        if received.max(sent) > TURN_BYTES {
            // Other connections get their turn.
            cx.waker().wake_by_ref();
        }
        match watch.deadline.poll_expired(cx) {
            true if worker.timers.now_ms() >= watch.until_ms => Poll::Ready(End::Session),
            true => Poll::Ready(End::Idle),
            false => Poll::Pending,
        }
    }

    /// Returns how many octets the last poll delivered, both ways.
    pub(crate) fn moved(&self) -> usize {
        self.moved
    }

    /// Returns the octets delivered to the client and to the endpoint.
    pub(crate) fn carried(&self) -> (u64, u64) {
        (self.downward.moved, self.upward.moved)
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        self.watch.counters.streams_open.sub(1);
        match self.end {
            Some(End::Closed) => return,
            // Nobody may take for the end what is only the end of the wait for a side that takes nothing.
            Some(End::Idle) if !self.upward.holds() && !self.downward.holds() => return,
            Some(End::Broken | End::Session | End::Idle) => {}
            Some(End::Cut) | None => self.watch.counters.streams_cut.add(1),
        }
        self.down.abort_on_close();
        self.up.abort_on_close();
    }
}

/// Returns whether the kernel has reported nothing to read since the task's waker was left with the socket: it is still
/// there then. Holds as long as a relay is polled by one task.
fn is_quiet(from: &Stream) -> bool {
    from.socket().is_some_and(|socket| socket.try_io(Interest::READABLE, || Ok(())).is_err())
}

/// One direction of a stream.
struct Direction {
    /// What the receiver has not taken yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    /// Octets delivered in all.
    moved: u64,
    /// Whether bulk is moved by splice.
    bulk: bool,
    /// Held only while there is something in it.
    pipe: Option<Pipe>,
    /// Full reads in a row; while bulk is moved, whether the last splice brought little.
    full_reads: u8,
    /// Whether the last poll left the task's waker with the sender's socket, and nothing else is waited for.
    waits: bool,
    read_ended: bool,
    write_ended: bool,
}

impl Direction {
    fn new(pending: Vec<u8>) -> Self {
        let (bulk, pipe, full_reads) = (false, None, 0);
        Self { pending, at: 0, moved: 0, bulk, pipe, full_reads, waits: false, read_ended: false, write_ended: false }
    }

    /// Returns whether its receiver has yet to take something.
    fn holds(&self) -> bool {
        self.at < self.pending.len() || self.pipe.is_some()
    }

    /// Moves what is there until nothing is or the turn is over.
    ///
    /// # Errors
    /// When a side is broken.
    fn poll(&mut self, worker: &Worker, from: &mut Stream, to: &mut Stream, cx: &mut Context<'_>) -> Result<(), ()> {
        if std::mem::take(&mut self.waits) && is_quiet(from) {
            self.waits = true;
            return Ok(());
        }
        let before = self.moved;
        while self.moved - before <= TURN_BYTES && !self.write_ended {
            let step = match self.bulk {
                true => self.poll_splice(worker, from, to, cx),
                false => self.poll_copy(worker, from, to, cx),
            };
            if step?.is_pending() {
                break;
            }
        }
        if to.buffers() && matches!(Pin::new(to).poll_flush(cx), Poll::Ready(Err(_))) {
            return Err(());
        }
        Ok(())
    }

    /// One receive and one send through the scratch buffer, after what was kept; pending when a side must be waited for.
    fn poll_copy(
        &mut self,
        worker: &Worker,
        from: &mut Stream,
        to: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, ()> {
        if self.poll_pending(to, cx)?.is_pending() {
            return Ok(Poll::Pending);
        }
        if self.read_ended {
            return self.poll_shutdown(to, cx);
        }
        let read = worker.with_scratch(|scratch| {
            let room = scratch.input.get_mut(HEADROOM..).unwrap_or_default();
            let most = to.room().min(room.len());
            match poll_read(from, cx, room.get_mut(..most).unwrap_or_default()) {
                Poll::Ready(Ok(n)) => self.pass(to, room.get(..n).unwrap_or_default(), cx).map(|()| Poll::Ready(n)),
                Poll::Ready(Err(_)) => Err(()),
                Poll::Pending => Ok(Poll::Pending),
            }
        })?;
        match read {
            Poll::Pending => {
                // Without a budget the runtime has not kept the waker.
                self.waits = from.socket().is_some() && has_budget_remaining();
                return Ok(Poll::Pending);
            }
            Poll::Ready(0) => self.read_ended = true,
            Poll::Ready(n) if n < FULL_BYTES => self.full_reads = 0,
            Poll::Ready(_) if self.full_reads < FULL_READS => self.full_reads += 1,
            Poll::Ready(_) if self.pending.is_empty() && from.socket().is_some() && to.socket().is_some() => {
                self.bulk = true;
                self.full_reads = 0;
            }
            Poll::Ready(_) => {}
        }
        Ok(Poll::Ready(()))
    }

    /// Writes what came at once; only what the receiver does not take is kept.
    fn pass(&mut self, to: &mut Stream, octets: &[u8], cx: &mut Context<'_>) -> Result<(), ()> {
        if octets.is_empty() {
            return Ok(());
        }
        let written = match Pin::new(to).poll_write(cx, octets) {
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Err(()),
            Poll::Pending => 0,
        };
        self.moved += written as u64;
        self.pending.extend_from_slice(octets.get(written..).unwrap_or_default());
        Ok(())
    }

    /// Writes what was kept; pending while some is left.
    fn poll_pending(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Result<Poll<()>, ()> {
        while let Some(rest) = self.pending.get(self.at..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.at += n;
                    self.moved += n as u64;
                }
                Poll::Ready(_) => return Err(()),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        if self.pending.capacity() > 0 {
            self.pending = Vec::new();
        }
        self.at = 0;
        Ok(Poll::Ready(()))
    }

    /// Half-closes the receiver once its sender has ended and everything was delivered.
    fn poll_shutdown(&mut self, to: &mut Stream, cx: &mut Context<'_>) -> Result<Poll<()>, ()> {
        match Pin::new(to).poll_shutdown(cx) {
            Poll::Ready(Ok(())) => {
                self.write_ended = true;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(_)) => Err(()),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// One splice from the sender into a pipe, or from the pipe to the receiver. Both wait for readiness first, so that no
    /// call is made in vain twice.
    fn poll_splice(
        &mut self,
        worker: &Worker,
        from: &Stream,
        to: &Stream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, ()> {
        let (Some(from), Some(to)) = (from.socket(), to.socket()) else { return Err(()) };
        let drains = self.pipe.is_some();
        match if drains { to.poll_write_ready(cx) } else { from.poll_read_ready(cx) } {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(()),
            Poll::Pending => return Ok(Poll::Pending),
        }
        let Some(mut pipe) = self.pipe.take().or_else(|| worker.pipes.take()) else {
            // Enough streams move bulk already: this one copies.
            self.bulk = false;
            return Ok(Poll::Ready(()));
        };
        let moved = match drains {
            true => to.try_io(Interest::WRITABLE, || pipe.drain_to(to)),
            false => from.try_io(Interest::READABLE, || pipe.fill_from(from, PIPE_BYTES)),
        };
        match (moved, drains) {
            (Ok(0), true) => return Err(()),
            (Ok(n), true) => {
                self.moved += n as u64;
                // Little came last: copying is cheaper from here on.
                self.bulk = pipe.fill() > 0 || self.full_reads == 0;
            }
            (Ok(0), false) => {
                self.read_ended = true;
                self.bulk = false;
            }
            (Ok(n), false) => self.full_reads = u8::from(n < SMALL_BYTES),
            // The readiness is cleared: the next round waits for it.
            (Err(error), _) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            (Err(_), _) => return Err(()),
        }
        if !self.bulk {
            self.full_reads = 0;
        }
        self.pipe = Some(pipe).filter(|pipe| pipe.fill() > 0);
        Ok(Poll::Ready(()))
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
