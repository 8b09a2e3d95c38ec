//! The server's side of one connection: its state, and what its driver asks of it.
//!
//! The driver hands in what was read ([`Connection::receive`]), takes what is to be written ([`Connection::pending`]), gives
//! each stream an owner ([`Connection::take_unowned`]) and wakes those that have something to do
//! ([`Connection::take_notices`]). Everything is bounded: streams, heads, data that came, and what waits to be sent.

use crate::http2::frame::{self, Code, HEADERS, PING};
use crate::http2::hpack::{Decoder, Encoder};
use crate::http2::meter::{Bounds, Breach, Meter};
use crate::http2::request::Writer;
use crate::http2::settings::{self, DEFAULT_TABLE, DEFAULT_WINDOW, Settings};
use crate::http2::streams::{Closed, Failure, Past, Slot};
use std::collections::VecDeque;

/// Octets of frames that wait for the socket; data that would come above this waits with its stream.
pub(super) const OUT_BYTES: usize = 64 * 1024;
/// Everything that waits to be sent on one connection stays below this, but for the heads of answers.
const HELD_BYTES: usize = 256 * 1024;
/// Every stream may read so much of its answer at any time: its head, at least.
const LEAST_ROOM: usize = 1024;
/// What a TLS session below may hold of what was written.
const BELOW_BYTES: usize = 64 * 1024;
/// What GOAWAY's first step is told apart by: the answer to this says that the client has seen it.
pub(super) const LEAVING: [u8; 8] = *b"leaving!";

/// What a connection is bounded by, and announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Streams at one time.
    pub streams: u32,
    /// Octets of one request's body that may come before they are taken.
    pub stream_window: u32,
    /// The same for all requests.
    pub connection_window: u32,
    /// Octets of the fields of one request, with 32 for each field; and of a block of them that comes in pieces.
    pub head_bytes: usize,
    /// Fields of one request, cookies apart.
    pub head_fields: usize,
    /// Bounds on what is legal one frame at a time.
    pub bounds: Bounds,
}

/// How far the way out has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY was sent that refuses nothing.
    Announced,
    /// GOAWAY was sent with the last stream that is served.
    Final(u32),
}

/// What comes next from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Preface,
    Settings,
    Open,
}

/// A head of which the end has not come.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// 0: there is none.
    pub(super) stream: u32,
    pub(super) ends: bool,
    /// What is wrong with its stream whatever the block says.
    pub(super) fault: Option<Code>,
    pub(super) octets: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Config,
    pub(super) phase: Phase,
    pub(super) decoder: Decoder,
    pub(super) writer: Writer,
    pub(super) block: Block,
    pub(super) encoder: Encoder,
    pub(super) meter: Meter,
    pub(super) peer: Settings,
    /// Our settings were agreed to.
    pub(super) agreed: bool,
    pub(super) out: Vec<u8>,
    pub(super) out_at: usize,
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    /// What was taken and not given back to the peer.
    pub(super) taken: u32,
    pub(super) slots: Vec<Slot>,
    /// Slots whose owner waits for a stream.
    pub(super) free: Vec<usize>,
    /// Slots without an owner.
    pub(super) vacant: Vec<usize>,
    /// Open streams in order, and their slots.
    pub(super) index: Vec<(u32, usize)>,
    pub(super) closed: Closed,
    /// The highest stream that came.
    pub(super) last: u32,
    pub(super) leaving: Leaving,
    pub(super) failure: Option<Failure>,
    /// Slots with something to send and a window for it.
    pub(super) line: VecDeque<usize>,
    /// Octets that slots hold.
    pub(super) held: usize,
    /// Slots whose owner waits for `out` to empty.
    pub(super) wanting: Vec<usize>,
    pub(super) notices: Vec<usize>,
    pub(super) unowned: Vec<usize>,
    pub(super) refusals: Vec<&'static str>,
}

