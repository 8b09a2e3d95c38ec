//! A listening socket, or one of datagrams, that the reactor watches.

use std::io;
use std::net::{TcpListener, UdpSocket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the reactor of this thread watch a nonblocking listening socket for connections.
///
/// Tokio's own listener hands out sockets that it watches already; what is accepted from this one is bare.
///
/// # Errors
/// The kernel takes no further descriptor to watch.
pub fn watch(listener: TcpListener) -> io::Result<AsyncFd<TcpListener>> {
    // SAFETY: the listener owns its descriptor, gives always the same, and is closed only after it is watched no longer:
    // it cannot be taken out of the `AsyncFd` before.
    Ok(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?)
}

/// Has the reactor of this thread watch a nonblocking socket for datagrams.
///
/// # Errors
/// The kernel takes no further descriptor to watch.
pub fn watch_datagrams(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: as in `watch`.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}
