//! UDP sockets: several that share an address, and replies from the address that was asked.

use crate::net::BindError;
use crate::net::listener::{UDP, bind_ahead, holder};
use crate::sys::datagram::report_destination;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Room for bursts: some 10,000 small queries; the kernel lowers it to `net.core.rmem_max`.
const BUFFER_BYTES: usize = 4 << 20;

/// Binds `count` blocking UDP sockets to one address; `receive_timeout` bounds each wait. With `ahead` the
/// address need not be there yet (IP_FREEBIND).
///
/// As for listeners, the address is first tried without SO_REUSEPORT. One socket alone stays without it, so that nobody
/// can join it later. A wildcard socket reports the local address of each datagram.
///
/// # Errors
/// [`BindError`] with the holder's name and pid where `/proc` tells.
pub fn bind_datagrams(
    address: SocketAddr,
    count: usize,
    ahead: bool,
    receive_timeout: Duration,
) -> Result<Vec<UdpSocket>, BindError> {
    bind_all(address, count, (ahead, receive_timeout)).map_err(|source| BindError {
        address,
        holder: holder(address, &source, &UDP),
        source,
    })
}

fn bind_all(address: SocketAddr, count: usize, how: (bool, Duration)) -> io::Result<Vec<UdpSocket>> {
    let alone = socket(address, how)?;
    alone.bind(&address.into())?;
    if count <= 1 {
        return Ok(vec![alone.into()]);
    }
    let taken = alone.local_addr()?.as_socket().unwrap_or(address);
    drop(alone);
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(taken, how)?;
        socket.set_reuse_port(true)?;
        socket.bind(&taken.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, (ahead, receive_timeout): (bool, Duration)) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if ahead {
        bind_ahead(&socket, address)?;
    }
    // Best effort: smaller buffers only lose more of a burst.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    socket.set_read_timeout(Some(receive_timeout))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    if address.ip().is_unspecified() {
        report_destination(&socket, address.is_ipv6())?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::bind_datagrams;
    use crate::sys::datagram::Batch;
    use std::net::{SocketAddr, UdpSocket};
    use std::time::Duration;

    const WAIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_taken_address_is_refused_by_the_name_of_its_holder() {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        for count in [1, 2] {
            let first = bind_datagrams(free, count, false, WAIT).unwrap();
            let address = first[0].local_addr().unwrap();
            assert_eq!(first.len(), count);
            let text = bind_datagrams(address, 2, false, WAIT).unwrap_err().to_string();
            assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        }
    }

    #[test]
    fn a_reply_leaves_from_the_address_that_was_asked() {
        for wildcard in ["0.0.0.0:0", "[::]:0"] {
            let socket = bind_datagrams(wildcard.parse().unwrap(), 1, false, WAIT).unwrap().remove(0);
            let asked = SocketAddr::from(([127, 0, 0, 9], socket.local_addr().unwrap().port()));
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(WAIT)).unwrap();
            client.send_to(b"ask", asked).unwrap();
            let mut batch = Batch::new(512, 512);
            assert_eq!(batch.receive(&socket).unwrap(), 1);
            let (request, reply, peer) = batch.exchange(0).unwrap();
            assert_eq!(
                (request, peer.address().map(|a| a.port())),
                (&b"ask"[..], Some(client.local_addr().unwrap().port()))
            );
            reply[..3].copy_from_slice(b"yes");
            batch.set_reply(0, 3);
            assert_eq!(batch.send(&socket), 0);
            let mut answer = [0; 16];
            assert_eq!(client.recv_from(&mut answer).unwrap(), (3, asked), "{wildcard}");
        }
    }

    #[test]
    fn a_batch_takes_all_that_is_there_and_answers_each_its_own() {
        let socket =
            bind_datagrams("127.0.0.1:0".parse().unwrap(), 1, false, Duration::from_millis(20)).unwrap().remove(0);
        let mut batch = Batch::new(64, 64);
        assert_eq!(batch.receive(&socket).unwrap(), 0, "the timeout passed");
        let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for (n, client) in (0u8..).zip(&clients) {
            client.set_read_timeout(Some(WAIT)).unwrap();
            client.send_to(&[n; 100], socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(batch.receive(&socket).unwrap(), 5);
        for index in 0..5 {
            let (request, reply, _) = batch.exchange(index).unwrap();
            assert_eq!(request.len(), 64, "cut off at the buffer");
            reply[0] = request[0];
            batch.set_reply(index, if index == 2 { 0 } else { 1 });
        }
        batch.send(&socket);
        for (n, client) in (0u8..).zip(&clients).filter(|(n, _)| *n != 2) {
            let mut answer = [9; 4];
            assert_eq!((client.recv(&mut answer).unwrap(), answer[0]), (1, n));
        }
    }
}
