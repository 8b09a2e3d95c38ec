//! Octets both ways between two sockets: TCP streams and HTTP tunnels.
//!
//! `proxy/direction.rs` moves them. An idle stream owns no buffer and no pipe. The end of one side is passed on when everything
//! before it was delivered; the other direction goes on. A side that takes nothing any more has often said
//! why: what it sent before is still delivered, as the kernel keeps that beyond a reset, and only then is the stream over.

use crate::net::Stream;
use crate::proxy::direction::{Direction, TURN_BYTES};
use crate::proxy::observe::ORIGINAL;
use crate::proxy::pick::Picked;
use crate::proxy::state::Worker;
use crate::proxy::streams::Place;
use crate::proxy::timer::{Deadline, ms};
use crate::telemetry::ServiceCounters;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Longest pause of a stream to an address of no service: the default of a service.
const ORIGINAL_IDLE_MS: u64 = 3_600_000;

/// A stream that broke waits for the acknowledgement of what it delivered as long as that comes on, with no longer pause than
/// this: a reset discards what the kernel still holds.
const LEAVE_MS: u64 = 5000;

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
    /// It broke: how much the kernel held of what was delivered, and until when less of it is waited for.
    leaving: Option<(usize, u64)>,
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
        Self { watch, down, up, upward, downward, moved: 0, leaving: None, end: None }
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
        let before = (upward.moved, downward.moved, upward.dropped.max(downward.dropped));
        downward.doubtful |= upward.poll(worker, down, up, cx);
        let was_taken = !downward.receiver_lost;
        upward.doubtful |= downward.poll(worker, up, down, cx);
        if was_taken && downward.receiver_lost {
            // What the client sent before may be all there.
            downward.doubtful |= upward.poll(worker, down, up, cx);
        }
        // Whatever ended the poll: what was delivered counts.
        let (received, sent) = (upward.moved - before.0, downward.moved - before.1);
        *moved = usize::try_from(received + sent).unwrap_or(usize::MAX);
        if *moved > 0 {
            watch.counters.received_bytes.add(received);
            watch.counters.sent_bytes.add(sent);
            watch.rest();
        }
        if upward.write_ended && downward.write_ended {
            return Poll::Ready(End::Closed);
        }
        if watch.place.is_due(worker.timers.now_ms()) {
            return Poll::Ready(End::Cut);
        }
        if received.max(sent).max(upward.dropped.max(downward.dropped) - before.2) > TURN_BYTES {
            // Other connections get their turn.
            cx.waker().wake_by_ref();
        }
        if upward.sender_lost || downward.sender_lost || (upward.is_over() && downward.is_over()) {
            return self.poll_leave(cx);
        }
        match watch.deadline.poll_expired(cx) {
            true if worker.timers.now_ms() >= watch.until_ms => Poll::Ready(End::Session),
            true => Poll::Ready(End::Idle),
            false => Poll::Pending,
        }
    }

    /// Waits until who is still there has acknowledged what was delivered.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Self { watch, down, up, upward, downward, leaving, .. } = self;
        let mut held = |to: &mut Stream, lost: bool| match lost {
            true => 0,
            false if to.buffers() && Pin::new(&mut *to).poll_flush(cx).is_pending() => to.queued().max(1),
            false => to.queued(),
        };
        let queued = held(down, upward.sender_lost || downward.receiver_lost)
            + held(up, downward.sender_lost || upward.receiver_lost);
        let now_ms = watch.worker.timers.now_ms();
        let (before, until_ms) = leaving.unwrap_or((usize::MAX, 0));
        let until_ms = if queued < before { now_ms + LEAVE_MS.min(watch.idle_ms) } else { until_ms };
        if queued == 0 || now_ms >= until_ms.min(watch.until_ms) {
            return Poll::Ready(End::Broken);
        }
        *leaving = Some((queued, until_ms));
        // Who is busy sending may read only after that: it is not held up.
        for direction in [upward, downward] {
            if !direction.is_over() {
                direction.give_up();
            }
        }
        // The kernel tells nobody of an acknowledgement: the next sweep looks again.
        watch.deadline.set(1);
        match watch.deadline.poll_expired(cx) {
            true => Poll::Ready(End::Broken),
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
        // Who was sent the other's end has all of it.
        let broken = self.end == Some(End::Broken);
        for (side, direction) in [(&mut *self.down, &self.downward), (&mut *self.up, &self.upward)] {
            if !(broken && direction.write_ended) {
                side.abort_on_close();
            }
        }
    }
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
