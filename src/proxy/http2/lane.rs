//! One stream at a time of a client's HTTP/2 connection, as the HTTP/1.1 connection that the request path serves.
//!
//! A lane is used again: where the next request would come on a kept HTTP/1.1 connection, the next stream comes here. So a
//! warm connection makes no task, no timer and no buffer for a stream. What the codec has for a lane is behind a number, its
//! slot; octets go straight into the connection's buffer and out of it.

use crate::http1::framing::{self, Body, Form, Framing};
use crate::http1::head::{self as head1, Fields, StatusLine};
use crate::http2::answer::Ending;
use crate::http2::connection::Connection;
use crate::http2::frame::Code;
use crate::http2::request::Shape;
use crate::http2::serve::{Read, Room};
use crate::net::Layer;
use crate::telemetry::Shard;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the lanes of one connection share with it.
pub(super) struct Hub {
    pub(super) codec: RefCell<Connection>,
    /// Of the lanes, by slot.
    wakers: RefCell<Vec<Option<Waker>>>,
    /// Wakes the connection.
    waker: RefCell<Option<Waker>>,
    /// The connection was woken and has not run.
    woken: Cell<bool>,
    /// The connection is over: lanes without a stream end.
    closed: Cell<bool>,
    shard: Arc<Shard>,
    limits: head1::Limits,
    fields: RefCell<Fields>,
    /// Payload of chunks on their way into frames.
    payload: RefCell<Vec<u8>>,
}

impl Hub {
    pub(super) fn new(codec: Connection, shard: Arc<Shard>, limits: head1::Limits) -> Self {
        Self {
            codec: RefCell::new(codec),
            wakers: RefCell::default(),
            waker: RefCell::default(),
            woken: Cell::new(false),
            closed: Cell::new(false),
            shard,
            limits,
            fields: RefCell::default(),
            payload: RefCell::default(),
        }
    }

    /// The connection runs: from now on it is woken again.
    pub(super) fn runs(&self, cx: &Context<'_>) {
        self.woken.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes the connection, once until it runs.
    fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Wakes the lane of a slot.
    pub(super) fn wake_lane(&self, slot: usize) {
        // A lane stays in its task: the waker stays good.
        if let Some(Some(waker)) = self.wakers.borrow().get(slot) {
            waker.wake_by_ref();
        }
    }

    /// The connection is over.
    pub(super) fn close(&self) {
        self.closed.set(true);
        self.codec.borrow_mut().abandon();
        for slot in 0..self.wakers.borrow().len() {
            self.wake_lane(slot);
        }
    }

    fn wait(&self, slot: usize, cx: &Context<'_>) {
        let mut wakers = self.wakers.borrow_mut();
        if wakers.len() <= slot {
            wakers.resize_with(slot + 1, || None);
        }
        if let Some(place) = wakers.get_mut(slot)
            && !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *place = Some(cx.waker().clone());
        }
    }

    /// Does something with the codec; what it wants to send is sent soon.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> T) -> T {
        let mut codec = self.codec.borrow_mut();
        let result = work(&mut codec);
        if !codec.pending().is_empty() {
            self.wake();
        }
        result
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No stream.
    Waiting,
    /// The answer's head has not come.
    Asked,
    /// The answer's body passes, or what is in a tunnel.
    Answering,
}

/// A layer over whatever stream is given to its slot.
pub(super) struct Lane {
    hub: Rc<Hub>,
    slot: usize,
    stage: Stage,
    shape: Shape,
    /// The body of the answer.
    body: Body,
    chunked: bool,
    /// A tunnel is open: octets pass as they are.
    raw: bool,
    /// An answer's head that came in pieces.
    partial: Vec<u8>,
    /// Our side ended, or the client's did before its time: no further stream comes.
    closing: bool,
}

