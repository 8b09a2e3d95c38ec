//! What the owner of a slot asks for: the stream that waits, its octets, whether there is room, and the end.

use crate::http2::connection::{Connection, OUT_BYTES};
use crate::http2::frame::{self, Code};
use crate::http2::request::Shape;
use crate::http2::settings::DEFAULT_WINDOW;
use crate::http2::streams::{Inward, Past};
use std::io::Write;

/// What reading from a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many octets.
    Octets(usize),
    /// None yet.
    Nothing,
    /// The request has ended.
    End,
    /// The stream was reset.
    Lost,
}

/// Whether more of an answer may be read for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Free,
    /// What is held waits for the peer; the owner is told when it is gone.
    Held,
    /// The stream was reset.
    Lost,
}

impl Connection {
    /// Takes the stream that waits in a slot.
    pub fn begin_stream(&mut self, at: usize) -> Option<Shape> {
        let slot = self.slots.get_mut(at)?;
        std::mem::take(&mut slot.waits).then_some(slot.shape)
    }

    /// Reads the request of a stream as HTTP/1.1 octets. What is taken of its body may come again.
    pub fn read(&mut self, at: usize, into: &mut [u8]) -> Read {
        let Some(slot) = self.slots.get_mut(at) else { return Read::Lost };
        if slot.from.lost {
            return Read::Lost;
        }
        // No octet passes before the endpoint has agreed to a tunnel.
        let head_only = slot.shape.tunnel && !slot.to.begun;
        let (given, taken) = slot.from.give(into, slot.shape.chunked, head_only);
        if taken > 0 {
            slot.from.taken += taken as u32;
            let window = self.config.stream_window;
            // Nothing more comes on a stream that has ended.
            if !slot.from.ended && u64::from(slot.from.taken) * 2 >= u64::from(window.min(DEFAULT_WINDOW)) {
                frame::put_window_update(&mut self.out, slot.id, slot.from.taken);
                slot.from.window += i64::from(slot.from.taken);
                slot.from.taken = 0;
            }
            self.give_back(taken);
        }
        let Some(slot) = self.slots.get_mut(at) else { return Read::Lost };
        match given {
            0 if slot.from.over => Read::End,
            0 => Read::Nothing,
            n => Read::Octets(n),
        }
    }

    /// Returns whether more may be read for a stream; where not, its owner is told later.
    pub fn room_for(&mut self, at: usize) -> Room {
        let full = self.pending().len() >= OUT_BYTES;
        let Some(slot) = self.slots.get(at) else { return Room::Lost };
        if slot.from.lost {
            return Room::Lost;
        }
        if !slot.to.waiting().is_empty() {
            return Room::Held;
        }
        if full && !slot.to.ended {
            if !self.wanting.contains(&at) {
                self.wanting.push(at);
            }
            return Room::Held;
        }
        Room::Free
    }

    /// Returns whether everything of the answer is out.
    pub fn has_ended(&self, at: usize) -> bool {
        self.slots.get(at).is_some_and(|slot| slot.to.ended)
    }

    /// Returns whether everything of the answer was given, though it may wait.
    pub fn is_complete(&self, at: usize) -> bool {
        self.slots.get(at).is_some_and(|slot| slot.to.complete)
    }

    /// Resets the stream in a slot, so that its answer looks complete to nobody.
    pub fn reset(&mut self, at: usize, code: Code) {
        let Some(slot) = self.slots.get(at).filter(|slot| slot.live) else { return };
        let id = slot.id;
        frame::put_reset(&mut self.out, id, code);
        self.forget(id, Past::Reset);
        self.lose(at);
    }

    /// The owner is done with a stream; `stays`: it takes another.
    pub fn release(&mut self, at: usize, stays: bool) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        // One that came when the owner was about to end: nothing of it was looked at.
        let refused = std::mem::take(&mut slot.waits);
        if slot.live {
            let untouched = !slot.from.begun;
            let code = match (refused, slot.to.ended) {
                (true, _) => Some(Code::Refused),
                // Its body is about to come: whether it is more than one frame will show.
                (false, true) if untouched => None,
                // What comes of the request is not wanted any more; it is no fault (RFC 9113 §8.1).
                (false, true) => Some(Code::None),
                (false, false) => Some(Code::Internal),
            };
            let id = slot.id;
            if let Some(code) = code {
                frame::put_reset(&mut self.out, id, code);
            }
            self.forget(id, if code.is_some() { Past::Reset } else { Past::Answered });
        }
        self.empty(at);
        if let Some(slot) = self.slots.get_mut(at) {
            slot.owned = stays;
        }
        if stays { self.free.push(at) } else { self.vacant.push(at) }
    }

    /// The owner of a slot ends.
    pub fn disown(&mut self, at: usize, has_stream: bool) {
        let waits = self.slots.get(at).is_some_and(|slot| slot.waits);
        if has_stream || waits {
            self.release(at, false);
        } else if let Some(place) = self.free.iter().position(|&free| free == at) {
            self.free.swap_remove(place);
            self.vacant.push(at);
        }
    }
}

impl Inward {
    /// Gives octets; returns how many, and how many of them were data.
    fn give(&mut self, into: &mut [u8], chunked: bool, head_only: bool) -> (usize, usize) {
        let (mut given, mut taken) = (0, 0);
        while let Some(room) = into.get_mut(given..).filter(|room| !room.is_empty()) {
            let rest = self.ready.get(self.ready_at..).unwrap_or_default();
            if !rest.is_empty() {
                let n = copy(rest, room);
                self.ready_at += n;
                given += n;
                continue;
            }
            if self.chunk > 0 {
                let rest = self.data.get(self.data_at..self.data_at + self.chunk).unwrap_or_default();
                let n = copy(rest, room);
                self.data_at += n;
                self.chunk -= n;
                (given, taken) = (given + n, taken + n);
                continue;
            }
            if head_only || self.over || !self.next(chunked) {
                break;
            }
        }
        (given, taken)
    }

    /// Gets the next part ready; false: there is none yet.
    fn next(&mut self, chunked: bool) -> bool {
        self.ready.clear();
        self.ready_at = 0;
        self.chunk = self.untaken();
        if self.chunk == 0 {
            self.data.clear();
            self.data_at = 0;
        }
        if self.chunk > 0 {
            if chunked {
                let end = if std::mem::replace(&mut self.open, true) { "\r\n" } else { "" };
                // Writing to a vector cannot fail.
                let _ = write!(self.ready, "{end}{:x}\r\n", self.chunk);
            }
            return true;
        }
        if !self.ended {
            return false;
        }
        self.over = true;
        if chunked {
            let end: &[u8] = if std::mem::take(&mut self.open) { b"\r\n" } else { b"" };
            for part in [end, b"0\r\n", &self.trailers, b"\r\n"] {
                self.ready.extend_from_slice(part);
            }
        }
        true
    }
}

fn copy(from: &[u8], into: &mut [u8]) -> usize {
    let n = from.len().min(into.len());
    if let (Some(from), Some(into)) = (from.get(..n), into.get_mut(..n)) {
        into.copy_from_slice(from);
    }
    n
}
