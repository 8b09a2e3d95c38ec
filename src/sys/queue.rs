//! What a socket's send queue holds.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Returns how many octets that were written to a TCP socket the other side has not acknowledged.
///
/// # Errors
/// The errno of `ioctl` with `SIOCOUTQ`: `EINVAL` where the socket listens.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<usize> {
    let mut octets: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, which writes one `int` through the pointer (tcp(7)).
    let rc = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if rc == 0 { Ok(usize::try_from(octets).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::unacknowledged;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn what_is_not_acknowledged_is_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(unacknowledged(&client).unwrap(), 0);
        client.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = client.write(&[7; 16_000]) {
            written += n;
        }
        let waits = unacknowledged(&client).unwrap();
        assert!(waits > 0 && waits <= written, "{waits} of {written}");
        let mut taken = 0;
        while taken < written {
            taken += server.read(&mut [0; 16_000]).unwrap();
        }
        assert!(unacknowledged(&client).unwrap() < waits);
    }
}
