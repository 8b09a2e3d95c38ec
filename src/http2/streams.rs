//! What is known of each stream, and of those that are closed (RFC 9113 §5.1).

use crate::http2::frame::Code;
use crate::http2::request::Shape;

/// Streams that are remembered after they were reset here: what was on its way is no fault.
const RESET: usize = 128;
/// Streams that are remembered after they ended otherwise.
const ENDED: usize = 64;

/// A place for one stream at a time. Its owner serves one after the other; the buffers stay.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) id: u32,
    /// An owner serves what is put here.
    pub(super) owned: bool,
    /// The stream is open, or half of it.
    pub(super) live: bool,
    /// The owner has not begun it.
    pub(super) waits: bool,
    pub(super) shape: Shape,
    pub(super) from: Inward,
    pub(super) to: Outward,
}

/// From the peer.
#[derive(Debug, Default)]
pub(super) struct Inward {
    /// HTTP/1.1 octets that are ready: the head, the framing of a chunk, trailers.
    pub(super) ready: Vec<u8>,
    pub(super) ready_at: usize,
    /// Data that came, and so far nobody took.
    pub(super) data: Vec<u8>,
    pub(super) data_at: usize,
    /// Octets of the current chunk that are still to be given.
    pub(super) chunk: usize,
    /// A chunk was given: its end must be.
    pub(super) open: bool,
    /// What the peer may still send.
    pub(super) window: i64,
    /// Some data came.
    pub(super) begun: bool,
    /// What was taken and not given back.
    pub(super) taken: u32,
    /// What must still come by the length that was said.
    pub(super) left: Option<u64>,
    pub(super) trailers: Vec<u8>,
    /// END_STREAM came.
    pub(super) ended: bool,
    /// Everything was given to the owner.
    pub(super) over: bool,
    /// The stream was reset, by either side.
    pub(super) lost: bool,
}

/// To the peer.
#[derive(Debug, Default)]
pub(super) struct Outward {
    /// What may still be sent.
    pub(super) window: i64,
    /// What waits for that.
    pub(super) held: Vec<u8>,
    pub(super) held_at: usize,
    pub(super) trailers: Vec<u8>,
    /// The head of the answer is out.
    pub(super) begun: bool,
    /// Nothing follows what is held.
    pub(super) complete: bool,
    /// END_STREAM is out.
    pub(super) ended: bool,
    /// Stands in the line of those with something to send.
    pub(super) queued: bool,
}

impl Outward {
    /// Returns what waits.
    pub(super) fn waiting(&self) -> &[u8] {
        self.held.get(self.held_at..).unwrap_or_default()
    }
}

impl Inward {
    /// Returns the data that nobody took.
    pub(super) fn untaken(&self) -> usize {
        self.data.len() - self.data_at
    }
}

/// Buffers of a stream that was larger than most are not kept.
const KEPT_BYTES: usize = 4096;

fn recycle(buffer: &mut Vec<u8>) -> Vec<u8> {
    let mut kept = std::mem::take(buffer);
    kept.clear();
    if kept.capacity() > KEPT_BYTES { Vec::new() } else { kept }
}

impl Slot {
    /// Begins a stream; the head of its request goes into `from.ready`.
    pub(super) fn begin(&mut self, id: u32, shape: Shape, ended: bool, windows: (i64, i64)) {
        let (ready, data, held) =
            (recycle(&mut self.from.ready), recycle(&mut self.from.data), recycle(&mut self.to.held));
        let trailers = (recycle(&mut self.from.trailers), recycle(&mut self.to.trailers));
        self.id = id;
        (self.live, self.waits, self.shape) = (true, true, shape);
        self.from = Inward {
            ready,
            data,
            window: windows.0,
            left: shape.length,
            trailers: trailers.0,
            ended,
            ..Inward::default()
        };
        self.to = Outward { window: windows.1, held, trailers: trailers.1, ..Outward::default() };
    }
}

/// What became of a stream that is open no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It was reset here.
    Reset,
    /// It was answered; the peer may still send the end of its request, which nobody wants.
    Answered,
    /// Both sides ended it.
    Ended,
    /// The peer reset it.
    GivenUp,
    /// Nobody knows any more, or it never was.
    Unknown,
}

/// The last streams that were closed.
#[derive(Debug)]
pub(super) struct Closed {
    reset: Vec<u32>,
    reset_at: usize,
    ended: Vec<(u32, Past)>,
    ended_at: usize,
}

impl Closed {
    pub(super) fn new() -> Self {
        Self { reset: Vec::new(), reset_at: 0, ended: Vec::new(), ended_at: 0 }
    }

    pub(super) fn add(&mut self, id: u32, past: Past) {
        if past == Past::Reset {
            ring(&mut self.reset, &mut self.reset_at, RESET, id);
        } else {
            ring(&mut self.ended, &mut self.ended_at, ENDED, (id, past));
        }
    }

    pub(super) fn find(&self, id: u32) -> Past {
        if self.reset.contains(&id) {
            return Past::Reset;
        }
        self.ended.iter().find(|(known, _)| *known == id).map_or(Past::Unknown, |(_, past)| *past)
    }
}

fn ring<T>(list: &mut Vec<T>, at: &mut usize, size: usize, value: T) {
    match list.get_mut(*at) {
        Some(place) => *place = value,
        None => list.push(value),
    }
    *at = (*at + 1) % size;
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// What came first was no preface, or no SETTINGS followed it.
    Preface,
    /// The peer broke the protocol, and was told so.
    Fault(Code),
    /// It broke a bound.
    Breach(crate::http2::meter::Breach),
}
