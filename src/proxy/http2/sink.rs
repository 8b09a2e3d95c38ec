//! What HTTP/1.1 octets say of a body, onto an HTTP/2 stream: data within flow control, then trailers.
//!
//! What flow control does not take yet is kept, one write's worth; nothing more is taken meanwhile.

use crate::http1::framing::{Body, Form, Framing};
use crate::proxy::http2::head;
use crate::proxy::http2::source::lost;
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

/// One direction of a stream: to the peer.
#[derive(Debug)]
pub(super) struct Sink {
    stream: Option<SendStream<Bytes>>,
    body: Body,
    chunked: bool,
    held: Vec<u8>,
    held_at: usize,
    trailers: Option<HeaderMap>,
    /// Everything was given to the stream.
    ended: bool,
}

impl Default for Sink {
    fn default() -> Self {
        Self {
            stream: None,
            body: Body::new(Framing::None),
            chunked: false,
            held: Vec::new(),
            held_at: 0,
            trailers: None,
            ended: false,
        }
    }
}

impl Sink {
    /// Begins a body; one that is there already ended with its head.
    pub(super) fn begin(&mut self, stream: SendStream<Bytes>, framing: Framing) {
        let mut held = std::mem::take(&mut self.held);
        held.clear();
        let body = Body::new(framing);
        let ended = body.is_done();
        let chunked = framing == Framing::Chunked;
        *self = Self { stream: Some(stream), body, chunked, held, held_at: 0, trailers: None, ended };
    }

    /// Returns whether everything of the body has come, though it may wait here.
    fn is_complete(&self) -> bool {
        self.ended || self.body.is_done()
    }

    /// Returns whether something waits for the peer.
    fn holds(&self) -> bool {
        self.held_at < self.held.len()
    }

    /// Takes octets of the body; returns how many.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.ended || octets.is_empty() {
            // Nothing may follow: who writes is out of step.
            return Poll::Ready(if octets.is_empty() { Ok(0) } else { Err(ErrorKind::InvalidData.into()) });
        }
        let used = if self.chunked {
            let used = self.body.transcode(octets, Form::Payload, &mut self.held).map_err(|_| broken())?;
            if self.body.is_done() {
                self.trailers = self.body.take_trailer().and_then(|section| head::trailers(&section));
            }
            used
        } else {
            self.body.advance(octets).map_err(|_| broken())?
        };
        if !self.chunked {
            let now = octets.get(..used).unwrap_or_default();
            let sent = self.send_now(now)?;
            self.held.extend_from_slice(now.get(sent..).unwrap_or_default());
        }
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(used)),
        }
    }

    /// Sends what flow control takes at once, without a copy in between.
    fn send_now(&mut self, octets: &[u8]) -> io::Result<usize> {
        let last = self.is_complete();
        let Some(stream) = &mut self.stream else { return Err(broken()) };
        stream.reserve_capacity(octets.len());
        let n = stream.capacity().min(octets.len());
        if n > 0 {
            let ends = last && n == octets.len();
            stream
                .send_data(Bytes::copy_from_slice(octets.get(..n).unwrap_or_default()), ends)
                .map_err(|e| lost(&e))?;
            self.ended = ends;
        }
        Ok(n)
    }

    /// Hands everything that is here to the stream; ready when nothing waits here any more.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.holds() {
            let whole = self.is_complete() && self.trailers.is_none();
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(broken())) };
            let rest = self.held.get(self.held_at..).unwrap_or_default();
            stream.reserve_capacity(rest.len());
            let n = stream.capacity().min(rest.len());
            if n == 0 {
                match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Poll::Ready(Err(lost(&error))),
                    None => return Poll::Ready(Err(broken())),
                }
            }
            let ends = whole && n == rest.len();
            let data = Bytes::copy_from_slice(rest.get(..n).unwrap_or_default());
            stream.send_data(data, ends).map_err(|e| lost(&e))?;
            self.ended = ends;
            self.held_at += n;
        }
        self.held.clear();
        self.held_at = 0;
        if !self.ended && self.is_complete() {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(broken())) };
            match self.trailers.take() {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(|e| lost(&e))?;
            self.ended = true;
        }
        Poll::Ready(Ok(()))
    }

    /// The octets end here: in order only where that is the end of the body.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.body.ends_with_connection() {
            let Some(stream) = &mut self.stream else { return Poll::Ready(Err(broken())) };
            stream.send_data(Bytes::new(), true).map_err(|e| lost(&e))?;
            self.ended = true;
        } else {
            self.reset(Reason::INTERNAL_ERROR);
        }
        Poll::Ready(Ok(()))
    }

    /// Resets the stream, so that it looks complete to nobody.
    pub(super) fn reset(&mut self, reason: Reason) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(reason);
        }
        self.ended = true;
    }
}

fn broken() -> io::Error {
    ErrorKind::InvalidData.into()
}
