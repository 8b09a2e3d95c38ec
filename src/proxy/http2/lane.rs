//! One stream at a time of a client's HTTP/2 connection, as the HTTP/1.1 connection that the request path serves.
//!
//! A lane is used again: where the next request would come on a kept HTTP/1.1 connection, the next stream comes here. So a
//! warm connection makes no task, no timer and no buffer for a stream.

use crate::http1::framing::{self, Framing};
use crate::http1::head::{self as head1, Fields, StatusLine};
use crate::net::Layer;
use crate::proxy::http2::head::{self, Shape};
use crate::proxy::http2::sink::Sink;
use crate::proxy::http2::source::{Source, lost};
use crate::proxy::http2::wire::Watch;
use crate::telemetry::Shard;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::thread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the lanes of one connection share with it.
pub(super) struct Hub {
    pub(super) free: RefCell<Vec<Rc<Seat>>>,
    /// Lanes with a stream.
    pub(super) busy: Cell<usize>,
    /// The connection is over: lanes without a stream end.
    pub(super) closed: Cell<bool>,
    pub(super) watch: Rc<Watch>,
    pub(super) shard: Arc<Shard>,
    pub(super) limits: head1::Limits,
    pub(super) fields: RefCell<Fields>,
    /// Wakes the connection.
    pub(super) waker: RefCell<Option<Waker>>,
}

impl Hub {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Counts a stream that its client reset before it was answered.
    fn was_reset(&self) {
        self.watch.reset();
        if self.watch.breach().is_some() {
            self.wake();
        }
    }
}

/// A stream that waits for its lane.
pub(super) struct Job {
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) shape: Shape,
}

/// Where a lane gets its streams.
#[derive(Default)]
pub(super) struct Seat {
    /// The head of the stream that waits, as HTTP/1.1.
    pub(super) head: RefCell<Vec<u8>>,
    job: RefCell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
    pub(super) gone: Cell<bool>,
}

