//! A byte stream as the proxy sees it: a socket, or something that a socket or a multiplexed connection carries.
//!
//! A plain socket is a variant of its own, so that the busiest path costs a branch and no indirect call, and so that
//! splice(2) can be used on it. Everything else (TLS, one stream of an HTTP/2 connection) is a [`Layer`].

use crate::sys::queue::unacknowledged;
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
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
    /// Returns why the other side certainly did nothing with what it was sent; `None`: it may have.
    fn unserved(&self) -> Option<Unserved> {
        None
    }
    /// Returns how much may be read somewhere else to be written here, so that what this holds stays bounded.
    fn room(&self) -> usize {
        usize::MAX
    }
    /// Returns how much of what was written a socket below holds.
    fn queued(&self) -> usize {
        0
    }
}

/// Why nothing was done with what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unserved {
    /// The other side refused it, or goes away.
    Refused,
    /// The other side carries no tunnels.
    NoTunnel,
}

/// A byte stream, both ways.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Tcp(TcpStream),
    /// A socket that was accepted a moment ago and has not been waited for: the reactor does not know it yet. A connection
    /// of one request mostly never needs that, which saves it two system calls. Nonblocking; `None`: it could not be watched.
    Accepted(Option<std::net::TcpStream>),
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
            Self::Accepted(None) => false,
            Self::Accepted(Some(socket)) => {
                matches!(socket.read(&mut [0u8; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Layered(layer) => layer.is_idle(),
        }
    }

    /// Makes the close a reset: what the other side was sent must not look complete.
    pub fn abort_on_close(&mut self) {
        match self {
            // It may be gone already: then there is nobody to tell.
            Self::Tcp(stream) => drop(stream.set_zero_linger()),
            Self::Accepted(None) => {}
            Self::Accepted(Some(socket)) => drop(SockRef::from(&*socket).set_linger(Some(Duration::ZERO))),
            Self::Layered(layer) => layer.abort_on_close(),
        }
    }

    /// Returns why the other side certainly did nothing with what it was sent; `None`: it may have, a socket cannot tell.
    pub fn unserved(&self) -> Option<Unserved> {
        match self {
            Self::Tcp(_) | Self::Accepted(_) => None,
            Self::Layered(layer) => layer.unserved(),
        }
    }

    /// Returns how much may be read somewhere else to be written here; a socket takes what it takes.
    pub fn room(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Accepted(_) => usize::MAX,
            Self::Layered(layer) => layer.room(),
        }
    }

    /// Returns how much of what was written the kernel holds, as the other side has not acknowledged it. A system call.
    pub fn queued(&self) -> usize {
        match self {
            Self::Tcp(stream) => unacknowledged(stream).unwrap_or(0),
            Self::Accepted(stream) => stream.as_ref().map_or(0, |stream| unacknowledged(stream).unwrap_or(0)),
            Self::Layered(layer) => layer.queued(),
        }
    }

    /// Returns the bare socket, where octets may pass the process by.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Accepted(_) | Self::Layered(_) => None,
        }
    }

    /// Returns the other side's address and this one's, of a bare socket.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().zip(stream.local_addr().ok()),
            Self::Accepted(stream) => {
                let stream = stream.as_ref()?;
                stream.peer_addr().ok().zip(stream.local_addr().ok())
            }
            Self::Layered(_) => None,
        }
    }

    /// Has the reactor watch the socket, where it does not yet.
    ///
    /// # Errors
    /// The kernel takes no further descriptor to watch.
    pub fn watch(&mut self) -> io::Result<()> {
        if let Self::Accepted(socket) = self {
            let socket = socket.take().ok_or(io::ErrorKind::NotConnected)?;
            *self = Self::Tcp(TcpStream::from_std(socket)?);
        }
        Ok(())
    }

    /// Writes the last octets before the close: the kernel may hold them until then, so that they and the end go in one
    /// segment. Who does not close at once must not use it.
    pub fn poll_write_last(&mut self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_io(Interest::WRITABLE, || send_held(&*stream, octets)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => return Poll::Ready(sent),
                }
            },
            Self::Accepted(Some(socket)) => match send_held(&*socket, octets) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(self).poll_write(cx, octets),
                sent => Poll::Ready(sent),
            },
            _ => Pin::new(self).poll_write(cx, octets),
        }
    }

    /// Tries a call on a socket that is not watched, until the kernel says that it has to be waited for; `None`: it is
    /// watched from now on.
    fn attempt<T>(&mut self, mut call: impl FnMut(&mut std::net::TcpStream) -> io::Result<T>) -> Option<io::Result<T>> {
        let Self::Accepted(socket) = self else { return None };
        let Some(socket) = socket else { return Some(Err(io::ErrorKind::NotConnected.into())) };
        loop {
            match call(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                done => return Some(done),
            }
        }
        self.watch().err().map(Err)
    }

    /// Returns whether what was written may wait in the process until it is flushed.
    pub fn buffers(&self) -> bool {
        matches!(self, Self::Layered(_))
    }
}

