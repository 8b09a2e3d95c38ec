//! What goes out: answers and data of all streams into one buffer, within both windows, in turns (RFC 9113 §5.2, §6.9).

use crate::http1::head::{Fields, StatusLine};
use crate::http2::answer::{self, Ending};
use crate::http2::connection::{Connection, OUT_BYTES};
use crate::http2::frame::{self, DATA, END_STREAM, HEAD, Head, MAX_PAYLOAD};

impl Connection {
    /// Sends the head of an answer; interim ones first, as often as there are any. Nothing happens where the stream is gone.
    pub fn answer(&mut self, at: usize, (bytes, line, fields): (&[u8], &StatusLine<'_>, &Fields), ending: Ending) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.live) else { return };
        let ends = ending == Ending::Head;
        slot.to.begun = line.status >= 200 || ending == Ending::Tunnel;
        (slot.to.complete, slot.to.ended) = (ends, ends);
        let (stream, max) = (slot.id, self.peer.max_frame as usize);
        let begin = self.out.len();
        self.out.extend_from_slice(&[0; HEAD]);
        answer::encode(bytes, line, fields, ending, &mut self.encoder, &mut self.out);
        frame::close_headers(&mut self.out, begin, (stream, ends), max.min(MAX_PAYLOAD));
        if ends {
            self.settle(at);
        }
    }

    /// Sends data of an answer: at once as far as the windows reach, and holds the rest. `ends`: nothing follows, unless
    /// [`Connection::trail`] was called before.
    pub fn send(&mut self, at: usize, data: &[u8], ends: bool) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.live && !slot.to.complete) else { return };
        slot.to.complete = ends;
        let sent = if slot.to.waiting().is_empty() { self.put_data(at, data, ends) } else { 0 };
        let rest = data.get(sent..).unwrap_or_default();
        if let Some(slot) = self.slots.get_mut(at)
            && !rest.is_empty()
        {
            slot.to.held.extend_from_slice(rest);
            self.held += rest.len();
            self.enqueue(at);
        }
        self.end(at);
    }

    /// Says what trailers follow the last data.
    pub fn trail(&mut self, at: usize, section: &[u8]) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.to.trailers.extend_from_slice(section);
        }
    }

    /// Appends DATA as far as the windows and `out` reach; returns how much.
    fn put_data(&mut self, at: usize, data: &[u8], ends: bool) -> usize {
        let Some(slot) = self.slots.get_mut(at) else { return 0 };
        let max = MAX_PAYLOAD.min(self.peer.max_frame as usize);
        let mut sent = 0;
        while sent < data.len() && self.out.len() - self.out_at < OUT_BYTES {
            let window = usize::try_from(slot.to.window.min(self.send_window)).unwrap_or(0);
            let n = (data.len() - sent).min(window).min(max);
            let Some(piece) = data.get(sent..sent + n).filter(|piece| !piece.is_empty()) else { break };
            sent += n;
            let last = ends && sent == data.len() && slot.to.trailers.is_empty();
            slot.to.ended = last;
            let flags = if last { END_STREAM } else { 0 };
            self.out.extend_from_slice(&Head { length: n, kind: DATA, flags, stream: slot.id }.octets());
            self.out.extend_from_slice(piece);
            slot.to.window -= n as i64;
            self.send_window -= n as i64;
        }
        sent
    }

    /// Ends the stream on our side where everything before the end is out.
    fn end(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.live) else { return };
        if !slot.to.complete || !slot.to.waiting().is_empty() {
            return;
        }
        if !slot.to.ended {
            slot.to.ended = true;
            let (stream, max) = (slot.id, MAX_PAYLOAD.min(self.peer.max_frame as usize));
            let begin = self.out.len();
            self.out.extend_from_slice(&[0; HEAD]);
            if answer::encode_trailers(&slot.to.trailers, &mut self.encoder, &mut self.out) {
                frame::close_headers(&mut self.out, begin, (stream, true), max);
            } else {
                self.out.truncate(begin);
                frame::put(&mut self.out, DATA, END_STREAM, stream, &[]);
            }
        }
        self.settle(at);
    }

    /// Puts a slot in line where it has something to send, and a window for it.
    pub(super) fn enqueue(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let may = slot.live && !slot.to.queued && slot.to.window > 0 && !slot.to.waiting().is_empty();
        if may {
            slot.to.queued = true;
            self.line.push_back(at);
        }
    }

    /// Sends what is held, a frame for each slot in turn, as far as the connection's window and `out` reach.
    pub(super) fn pump(&mut self) {
        while self.send_window > 0 && self.pending().len() < OUT_BYTES {
            let Some(at) = self.line.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(at) else { continue };
            slot.to.queued = false;
            let (complete, from) = (slot.to.complete, slot.to.held_at);
            let held = std::mem::take(&mut slot.to.held);
            let rest = held.get(from..).unwrap_or_default();
            let piece = rest.get(..MAX_PAYLOAD).unwrap_or(rest);
            let sent = self.put_data(at, piece, complete && piece.len() == rest.len());
            self.held -= sent;
            let Some(slot) = self.slots.get_mut(at) else { continue };
            slot.to.held = held;
            slot.to.held_at += sent;
            if slot.to.waiting().is_empty() {
                slot.to.held.clear();
                slot.to.held_at = 0;
                self.notices.push(at);
                self.end(at);
            } else {
                self.enqueue(at);
            }
        }
    }
}