impl Connection {
    /// Begins a connection: our settings are the first to be sent.
    pub fn new(config: Config) -> Self {
        let mut payload = Vec::with_capacity(32);
        settings::put(&mut payload, settings::MAX_CONCURRENT_STREAMS, config.streams);
        settings::put(&mut payload, settings::INITIAL_WINDOW_SIZE, config.stream_window);
        let list = u32::try_from(config.head_bytes).unwrap_or(u32::MAX);
        settings::put(&mut payload, settings::MAX_HEADER_LIST_SIZE, list);
        settings::put(&mut payload, settings::ENABLE_CONNECT_PROTOCOL, 1);
        let mut out = Vec::with_capacity(256);
        frame::put(&mut out, frame::SETTINGS, 0, 0, &payload);
        let more = config.connection_window.saturating_sub(DEFAULT_WINDOW);
        if more > 0 {
            frame::put_window_update(&mut out, 0, more);
        }
        Self {
            config,
            phase: Phase::Preface,
            decoder: Decoder::new(DEFAULT_TABLE as usize),
            writer: Writer::default(),
            block: Block::default(),
            encoder: Encoder::default(),
            meter: Meter::new(config.bounds),
            peer: Settings::default(),
            agreed: false,
            out,
            out_at: 0,
            send_window: i64::from(DEFAULT_WINDOW),
            receive_window: i64::from(DEFAULT_WINDOW + more),
            taken: 0,
            slots: Vec::new(),
            free: Vec::new(),
            vacant: Vec::new(),
            index: Vec::new(),
            closed: Closed::new(),
            last: 0,
            leaving: Leaving::No,
            failure: None,
            line: VecDeque::new(),
            held: 0,
            wanting: Vec::new(),
            notices: Vec::new(),
            unowned: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// Returns why it is over; GOAWAY may still be pending.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Returns how many slots have a stream, or an owner that is not done with one.
    pub fn busy(&self) -> usize {
        self.slots.len() - self.free.len() - self.vacant.len()
    }

    /// Returns whether a head has begun whose end has not come.
    pub fn awaits_head(&self) -> bool {
        self.phase != Phase::Open || self.block.stream != 0
    }

    /// Returns the octets that are to be written.
    pub fn pending(&self) -> &[u8] {
        self.out.get(self.out_at..).unwrap_or_default()
    }

    /// Returns whether so much waits that nothing more should be read while none of it is taken.
    pub fn is_clogged(&self) -> bool {
        self.pending().len() >= 2 * OUT_BYTES
    }

    /// Says how many of the pending octets were written.
    pub fn wrote(&mut self, octets: usize) {
        self.out_at += octets;
        self.meter.sent(octets, self.out_at >= self.out.len());
        if self.out_at >= self.out.len() {
            self.out.clear();
            self.out_at = 0;
            if self.out.capacity() > OUT_BYTES && self.busy() == 0 {
                self.out = Vec::new();
            }
        }
        if self.pending().len() < OUT_BYTES / 2 {
            self.pump();
            let Self { wanting, notices, .. } = self;
            notices.append(wanting);
        }
    }

    /// Returns the next slot that has a stream and no owner; who calls is its owner from now on.
    pub fn take_unowned(&mut self) -> Option<usize> {
        self.unowned.pop()
    }

    /// Moves the slots whose owners have something to do into `into`.
    pub fn take_notices(&mut self, into: &mut Vec<usize>) {
        into.append(&mut self.notices);
    }

    /// Returns the next reason for which a stream was refused, for logs and metrics.
    pub fn take_refusal(&mut self) -> Option<&'static str> {
        self.refusals.pop()
    }

    /// Begins the way out: the client is asked to open nothing more, and may still have done so.
    pub fn leave(&mut self) {
        if self.leaving == Leaving::No && self.failure.is_none() {
            self.leaving = Leaving::Announced;
            frame::put_goaway(&mut self.out, settings::MAX_WINDOW, Code::None);
            frame::put(&mut self.out, PING, 0, 0, &LEAVING);
        }
    }

    /// Refuses what comes from now on.
    pub fn leave_finally(&mut self) {
        if !matches!(self.leaving, Leaving::Final(_)) && self.failure.is_none() {
            self.leaving = Leaving::Final(self.last);
            frame::put_goaway(&mut self.out, self.last, Code::None);
        }
    }

    /// Returns whether the way out is open: nothing that comes is served any more.
    pub fn has_left(&self) -> bool {
        matches!(self.leaving, Leaving::Final(_))
    }

    /// Ends it for a bound that was broken.
    pub fn breach(&mut self, breach: Breach) {
        self.fail(Failure::Breach(breach), Code::Calm);
    }

    pub(super) fn fail(&mut self, failure: Failure, code: Code) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        frame::put_goaway(&mut self.out, self.last, code);
        for slot in 0..self.slots.len() {
            self.lose(slot);
        }
        self.index.clear();
    }

