//! The octets of a TLS session as a [`Layer`].

use crate::net::Layer;
use crate::sys::queue::unacknowledged;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

/// A session over a socket.
#[derive(Debug)]
pub(super) struct TlsLayer {
    stream: TlsStream<TcpStream>,
    /// Whether the close must not look like the proper end.
    aborted: bool,
}

impl TlsLayer {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, aborted: false }
    }

    /// Pushes on what waits: records of data, alerts, answers to key updates. An error is met again by who reads or writes.
    fn push(&mut self, cx: &mut Context<'_>) {
        if self.stream.get_ref().1.wants_write() {
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
    }
}

impl Layer for TlsLayer {
    /// Tickets and key updates may have come meanwhile: they are taken in.
    fn is_idle(&mut self) -> bool {
        let mut octet = [0u8; 1];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut octet)).is_pending()
    }

    fn abort_on_close(&mut self) {
        self.aborted = true;
        // It may be gone already: then there is nobody to tell.
        drop(self.stream.get_ref().0.set_zero_linger());
    }

    fn queued(&self) -> usize {
        unacknowledged(self.stream.get_ref().0).unwrap_or(0)
    }
}

impl AsyncRead for TlsLayer {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.push(cx);
        Pin::new(&mut this.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for TlsLayer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.aborted {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
