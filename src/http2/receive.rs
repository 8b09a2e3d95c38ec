//! What comes, frame by frame: parsed in place, checked against the state of its stream (RFC 9113 §5, §6).

use crate::http2::connection::{Connection, LEAVING, Leaving, Phase};
use crate::http2::frame::{
    self, ACK, CONTINUATION, Code, DATA, END_HEADERS, END_STREAM, Fault, GOAWAY, HEADERS, Head, MAX_PAYLOAD, PING,
    PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::http2::hpack::Malformed;
use crate::http2::meter::Breach;
use crate::http2::request::{Unfit, key};
use crate::http2::settings::{DEFAULT_WINDOW, MAX_WINDOW};
use crate::http2::streams::{Failure, Past, Slot};

/// A block that comes in pieces is kept up to this size, whatever the limit of heads.
const MAX_BLOCK: usize = 64 * 1024;

impl Connection {
    /// Takes octets that came and returns how many: whole frames alone, what is left is to be given again with what follows.
    /// `now_ms` is of any clock, `random` makes 128 random bits.
    pub fn receive(&mut self, octets: &[u8], now_ms: u64, random: &mut dyn FnMut() -> u128) -> usize {
        self.meter.roll(now_ms);
        let mut at = 0;
        while self.failure.is_none() {
            let rest = octets.get(at..).unwrap_or_default();
            if self.phase == Phase::Preface {
                match rest.strip_prefix(PREFACE) {
                    Some(_) => at += PREFACE.len(),
                    None if PREFACE.starts_with(rest) => break,
                    None => self.fail(Failure::Preface, Code::Protocol),
                }
                self.phase = Phase::Settings;
                continue;
            }
            let Some(head) = Head::parse(rest) else { break };
            if head.length > MAX_PAYLOAD {
                self.fail(Failure::Fault(Code::FrameSize), Code::FrameSize);
                break;
            }
            let Some(payload) = rest.get(frame::HEAD..frame::HEAD + head.length) else { break };
            at += frame::HEAD + head.length;
            if let Some(breach) = self.meter.frame(&head) {
                self.breach(breach);
                break;
            }
            match self.frame(&head, payload, random) {
                Ok(()) => {}
                Err(Fault::Stream(code)) => self.fault(head.stream, code),
                Err(Fault::Connection(code)) => {
                    let begun = self.phase != Phase::Settings;
                    self.fail(if begun { Failure::Fault(code) } else { Failure::Preface }, code);
                }
            }
        }
        at
    }

    fn frame(&mut self, head: &Head, payload: &[u8], random: &mut dyn FnMut() -> u128) -> Result<(), Fault> {
        const WRONG: Fault = Fault::Connection(Code::Protocol);
        if self.phase == Phase::Settings && (head.kind != SETTINGS || head.has(ACK)) {
            return Err(WRONG);
        }
        // Nothing comes between the parts of a head (RFC 9113 §4.3).
        if (self.block.stream != 0) != (head.kind == CONTINUATION)
            || (self.block.stream != 0 && self.block.stream != head.stream)
        {
            return Err(WRONG);
        }
        let of_connection = matches!(head.kind, SETTINGS | PING | GOAWAY);
        let of_stream = matches!(head.kind, DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION);
        if (of_connection && head.stream != 0) || (of_stream && head.stream == 0) {
            return Err(WRONG);
        }
        match head.kind {
            DATA => self.data(head, payload),
            HEADERS => self.headers(head, payload, random),
            CONTINUATION => self.continuation(head, payload, random),
            PRIORITY => self.priority(head, payload),
            RST_STREAM => self.reset_by_peer(head, payload),
            SETTINGS => self.settings(head, payload),
            PUSH_PROMISE => Err(WRONG),
            PING => self.ping(head, payload),
            GOAWAY if payload.len() < 8 => Err(Fault::Connection(Code::FrameSize)),
            WINDOW_UPDATE => self.window_update(head, payload),
            _ => Ok(()),
        }
    }

    /// A stream that never began (RFC 9113 §5.1).
    fn is_idle(&self, stream: u32) -> bool {
        stream > self.last || stream.is_multiple_of(2)
    }

    fn data(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let data = frame::unpadded(head, payload)?;
        if self.is_idle(head.stream) {
            return Err(Fault::Connection(Code::Protocol));
        }
        // Padding counts too (RFC 9113 §6.9.1).
        self.receive_window -= payload.len() as i64;
        if self.receive_window < 0 {
            return Err(Fault::Connection(Code::FlowControl));
        }
        let Some(at) = self.find(head.stream) else {
            self.give_back(payload.len());
            return match self.closed.find(head.stream) {
                Past::Reset => Ok(()),
                // The end of a request that was answered before: clients lose the answer when a reset comes at once with it.
                Past::Answered if head.has(END_STREAM) => Ok(()),
                // Nothing more of it is wanted, which is no fault (RFC 9113 §8.1).
                Past::Answered => {
                    frame::put_reset(&mut self.out, head.stream, Code::None);
                    self.closed.add(head.stream, Past::Reset);
                    Ok(())
                }
                _ => Err(Fault::Stream(Code::StreamClosed)),
            };
        };
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        let fault = accept(slot, payload.len(), data.len(), head.has(END_STREAM));
        if let Some(code) = fault {
            self.give_back(payload.len());
            return Err(Fault::Stream(code));
        }
        let from = &mut slot.from;
        if from.data_at > 0 && from.data_at * 2 >= from.data.len() {
            from.data.drain(..from.data_at);
            from.data_at = 0;
        }
        from.data.extend_from_slice(data);
        from.ended = head.has(END_STREAM);
        from.taken += (payload.len() - data.len()) as u32;
        self.give_back(payload.len() - data.len());
        self.notices.push(at);
        self.settle(at);
        Ok(())
    }

    fn headers(&mut self, head: &Head, payload: &[u8], random: &mut dyn FnMut() -> u128) -> Result<(), Fault> {
        let (fragment, parent) = frame::fragment(head, payload)?;
        if head.stream.is_multiple_of(2) {
            return Err(Fault::Connection(Code::Protocol));
        }
        self.block.fault = (parent == Some(head.stream)).then_some(Code::Protocol);
        self.block.ends = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.head(head.stream, fragment, random);
        }
        self.block.stream = head.stream;
        self.block.octets.clear();
        self.block.octets.extend_from_slice(fragment);
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8], random: &mut dyn FnMut() -> u128) -> Result<(), Fault> {
        if self.block.octets.len() + payload.len() > self.config.head_bytes.max(MAX_BLOCK) {
            self.breach(Breach::Continuations);
            return Ok(());
        }
        self.block.octets.extend_from_slice(payload);
        if !head.has(END_HEADERS) {
            return Ok(());
        }
        self.block.stream = 0;
        let octets = std::mem::take(&mut self.block.octets);
        self.head(head.stream, &octets, random)
    }

    /// A whole block came. It is decoded whatever becomes of its stream: the table goes on with it.
    fn head(&mut self, stream: u32, block: &[u8], random: &mut dyn FnMut() -> u128) -> Result<(), Fault> {
        let slot = self.find(stream);
        let Self { decoder, writer, config, .. } = self;
        writer.begin((config.head_bytes, config.head_fields), slot.is_some());
        let decoded = decoder.decode(block, |name, value| writer.field(name, value));
        decoded.map_err(|Malformed| Fault::Connection(Code::Compression))?;
        if let Some(at) = slot {
            return self.trailers(at);
        }
        if stream <= self.last {
            return match self.closed.find(stream) {
                Past::Reset | Past::Answered => Ok(()),
                Past::Ended => Err(Fault::Connection(Code::StreamClosed)),
                Past::GivenUp => Err(Fault::Stream(Code::StreamClosed)),
                Past::Unknown => Err(Fault::Connection(Code::Protocol)),
            };
        }
        self.last = stream;
        self.meter.stream();
        if matches!(self.leaving, Leaving::Final(_)) {
            // Nobody was promised an answer to it.
            self.closed.add(stream, Past::Reset);
            return Ok(());
        }
        if let Some(code) = self.block.fault {
            return Err(Fault::Stream(code));
        }
        self.begin(stream, random)
    }

    /// Gives a new stream to a slot, if it may be.
    fn begin(&mut self, stream: u32, random: &mut dyn FnMut() -> u128) -> Result<(), Fault> {
        let streams = self.config.streams as usize;
        // Those that were reset count until their owner is really done with them.
        if self.index.len() >= streams || self.busy() >= 2 * streams {
            self.refusals.push("h2_streams");
            self.fault(stream, Code::Refused);
            return Ok(());
        }
        let ends = self.block.ends;
        let (reason, status) = match self.writer.finish(ends, || key(random())) {
            Ok(shape) => {
                let at = self.vacate();
                let window =
                    if self.agreed { self.config.stream_window } else { self.config.stream_window.max(DEFAULT_WINDOW) };
                let windows = (i64::from(window), i64::from(self.peer.window));
                if let Some(slot) = self.slots.get_mut(at) {
                    slot.begin(stream, shape, ends, windows);
                    self.writer.swap(&mut slot.from.ready);
                }
                self.index.push((stream, at));
                self.notices.push(at);
                return Ok(());
            }
            Err(Unfit::Malformed) => {
                self.refusals.push("h2_malformed");
                return Err(Fault::Stream(Code::Protocol));
            }
            Err(Unfit::TooLarge) => ("head_too_large", 431),
            Err(Unfit::TooMany) => ("too_many_fields", 431),
            Err(Unfit::Protocol) => ("connect", 501),
        };
        self.refusals.push(reason);
        self.dismiss(stream, ends, status);
        if status == 431 {
            let breach = self.meter.large_head();
            self.judge(breach);
        }
        Ok(())
    }

    /// Returns a slot for a stream: one whose owner waits, or one that gets an owner.
    fn vacate(&mut self) -> usize {
        if let Some(at) = self.free.pop() {
            return at;
        }
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        if let Some(slot) = self.slots.get_mut(at) {
            slot.owned = true;
        }
        self.unowned.push(at);
        at
    }

    fn trailers(&mut self, at: usize) -> Result<(), Fault> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        if slot.from.ended {
            return Err(Fault::Stream(Code::StreamClosed));
        }
        // They end the stream, and the length that was said is reached (RFC 9113 §8.1).
        let short = slot.from.left.is_some_and(|left| left > 0);
        let section = self.writer.finish_trailers();
        let (Ok(section), true, false, None) = (section, self.block.ends, short, self.block.fault) else {
            self.refusals.push("h2_malformed");
            return Err(Fault::Stream(Code::Protocol));
        };
        slot.from.trailers.extend_from_slice(section);
        slot.from.ended = true;
        self.notices.push(at);
        self.settle(at);
        Ok(())
    }

    /// Priorities are read, for their faults, and ignored (RFC 9113 §5.3.2).
    fn priority(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let fault = |code| if self.is_idle(head.stream) { Fault::Connection(code) } else { Fault::Stream(code) };
        match payload.as_array::<5>() {
            None => Err(fault(Code::FrameSize)),
            Some(priority) if frame::depends_on(priority) == head.stream => Err(fault(Code::Protocol)),
            Some(_) => Ok(()),
        }
    }

    fn reset_by_peer(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::Connection(Code::FrameSize));
        }
        if self.is_idle(head.stream) {
            return Err(Fault::Connection(Code::Protocol));
        }
        let Some(at) = self.find(head.stream) else {
            let breach = self.meter.idle();
            self.judge(breach);
            return Ok(());
        };
        let answered = self.slots.get(at).is_some_and(|slot| slot.to.begun);
        self.lose(at);
        self.unseat(at);
        self.forget(head.stream, Past::GivenUp);
        if !answered {
            let breach = self.meter.reset();
            self.judge(breach);
        }
        Ok(())
    }

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.has(ACK) {
            self.agreed = true;
            return if payload.is_empty() { Ok(()) } else { Err(Fault::Connection(Code::FrameSize)) };
        }
        let before = i64::from(self.peer.window);
        self.peer.apply(payload)?;
        self.phase = Phase::Open;
        self.encoder.set_limit(self.peer.header_table);
        let more = i64::from(self.peer.window) - before;
        if more != 0 {
            for place in 0..self.index.len() {
                if let Some(&(_, at)) = self.index.get(place) {
                    self.widen(at, more).map_err(|_| Fault::Connection(Code::FlowControl))?;
                }
            }
        }
        frame::put(&mut self.out, SETTINGS, ACK, 0, &[]);
        self.pump();
        let breach = self.meter.answer();
        self.judge(breach);
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 8 {
            return Err(Fault::Connection(Code::FrameSize));
        }
        if !head.has(ACK) {
            frame::put(&mut self.out, PING, ACK, 0, payload);
            let breach = self.meter.answer();
            self.judge(breach);
        } else if payload == LEAVING && self.leaving == Leaving::Announced {
            self.leave_finally();
        }
        Ok(())
    }

    fn window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let &increment = payload.as_array::<4>().ok_or(Fault::Connection(Code::FrameSize))?;
        let increment = i64::from(u32::from_be_bytes(increment) & MAX_WINDOW);
        if head.stream == 0 {
            self.send_window += increment;
            let code = if increment == 0 { Code::Protocol } else { Code::FlowControl };
            if increment == 0 || self.send_window > i64::from(MAX_WINDOW) {
                return Err(Fault::Connection(code));
            }
        } else if self.is_idle(head.stream) {
            return Err(Fault::Connection(Code::Protocol));
        } else if let Some(at) = self.find(head.stream) {
            if increment == 0 {
                return Err(Fault::Stream(Code::Protocol));
            }
            self.widen(at, increment).map_err(Fault::Stream)?;
        }
        self.pump();
        Ok(())
    }

    /// Changes what may be sent on a stream.
    fn widen(&mut self, at: usize, more: i64) -> Result<(), Code> {
        let Some(slot) = self.slots.get_mut(at) else { return Ok(()) };
        slot.to.window += more;
        if slot.to.window > i64::from(MAX_WINDOW) {
            return Err(Code::FlowControl);
        }
        self.enqueue(at);
        Ok(())
    }
}

/// Checks DATA against its stream; returns the fault of the stream.
fn accept(slot: &mut Slot, octets: usize, data: usize, ends: bool) -> Option<Code> {
    let from = &mut slot.from;
    if from.ended {
        return Some(Code::StreamClosed);
    }
    from.window -= octets as i64;
    from.begun = true;
    if from.window < 0 {
        return Some(Code::FlowControl);
    }
    if let Some(left) = &mut from.left {
        let Some(rest) = left.checked_sub(data as u64) else { return Some(Code::Protocol) };
        *left = rest;
        if ends && rest > 0 {
            return Some(Code::Protocol);
        }
    }
    None
}