    /// The stream in a slot is no more; its owner is told.
    pub(super) fn lose(&mut self, at: usize) {
        self.empty(at);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.from.lost = true;
            self.notices.push(at);
        }
    }

    /// Drops what waits in a slot, both ways.
    pub(super) fn empty(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.live = false;
        if std::mem::take(&mut slot.to.queued) {
            self.line.retain(|&other| other != at);
        }
        self.held -= slot.to.waiting().len();
        slot.to.held.clear();
        slot.to.held_at = 0;
        let untaken = slot.from.untaken();
        slot.from.data.clear();
        slot.from.data_at = 0;
        self.give_back(untaken);
    }

    /// The socket is gone: nothing comes and nothing goes any more.
    pub fn abandon(&mut self) {
        for slot in 0..self.slots.len() {
            self.lose(slot);
        }
        self.index.clear();
        self.out = Vec::new();
        self.out_at = 0;
    }

    /// Returns the highest stream that came.
    pub fn last_stream(&self) -> u32 {
        self.last
    }

    /// Returns the slot of an open stream.
    pub(super) fn find(&self, stream: u32) -> Option<usize> {
        let place = self.index.binary_search_by_key(&stream, |&(id, _)| id).ok()?;
        self.index.get(place).map(|&(_, slot)| slot)
    }

    /// Forgets an open stream.
    pub(super) fn forget(&mut self, stream: u32, past: Past) {
        if let Ok(place) = self.index.binary_search_by_key(&stream, |&(id, _)| id) {
            self.index.remove(place);
        }
        self.closed.add(stream, past);
    }

    /// Resets a stream, open or not, for what its peer sent.
    pub(super) fn fault(&mut self, stream: u32, code: Code) {
        frame::put_reset(&mut self.out, stream, code);
        if let Some(at) = self.find(stream) {
            self.lose(at);
            self.unseat(at);
        }
        self.forget(stream, Past::Reset);
        let breach = self.meter.fault();
        self.judge(breach);
    }

    /// Ends it where something was too much.
    pub(super) fn judge(&mut self, breach: Option<Breach>) {
        if let Some(breach) = breach {
            self.breach(breach);
        }
    }

    /// Takes back a slot whose stream its owner has not begun.
    pub(super) fn unseat(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at)
            && std::mem::take(&mut slot.waits)
        {
            self.free.push(at);
        }
    }

    /// Both sides of a stream may have ended: then it is closed.
    pub(super) fn settle(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        if slot.live && slot.from.ended && slot.to.ended {
            slot.live = false;
            let id = slot.id;
            self.forget(id, Past::Ended);
        }
    }

    /// The connection may be sent so much more, as data was taken or dropped.
    pub(super) fn give_back(&mut self, octets: usize) {
        self.taken += octets as u32;
        if i64::from(self.taken) * 2 >= i64::from(self.config.connection_window.max(DEFAULT_WINDOW)) {
            frame::put_window_update(&mut self.out, 0, self.taken);
            self.receive_window += i64::from(self.taken);
            self.taken = 0;
        }
    }

    /// Returns how much of an answer may be read now for a stream, so that what waits on the connection stays bounded.
    pub fn room(&self, at: usize) -> usize {
        let Some(slot) = self.slots.get(at) else { return LEAST_ROOM };
        let free = OUT_BYTES.saturating_sub(self.pending().len()) as i64;
        let passes = slot.to.window.min(self.send_window).min(free).max(0);
        let reserved = LEAST_ROOM * self.config.streams as usize + OUT_BYTES + frame::MAX_PAYLOAD + BELOW_BYTES;
        let spare = HELD_BYTES.saturating_sub(reserved + self.held);
        LEAST_ROOM.max(usize::try_from(passes).unwrap_or(0) + spare)
    }

    /// Appends an answer that has only a status, to a stream that has no slot.
    pub(super) fn dismiss(&mut self, stream: u32, ends: bool, status: u16) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; frame::HEAD]);
        self.encoder.begin(status, &mut self.out);
        let (out, max) = (&mut self.out, self.peer.max_frame as usize);
        frame::close_headers(out, at, (stream, true), max.min(frame::MAX_PAYLOAD));
        self.closed.add(stream, if ends { Past::Ended } else { Past::Answered });
        debug_assert!(self.out.get(at + 3) == Some(&HEADERS));
    }
}