impl Lane {
    pub(super) fn new(hub: Rc<Hub>, slot: usize) -> Self {
        let (stage, shape, body) = (Stage::Waiting, Shape::default(), Body::new(Framing::None));
        Self { hub, slot, stage, shape, body, chunked: false, raw: false, partial: Vec::new(), closing: false }
    }

    /// Takes the stream that waits, if there is one.
    fn begin(&mut self) -> bool {
        let Some(shape) = self.hub.codec.borrow_mut().begin_stream(self.slot) else { return false };
        self.shape = shape;
        (self.chunked, self.raw) = (false, false);
        self.partial.clear();
        self.stage = Stage::Asked;
        true
    }

    /// The stream is over: the next may come.
    fn finish(&mut self) {
        self.stage = Stage::Waiting;
        let slot = self.slot;
        let idle = self.hub.with(|codec| {
            codec.release(slot, true);
            codec.busy() == 0
        });
        if idle {
            // The connection is idle from now on.
            self.hub.wake();
        }
    }

    /// Takes octets of the answer's heads; returns how many.
    fn take_head(&mut self, octets: &[u8]) -> io::Result<usize> {
        let before = self.partial.len();
        let joined = before > 0;
        if joined {
            self.partial.extend_from_slice(octets);
        }
        let hub = self.hub.clone();
        let mut fields = hub.fields.borrow_mut();
        let partial = std::mem::take(&mut self.partial);
        let bytes = if joined { &partial } else { octets };
        let parsed = head1::parse_response(bytes, &hub.limits, &mut fields).map_err(|_| broken())?;
        let Some(line) = parsed else {
            self.partial = partial;
            if !joined {
                self.partial.extend_from_slice(octets);
            }
            return Ok(octets.len());
        };
        let len = line.len;
        self.answer(bytes.get(..len).unwrap_or_default(), &line, &fields)?;
        Ok(len.saturating_sub(before))
    }

    /// Sends an answer's head on.
    fn answer(&mut self, bytes: &[u8], line: &StatusLine<'_>, fields: &Fields) -> io::Result<()> {
        let tunnel = line.status == 101;
        let ending = if tunnel {
            self.raw = true;
            Ending::Tunnel
        } else if line.status < 200 {
            Ending::Body
        } else {
            let framing = framing::response_body(bytes, fields, line.version, line.status, self.shape.is_head)
                .map_err(|_| broken())?;
            self.body = Body::new(framing);
            self.chunked = framing == Framing::Chunked;
            if self.body.is_done() { Ending::Head } else { Ending::Body }
        };
        let slot = self.slot;
        self.hub.with(|codec| codec.answer(slot, (bytes, line, fields), ending));
        if tunnel || line.status >= 200 {
            self.stage = Stage::Answering;
        }
        Ok(())
    }

    /// Takes octets of the answer's body; returns how many.
    fn take_body(&mut self, octets: &[u8]) -> io::Result<usize> {
        let slot = self.slot;
        if self.raw {
            self.hub.with(|codec| codec.send(slot, octets, false));
            return Ok(octets.len());
        }
        if !self.chunked {
            let used = self.body.advance(octets).map_err(|_| broken())?;
            let done = self.body.is_done();
            self.hub.with(|codec| codec.send(slot, octets.get(..used).unwrap_or_default(), done));
            return Ok(used);
        }
        let mut payload = self.hub.payload.borrow_mut();
        payload.clear();
        let used = self.body.transcode(octets, Form::Payload, &mut payload).map_err(|_| broken())?;
        let trailers = self.body.take_trailer().filter(|_| self.body.is_done());
        let done = self.body.is_done();
        self.hub.with(|codec| {
            if let Some(section) = trailers {
                codec.trail(slot, &section);
            }
            codec.send(slot, &payload, done);
        });
        Ok(used)
    }

