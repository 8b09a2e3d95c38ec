//! A worker's state: what its thread owns and its tasks share.

use crate::clock;
use crate::http1::head;
use crate::lifecycle::Signal;
use crate::proxy::admission::{Admissions, Place};
use crate::proxy::apart::Apart;
use crate::proxy::entry::Entry;
use crate::proxy::known::Known;
use crate::proxy::local::Locals;
use crate::proxy::memory::Memory;
use crate::proxy::options::Options;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::partial::PartialHeads;
use crate::proxy::pipe::Pipes;
use crate::proxy::pool::Pool;
use crate::proxy::scratch::Scratch;
use crate::proxy::spread::{Handed, Seat, Spread};
use crate::proxy::streams::Streams;
use crate::proxy::timer::{Timers, ms};
use crate::proxy::tls::{Tls, Underway};
use crate::rng::Rng;
use crate::table::certificates::Challenges;
use crate::table::{Reader, Table};
use crate::telemetry::{AccessLog, Metrics, Shard};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use tokio::sync::{Notify, mpsc};

/// Buffers kept for reuse by one worker.
const MAX_BUFFERS: usize = 256;
/// A piece of a stream up to this size takes about as long as its two system calls.
const SMALL_PIECE_BYTES: usize = 4096;
/// Of what requests are served in, some 2 KiB each: about as many as are under way at once on a busy worker.
const MAX_SPARES: usize = 256;
/// A buffer that grew beyond this is given back to the allocator.
const MAX_BUFFER_BYTES: usize = 128 * 1024;

/// What workers need beside their sockets.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) table: Table,
    pub(crate) metrics: Metrics,
    pub(crate) access: Option<AccessLog>,
    pub(crate) tls: Tls,
    pub(crate) challenges: Challenges,
    pub(crate) signal: Signal,
    pub(crate) spread: Arc<Spread>,
    pub(crate) admissions: Admissions,
    pub(crate) outgoing: Outgoing,
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
    pub(crate) streams: Rc<Streams>,
    pub(crate) pipes: Rc<Pipes>,
    pub(crate) heads: Rc<PartialHeads>,
    pub(crate) memory: Memory,
    pub(crate) shard: Arc<Shard>,
    pub(crate) access: Option<AccessLog>,
    /// How listeners speak TLS.
    pub(crate) tls: Tls,
    /// What is answered to authorities.
    pub(crate) challenges: Challenges,
    /// Its handshakes.
    pub(crate) underway: Underway,
    scratch: Cell<Option<Box<Scratch>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// What requests are served in and is free now; of types that only the protocol engine knows.
    spares: [RefCell<Vec<Box<dyn Any>>>; 2],
    pub(crate) open: Cell<usize>,
    /// Flows of datagrams of all its listeners.
    pub(crate) flows: Cell<usize>,
    pub(crate) spread: Arc<Spread>,
    /// Counts the connections of listeners that bound them.
    pub(crate) admissions: Admissions,
    /// Knows connections of its own that come back.
    pub(crate) outgoing: Outgoing,
    /// Which service has the address that a captured connection was going to.
    pub(crate) captured: RefCell<Known>,
    /// What captured connections that speak HTTP share.
    pub(crate) apart: Apart,
    /// What other workers see of this one.
    pub(crate) seat: Arc<Seat>,
    handed: Cell<Option<mpsc::Receiver<Handed>>>,
    /// When the drain began; 0 before.
    draining_ms: Cell<u64>,
    /// Told when a connection opens or closes.
    pub(crate) changed: Notify,
    /// Told when the drain begins.
    drained: Notify,
}

