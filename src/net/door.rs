//! A bound socket through which traffic enters.

use socket2::{SockFilter, SockRef};
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

    /// Has the kernel drop every SYN that comes to it from now on, for good and for every duplicate; handshakes under way
    /// are finished. Before a listening socket closes: closing resets what is in its queue, also what got there after
    /// somebody saw the queue empty. Whoever sends a SYN meanwhile repeats it after a second (RFC 6298 §2.1).
    ///
    /// Does nothing to a socket of datagrams.
    ///
    /// # Errors
    /// The kernel takes no filter (socket(7), SO_ATTACH_FILTER).
    pub fn turn_away(&self) -> io::Result<()> {
        let Self::Tcp(socket) = self else { return Ok(()) };
        // The filter sees a segment from its TCP header on; octet 13 has the flags (RFC 9293 §3.1).
        let (load_octet, jump_if_any, give) = (0x30, 0x45, 0x06);
        let syn = 0x02;
        SockRef::from(socket).attach_filter(&[
            SockFilter::new(load_octet, 0, 0, 13),
            SockFilter::new(jump_if_any, 0, 1, syn),
            SockFilter::new(give, 0, 0, 0),
            SockFilter::new(give, 0, 0, u32::MAX),
        ])
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

#[cfg(test)]
mod tests {
    use super::Door;
    use crate::net::bind;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    #[test]
    fn whoever_is_turned_away_gets_no_connection_and_whoever_has_one_keeps_it() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = bind(any.parse::<SocketAddr>().unwrap(), 1, false).unwrap().remove(0);
            let address = listener.local_addr().unwrap();
            let mut waits = TcpStream::connect(address).unwrap();
            let (mut before, _) = listener.accept().unwrap();
            let mut queued = TcpStream::connect(address).unwrap();
            let door = Door::Tcp(listener.try_clone().unwrap());
            door.turn_away().unwrap();
            let late = TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
            assert_eq!(late.kind(), ErrorKind::TimedOut);
            let (mut after, _) = listener.accept().unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            drop((door, listener));
            for (client, server) in [(&mut waits, &mut before), (&mut queued, &mut after)] {
                server.set_nonblocking(false).unwrap();
                client.write_all(b"ping").unwrap();
                let mut got = [0; 4];
                server.read_exact(&mut got).unwrap();
                server.write_all(&got).unwrap();
                client.read_exact(&mut got).unwrap();
                assert_eq!(&got, b"ping");
            }
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}