impl Seat {
    /// Hands a stream over.
    pub(super) fn give(&self, job: Job) {
        self.job.replace(Some(job));
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

enum Stage {
    /// No stream.
    Waiting,
    /// The answer's head has not come.
    Asked { respond: SendResponse<Bytes>, held: Option<RecvStream> },
    /// The answer's body passes, or what is in a tunnel.
    Answering,
}

/// A layer over whatever stream is given to it.
pub(super) struct Lane {
    hub: Rc<Hub>,
    seat: Rc<Seat>,
    stage: Stage,
    shape: Shape,
    source: Source,
    sink: Sink,
    /// An answer's head that came in pieces.
    partial: Vec<u8>,
    /// Our side ended: no further stream comes.
    closing: bool,
}

impl Lane {
    pub(super) fn new(hub: Rc<Hub>, seat: Rc<Seat>) -> Self {
        Self {
            hub,
            seat,
            stage: Stage::Waiting,
            shape: Shape::default(),
            source: Source::default(),
            sink: Sink::default(),
            partial: Vec::new(),
            closing: false,
        }
    }

    /// Takes the stream that waits.
    fn begin(&mut self, job: Job) {
        let Job { body, respond, shape } = job;
        std::mem::swap(self.source.begin(), &mut *self.seat.head.borrow_mut());
        self.shape = shape;
        self.partial.clear();
        let held = if shape.tunnel {
            // No octet passes before the endpoint has agreed.
            Some(body)
        } else {
            self.source.follow(body, shape.chunked);
            None
        };
        self.stage = Stage::Asked { respond, held };
    }

    /// The stream is over: the next may come.
    fn finish(&mut self) {
        self.stage = Stage::Waiting;
        self.source.drop_body();
        self.sink.finish();
        self.hub.busy.set(self.hub.busy.get() - 1);
        self.hub.free.borrow_mut().push(self.seat.clone());
        if self.hub.busy.get() == 0 {
            // The connection is idle from now on.
            self.hub.wake();
        }
    }

    fn is_answered(&self) -> bool {
        matches!(self.stage, Stage::Answering) && self.sink.has_ended()
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
        let Stage::Asked { respond, held } = &mut self.stage else { return Err(broken()) };
        let mut answer = head::answer(bytes, line, fields).ok_or_else(broken)?;
        if line.status < 200 && line.status != 101 {
            return respond.send_informational(answer).map_err(|error| lost(&error));
        }
        let tunnel = line.status == 101;
        let framing = match tunnel {
            true => Framing::None,
            false => framing::response_body(bytes, fields, line.version, line.status, self.shape.is_head)
                .map_err(|_| broken())?,
        };
        let ends = !tunnel && matches!(framing, Framing::None | Framing::Length(0));
        if ends && answer.headers().contains_key("grpc-status") {
            // Trailers alone have no length.
            answer.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let stream = respond.send_response(answer, ends).map_err(|error| lost(&error))?;
        self.sink.begin(stream, framing, tunnel);
        if let Some(body) = held.take()
            && tunnel
        {
            self.source.follow(body, false);
        }
        self.stage = Stage::Answering;
        Ok(())
    }

    /// Looks whether the client gave the stream up.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let reset = match &mut self.stage {
            Stage::Asked { respond, .. } => respond.poll_reset(cx).is_ready(),
            Stage::Answering if !self.sink.has_ended() => self.sink.poll_reset(cx).is_ready(),
            _ => false,
        };
        if !reset {
            return Ok(());
        }
        self.gave_up();
        Err(ErrorKind::ConnectionReset.into())
    }

    /// The client reset the stream: counted once, where nothing was answered.
    fn gave_up(&mut self) {
        if matches!(self.stage, Stage::Asked { .. }) && !self.closing {
            self.hub.was_reset();
        }
        self.closing = true;
    }

    fn reset(&mut self, reason: Reason) {
        match &mut self.stage {
            Stage::Asked { respond, .. } => respond.send_reset(reason),
            Stage::Answering if !self.sink.has_ended() => self.sink.reset(reason),
            _ => {}
        }
    }
}

impl AsyncRead for Lane {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Stage::Answering = this.stage
                && this.sink.poll_flush(cx)?.is_pending()
                && this.sink.is_complete()
            {
                return Poll::Pending;
            }
            if this.closing && !this.shape.tunnel {
                return Poll::Ready(Ok(()));
            }
            match this.stage {
                Stage::Answering if this.is_answered() && !this.shape.tunnel => this.finish(),
                Stage::Asked { .. } | Stage::Answering => {
                    let read = ready!(this.source.poll_read(cx, into));
                    if read.is_err() {
                        this.gave_up();
                    }
                    return Poll::Ready(read);
                }
                Stage::Waiting => {
                    let job = this.seat.job.borrow_mut().take();
                    match job {
                        Some(job) => this.begin(job),
                        None if this.hub.closed.get() => return Poll::Ready(Ok(())),
                        None => {
                            this.seat.waker.replace(Some(cx.waker().clone()));
                            return Poll::Pending;
                        }
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
            let step = match this.stage {
                Stage::Waiting => Poll::Ready(Err(broken())),
                Stage::Asked { .. } => Poll::Ready(this.take_head(rest)),
                Stage::Answering => this.sink.poll_write(cx, rest),
            };
            match step {
                Poll::Ready(Ok(n)) => taken += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_reset(cx)?;
        match this.stage {
            Stage::Answering => this.sink.poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.stage, Stage::Answering) {
            // What is complete may still wait for flow control; what is not must not look so.
            ready!(this.sink.poll_end(cx))?;
        } else {
            this.reset(Reason::INTERNAL_ERROR);
        }
        this.closing = true;
        Poll::Ready(Ok(()))
    }
}

impl Layer for Lane {
    fn is_idle(&mut self) -> bool {
        matches!(self.stage, Stage::Waiting) && !self.hub.closed.get()
    }

    fn abort_on_close(&mut self) {
        self.reset(Reason::INTERNAL_ERROR);
        self.closing = true;
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("shape", &self.shape).field("closing", &self.closing).finish_non_exhaustive()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.seat.gone.set(true);
        if thread::panicking() {
            self.hub.shard.panics.add(1);
        }
        if let Some(mut job) = self.seat.job.borrow_mut().take() {
            // It came when the lane was about to end: nothing of it was looked at.
            job.respond.send_reset(Reason::REFUSED_STREAM);
            self.hub.busy.set(self.hub.busy.get() - 1);
        }
        if !matches!(self.stage, Stage::Waiting) {
            self.reset(Reason::INTERNAL_ERROR);
            self.hub.busy.set(self.hub.busy.get() - 1);
        }
        self.hub.wake();
    }
}

fn broken() -> io::Error {
    ErrorKind::InvalidData.into()
}