    /// Looks whether more may be read for the client; fails where it gave the stream up.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.stage == Stage::Waiting {
            return Poll::Ready(Ok(()));
        }
        let slot = self.slot;
        let room = self.hub.codec.borrow_mut().room_for(slot);
        match room {
            Room::Free => {
                self.hub.wait(slot, cx);
                Poll::Ready(Ok(()))
            }
            Room::Held => {
                self.hub.wait(slot, cx);
                Poll::Pending
            }
            Room::Lost => {
                self.closing = true;
                Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
            }
        }
    }

    fn reset(&self) {
        let slot = self.slot;
        if self.stage != Stage::Waiting {
            self.hub.with(|codec| {
                if !codec.has_ended(slot) {
                    codec.reset(slot, Code::Internal);
                }
            });
        }
    }
}

impl AsyncRead for Lane {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let slot = this.slot;
        loop {
            if this.closing && !this.raw {
                return Poll::Ready(Ok(()));
            }
            match this.stage {
                Stage::Answering if !this.raw && this.hub.codec.borrow().is_complete(slot) => {
                    // What is complete may still wait for flow control; only then may the next stream come.
                    if this.poll_room(cx)?.is_pending() {
                        return Poll::Pending;
                    }
                    if this.shape.tunnel {
                        return Poll::Ready(Ok(()));
                    }
                    this.finish();
                }
                Stage::Asked | Stage::Answering => {
                    let read = this.hub.with(|codec| codec.read(slot, into.initialize_unfilled()));
                    return match read {
                        Read::Octets(n) => {
                            into.advance(n);
                            Poll::Ready(Ok(()))
                        }
                        Read::End => Poll::Ready(Ok(())),
                        Read::Lost => {
                            this.closing = true;
                            Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
                        }
                        Read::Nothing => {
                            this.hub.wait(slot, cx);
                            Poll::Pending
                        }
                    };
                }
                Stage::Waiting if this.hub.closed.get() => return Poll::Ready(Ok(())),
                Stage::Waiting => {
                    if !this.begin() {
                        this.hub.wait(slot, cx);
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Lane {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut taken = 0;
        while let Some(rest) = octets.get(taken..).filter(|rest| !rest.is_empty()) {
            let slot = this.slot;
            let step = match this.stage {
                Stage::Waiting => Err(broken()),
                Stage::Asked => this.take_head(rest),
                Stage::Answering if this.hub.codec.borrow().is_complete(slot) => Err(broken()),
                Stage::Answering => match this.poll_room(cx) {
                    Poll::Pending if taken == 0 => return Poll::Pending,
                    Poll::Pending => break,
                    Poll::Ready(Err(error)) => Err(error),
                    Poll::Ready(Ok(())) => this.take_body(rest),
                },
            };
            taken += match step {
                Ok(n) => n,
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_room(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let slot = this.slot;
        if this.stage == Stage::Answering && !this.closing {
            if this.raw || this.body.ends_with_connection() {
                this.hub.with(|codec| codec.send(slot, &[], true));
            } else {
                // What is not complete must not look so.
                this.reset();
            }
            // What is complete may still wait for flow control.
            if this.poll_room(cx)?.is_pending() {
                return Poll::Pending;
            }
        } else {
            this.reset();
        }
        this.closing = true;
        Poll::Ready(Ok(()))
    }
}

impl Layer for Lane {
    fn is_idle(&mut self) -> bool {
        self.stage == Stage::Waiting && !self.hub.closed.get()
    }

    fn abort_on_close(&mut self) {
        self.reset();
        self.closing = true;
    }

    fn room(&self) -> usize {
        self.hub.codec.borrow().room(self.slot)
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("shape", &self.shape).field("closing", &self.closing).finish_non_exhaustive()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if thread::panicking() {
            self.hub.shard.panics.add(1);
        }
        let (slot, has_stream) = (self.slot, self.stage != Stage::Waiting);
        self.hub.with(|codec| codec.disown(slot, has_stream));
        self.hub.wake();
    }
}

fn broken() -> io::Error {
    ErrorKind::InvalidData.into()
}
