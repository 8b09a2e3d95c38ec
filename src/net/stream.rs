//! A byte stream as the proxy sees it: a socket, or something that a socket or a multiplexed connection carries.
//!
//! A plain socket is a variant of its own, so that the busiest path costs a branch and no indirect call, and so that
//! splice(2) can be used on it. Everything else (TLS, one stream of an HTTP/2 connection) is a [`Layer`].

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What carries octets over something else than a bare socket.
///
/// `poll_write` takes what it can and returns how much; it need not have left the process, and stays bounded. `poll_flush`
/// pushes it on, and so does every other poll. Who waits for something polls `poll_flush` too; who closes in order ends with
/// `poll_shutdown`, which is done at once after `abort_on_close`.
pub trait Layer: AsyncRead + AsyncWrite + Unpin + fmt::Debug {
    /// Returns whether the other side can still be there and has sent nothing: an idle stream that may be used again.
    fn is_idle(&mut self) -> bool;
    /// Makes the close an abort: what the other side was sent must not look complete.
    fn abort_on_close(&mut self);
    /// Returns whether the other side certainly did nothing with what it was sent, though it broke off.
    fn was_refused(&self) -> bool {
        false
    }
}

/// A byte stream, both ways.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Tcp(TcpStream),
    /// Anything else.
    Layered(Box<dyn Layer>),
}

impl Stream {
    /// Returns whether the other side is still there and has sent nothing. On a socket it costs no system call unless the
    /// kernel reported an event.
    pub fn is_idle(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => {
                let mut byte = [0u8; 1];
                matches!(stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Layered(layer) => layer.is_idle(),
        }
    }

    /// Makes the close a reset: what the other side was sent must not look complete.
    pub fn abort_on_close(&mut self) {
        match self {
            // It may be gone already: then there is nobody to tell.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            Self::Layered(layer) => layer.abort_on_close(),
        }
    }

    /// Returns whether the other side certainly did nothing with what it was sent; a socket cannot tell.
    pub fn was_refused(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Layered(layer) => layer.was_refused(),
        }
    }

    /// Returns the bare socket, where octets may pass the process by.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Layered(_) => None,
        }
    }

    /// Returns whether what was written may wait in the process until it is flushed.
    pub fn buffers(&self) -> bool {
        matches!(self, Self::Layered(_))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Layered(layer) => Pin::new(layer).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, octets),
            Self::Layered(layer) => Pin::new(layer).poll_write(cx, octets),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Layered(layer) => Pin::new(layer).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Layered(layer) => Pin::new(layer).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Layered(layer) => Pin::new(layer).poll_shutdown(cx),
        }
    }
}
