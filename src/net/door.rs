//! A bound socket through which traffic enters.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// A listening socket of either transport.
#[derive(Debug)]
pub enum Door {
    /// Takes connections.
    Tcp(TcpListener),
    /// Takes datagrams.
    Udp(UdpSocket),
}

impl Door {
    /// Returns a duplicate of it.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
        }
    }

    /// Returns its address.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

impl From<TcpListener> for Door {
    fn from(socket: TcpListener) -> Self {
        Self::Tcp(socket)
    }
}
