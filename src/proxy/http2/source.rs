//! What comes on an HTTP/2 stream, as HTTP/1.1 octets: the head that was written, then the body by its length or in chunks.
//!
//! Flow control is opened only as octets are taken.

use crate::proxy::http2::head;
use bytes::Bytes;
use h2::RecvStream;
use std::io::{self, ErrorKind, Write};
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// One direction of a stream: from the peer.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Octets that are ready: a head, the framing of a chunk, trailers.
    ready: Vec<u8>,
    ready_at: usize,
    chunk: Bytes,
    body: Option<RecvStream>,
    chunked: bool,
    /// A chunk is open: its end must be written.
    open: bool,
    data_over: bool,
    over: bool,
    failed: Option<h2::Error>,
}

impl Source {
    /// Begins a message: a head is written into the returned buffer, and what follows is `body`.
    pub(super) fn begin(&mut self) -> &mut Vec<u8> {
        let mut ready = std::mem::take(&mut self.ready);
        ready.clear();
        *self = Self { ready, ..Self::default() };
        &mut self.ready
    }

    /// Says what follows the head.
    pub(super) fn follow(&mut self, body: RecvStream, chunked: bool) {
        self.data_over = !chunked && body.is_end_stream();
        self.over = self.data_over;
        self.chunked = chunked;
        self.body = Some(body);
    }

    /// Reads octets; none at the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        while into.remaining() > 0 {
            if self.put_ready(into) || self.put_chunk(into)? {
                continue;
            }
            if self.over {
                break;
            }
            match self.poll_more(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if into.filled().len() > before => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Copies of what is ready; returns whether there was any.
    pub(super) fn put_ready(&mut self, into: &mut ReadBuf<'_>) -> bool {
        let rest = self.ready.get(self.ready_at..).unwrap_or_default();
        let n = rest.len().min(into.remaining());
        into.put_slice(rest.get(..n).unwrap_or_default());
        self.ready_at += n;
        n > 0
    }

    fn put_chunk(&mut self, into: &mut ReadBuf<'_>) -> io::Result<bool> {
        let n = self.chunk.len().min(into.remaining());
        if n == 0 {
            return Ok(false);
        }
        into.put_slice(&self.chunk.split_to(n));
        if let Some(body) = &mut self.body {
            // What was announced may be taken again: the peer may send so much more.
            body.flow_control().release_capacity(n).map_err(|error| lost(&error))?;
        }
        Ok(true)
    }

    /// Gets the next part of the body ready.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ready.clear();
        self.ready_at = 0;
        let Some(body) = &mut self.body else {
            self.over = true;
            return Poll::Ready(Ok(()));
        };
        if !self.data_over {
            match ready!(body.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    if self.chunked {
                        let end = if std::mem::replace(&mut self.open, true) { "\r\n" } else { "" };
                        // Writing to a vector cannot fail.
                        let _ = write!(self.ready, "{end}{:x}\r\n", data.len());
                    }
                    self.chunk = data;
                }
                Some(Err(error)) => return Poll::Ready(Err(self.fail(error))),
                None => self.data_over = true,
            }
            return Poll::Ready(Ok(()));
        }
        let trailers = match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => trailers,
            Err(error) => return Poll::Ready(Err(self.fail(error))),
        };
        self.over = true;
        if self.chunked {
            if std::mem::take(&mut self.open) {
                self.ready.extend_from_slice(b"\r\n");
            }
            if head::write_trailers(trailers.as_ref(), &mut self.ready).is_err() {
                return Poll::Ready(Err(ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn fail(&mut self, error: h2::Error) -> io::Error {
        let told = lost(&error);
        self.failed = Some(error);
        told
    }
}

/// An error of the stream as one of the octets.
pub(super) fn lost(error: &h2::Error) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, error.to_string())
}