/// Receives once. Fewer octets than there was room for say that no more is there: the next poll waits without a call in
/// vain. Straight to the kernel: the C library's wrappers look around each call whether the thread is to end.
fn poll_receive(stream: &TcpStream, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let room = into.initialize_unfilled();
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let mut short = None;
        let received = stream.try_io(Interest::READABLE, || {
            let (_, n) = rustix::net::recv(stream, &mut *room, RecvFlags::empty())?;
            if n > 0 && n < room.len() {
                short = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match short.map_or(received, Ok) {
            Ok(n) => {
                into.advance(n);
                return Poll::Ready(Ok(()));
            }
            Err(error) if is_vain(&error) => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Sends once. When the kernel took a part, the next poll waits for it without a call in vain. A socket takes octets nearly
/// always, so it is waited for only when it did not.
fn poll_send(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    length: usize,
    call: impl Fn(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut short = None;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let n = call(stream)?;
            if n > 0 && n < length {
                short = Some(n);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(n)
        });
        match short.map_or(sent, Ok) {
            Err(error) if is_vain(&error) => ready!(stream.poll_write_ready(cx))?,
            sent => return Poll::Ready(sent),
        }
    }
}

/// Returns whether a call did nothing and is to be made again once the socket is ready.
fn is_vain(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Sends what the kernel may hold until the socket is closed.
fn send_held(socket: impl rustix::fd::AsFd, octets: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, octets, SendFlags::MORE | SendFlags::NOSIGNAL)?)
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<std::net::TcpStream> for Stream {
    /// The socket must be nonblocking.
    fn from(accepted: std::net::TcpStream) -> Self {
        Self::Accepted(Some(accepted))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(read) = this.attempt(|socket| socket.read(into.initialize_unfilled())) {
            return Poll::Ready(read.map(|n| into.advance(n)));
        }
        match this {
            Self::Tcp(stream) => poll_receive(stream, cx, into),
            Self::Layered(layer) => Pin::new(layer).poll_read(cx, into),
            Self::Accepted(_) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(written) = this.attempt(|socket| socket.write(octets)) {
            return Poll::Ready(written);
        }
        match this {
            Self::Tcp(stream) => poll_send(stream, cx, octets.len(), |socket| {
                Ok(rustix::net::send(socket, octets, SendFlags::NOSIGNAL)?)
            }),
            Self::Layered(layer) => Pin::new(layer).poll_write(cx, octets),
            Self::Accepted(_) => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(written) = this.attempt(|socket| socket.write_vectored(parts)) {
            return Poll::Ready(written);
        }
        match this {
            Self::Tcp(stream) => {
                let length = parts.iter().map(|part| part.len()).sum();
                poll_send(stream, cx, length, |socket| Ok(rustix::io::writev(socket, parts)?))
            }
            Self::Layered(layer) => Pin::new(layer).poll_write_vectored(cx, parts),
            Self::Accepted(_) => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Sockets hold nothing back.
            Self::Tcp(_) | Self::Accepted(_) => Poll::Ready(Ok(())),
            Self::Layered(layer) => Pin::new(layer).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Accepted(socket) => {
                Poll::Ready(socket.as_ref().map_or(Ok(()), |socket| socket.shutdown(Shutdown::Write)))
            }
            Self::Layered(layer) => Pin::new(layer).poll_shutdown(cx),
        }
    }
}
