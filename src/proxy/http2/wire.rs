//! The octets under an HTTP/2 connection: first what was read already, then the stream, past the meter.

use crate::net::Stream;
use crate::proxy::http2::meter::{Bounds, Breach, Meter};
use crate::proxy::timer::Timers;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the wire outside it.
#[derive(Debug)]
pub(super) struct Watch {
    timers: Rc<Timers>,
    meter: RefCell<Meter>,
    breach: Cell<Option<Breach>>,
    /// Since when the peer takes nothing of what is to be sent; 0: it does.
    blocked_ms: Cell<u64>,
    /// The close is a reset.
    abort: Cell<bool>,
}

impl Watch {
    pub(super) fn new(timers: Rc<Timers>, bounds: Bounds) -> Self {
        let meter = RefCell::new(Meter::new(bounds));
        Self { timers, meter, breach: Cell::new(None), blocked_ms: Cell::new(0), abort: Cell::new(false) }
    }

    /// Returns why the connection must end.
    pub(super) fn breach(&self) -> Option<Breach> {
        self.breach.get()
    }

    /// Returns since when the peer takes nothing.
    pub(super) fn blocked_since(&self) -> Option<u64> {
        Some(self.blocked_ms.get()).filter(|&at| at != 0)
    }

    /// Counts a stream that the peer reset before its answer.
    pub(super) fn reset(&self) {
        self.note(self.meter.borrow_mut().reset(self.timers.now_ms()));
    }

    pub(super) fn abort_on_close(&self) {
        self.abort.set(true);
    }

    fn note(&self, breach: Option<Breach>) {
        if self.breach.get().is_none() {
            self.breach.set(breach);
        }
    }

    fn wrote(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(n)) => {
                self.blocked_ms.set(0);
                self.meter.borrow_mut().sent(*n);
            }
            Poll::Pending if self.blocked_ms.get() == 0 => self.blocked_ms.set(self.timers.now_ms()),
            _ => {}
        }
    }
}

/// What an HTTP/2 connection reads and writes.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    /// Octets that were read before it was known that this is HTTP/2.
    front: Vec<u8>,
    watch: Rc<Watch>,
}

impl Wire {
    pub(super) fn new(stream: Stream, front: Vec<u8>, watch: Rc<Watch>) -> Self {
        Self { stream, front, watch }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.breach.get().is_some() {
            // Nothing more is read of it; who drives the connection ends it.
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = if this.front.is_empty() {
            Pin::new(&mut this.stream).poll_read(cx, into)
        } else {
            let n = this.front.len().min(into.remaining());
            into.put_slice(this.front.get(..n).unwrap_or_default());
            this.front.drain(..n);
            if this.front.is_empty() {
                this.front = Vec::new();
            }
            Poll::Ready(Ok(()))
        };
        let fresh = into.filled().get(before..).unwrap_or_default();
        if !fresh.is_empty() {
            let breach = this.watch.meter.borrow_mut().take(fresh, this.watch.timers.now_ms());
            this.watch.note(breach);
        }
        if this.watch.breach.get().is_some() {
            into.set_filled(before);
            return Poll::Pending;
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, octets);
        this.watch.wrote(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.watch.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.socket().is_some()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.watch.abort.get() {
            self.stream.abort_on_close();
        }
    }
}