/// What is used again for the next request, of whatever connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    /// The state of its course.
    Exchange,
    /// Its parsed form.
    Request,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: &Shared, shard: Arc<Shard>) -> Self {
        let options = shared.options.clone();
        let (seat, handed) = shared.spread.join();
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
            streams: Rc::default(),
            pipes: Rc::default(),
            shard,
            heads: Rc::default(),
            memory: Memory::new(options.limits.memory_bytes),
            access: shared.access.clone(),
            tls: shared.tls.clone(),
            challenges: shared.challenges.clone(),
            underway: Underway::default(),
            scratch: Cell::new(None),
            buffers: RefCell::default(),
            spares: Default::default(),
            open: Cell::new(0),
            flows: Cell::new(0),
            spread: shared.spread.clone(),
            admissions: shared.admissions.clone(),
            outgoing: shared.outgoing.clone(),
            captured: RefCell::default(),
            apart: Apart::default(),
            seat,
            handed: Cell::new(Some(handed)),
            draining_ms: Cell::new(0),
            changed: Notify::new(),
            drained: Notify::new(),
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

    fn spares_of(&self, kind: Spare) -> &RefCell<Vec<Box<dyn Any>>> {
        let [exchanges, requests] = &self.spares;
        match kind {
            Spare::Exchange => exchanges,
            Spare::Request => requests,
        }
    }

    /// Says that a piece of work has ended.
    pub(crate) fn turn_ended(&self) {
        self.shard.turns.ended(clock::now_ns());
    }

    /// Says that a stream was served and that so many octets moved.
    pub(crate) fn piece_ended(&self, octets: usize) {
        if octets > SMALL_PIECE_BYTES || self.shard.turns.takes_piece() {
            self.turn_ended();
        }
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

    /// Takes what a request was served in before, if there is one.
    pub(crate) fn take_spare<T: 'static>(&self, kind: Spare) -> Option<Box<T>> {
        self.spares_of(kind).borrow_mut().pop()?.downcast().ok()
    }

    /// Gives it back for the next request.
    pub(crate) fn give_spare(&self, kind: Spare, spare: Box<dyn Any>) {
        let mut spares = self.spares_of(kind).borrow_mut();
        if spares.len() < MAX_SPARES {
            spares.push(spare);
        }
    }

    /// Returns whether the retry budget of a service has one left; counts it when not.
    pub(crate) fn affords_retry(&self, slot: usize) -> bool {
        let mut locals = self.locals.borrow_mut();
        let Some(local) = locals.at(slot) else { return false };
        let affords = local.budget.affords(self.timers.now_ms());
        if !affords {
            local.counters.retries_refused.add(1);
        }
        affords
    }

    /// Counts a request that waits for a free replica.
    pub(crate) fn counted_queued(&self, slot: usize) {
        if let Some(local) = self.locals.borrow_mut().at(slot) {
            local.counters.queued.add(1);
        }
    }

    /// Counts a request or stream that waits for a first replica.
    pub(crate) fn counted_held(&self, slot: usize) {
        if let Some(local) = self.locals.borrow_mut().at(slot) {
            local.counters.held.add(1);
        }
    }

    /// Returns when the drain began, if it did.
    pub(crate) fn draining_since(&self) -> Option<u64> {
        Some(self.draining_ms.get()).filter(|&at| at != 0)
    }

    /// Returns since when connections of a listener end with their next response: the worker drains, or it was removed.
    pub(crate) fn ending_since(&self, entry: &Entry) -> Option<u64> {
        self.draining_since().or_else(|| entry.removed_since())
    }

    /// Begins the drain: idle connections look at it when they are polled.
    pub(crate) fn drain(&self) {
        self.timers.set_now(clock::now_ms());
        self.draining_ms.set(self.timers.now_ms());
        self.spread.leave(&self.seat);
        self.drained.notify_waiters();
        self.timers.wake_all();
        // Accept loops at the bound of connections wait for one to end: now they empty their queues.
        self.changed.notify_waiters();
    }

    /// Takes the end where other workers' connections arrive; there once.
    pub(crate) fn take_handed(&self) -> Option<mpsc::Receiver<Handed>> {
        self.handed.take()
    }

    /// Waits until the drain has begun.
    pub(crate) async fn draining(&self) {
        while self.draining_since().is_none() {
            self.drained.notified().await;
        }
    }

    /// Waits until no connection is open.
    pub(crate) async fn idle(&self) {
        while self.open.get() > 0 {
            self.changed.notified().await;
        }
    }
}

/// Counts a connection as open until dropped, also when its task panics.
pub(crate) struct Open {
    worker: Rc<Worker>,
    /// Its place among the connections of a listener that bounds them.
    place: Option<Box<Place>>,
}

impl Open {
    pub(crate) fn new(worker: &Rc<Worker>) -> Self {
        worker.seat.opened();
        Self::counted(worker)
    }

    /// As [`Open::new`], for a connection that was counted for the other workers when it was handed on.
    pub(crate) fn counted(worker: &Rc<Worker>) -> Self {
        // The sweep sleeps while nothing is open: the coarse clock may be old.
        worker.timers.set_now(clock::now_ms());
        worker.open.set(worker.open.get() + 1);
        worker.shard.accepted.add(1);
        worker.shard.open.add(1);
        worker.changed.notify_waiters();
        Self { worker: worker.clone(), place: None }
    }
}

impl Open {
    /// Keeps a place until the connection ends.
    pub(crate) fn keep(&mut self, place: Option<Place>) {
        self.place = place.map(Box::new);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.seat.closed();
        self.worker.open.set(self.worker.open.get() - 1);
        self.worker.shard.open.sub(1);
        if thread::panicking() {
            self.worker.shard.panics.add(1);
        }
        self.worker.changed.notify_waiters();
    }
}
