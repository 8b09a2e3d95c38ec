//! A relay of datagrams that does nothing else: what a loop of readiness, receives and sends costs by itself.
//!
//! One thread, one poll, one buffer; a connected socket for each client, for ever. Each datagram is a receive and a send.

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

const LISTENER: Token = Token(usize::MAX);
/// Room for the longest datagram.
const ROOM: usize = 1 << 16;

/// Relays between `LISTEN=ENDPOINT` until the process is ended. The TCP address says that it runs.
pub(crate) fn run(argument: &str, tcp: SocketAddr) -> Result<(), Box<dyn Error>> {
    let (listen, endpoint) = argument.split_once('=').ok_or("LISTEN=ENDPOINT expected")?;
    let _runs = std::net::TcpListener::bind(tcp)?;
    let endpoint: SocketAddr = endpoint.parse()?;
    let mut poll = Poll::new()?;
    let mut listener = UdpSocket::bind(listen.parse()?)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (mut flows, mut places) = (Vec::<(UdpSocket, SocketAddr)>::new(), HashMap::new());
    let (mut events, mut buffer) = (Events::with_capacity(512), vec![0; ROOM]);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if event.token() != LISTENER {
                let Some((socket, client)) = flows.get(event.token().0) else { continue };
                while let Some(n) = waits(socket.recv(&mut buffer))? {
                    waits(listener.send_to(&buffer[..n], *client))?;
                }
                continue;
            }
            while let Some((n, client)) = waits(listener.recv_from(&mut buffer))? {
                let place = match places.get(&client) {
                    Some(&place) => place,
                    None => {
                        let mut socket = UdpSocket::bind("127.0.0.1:0".parse()?)?;
                        socket.connect(endpoint)?;
                        poll.registry().register(&mut socket, Token(flows.len()), Interest::READABLE)?;
                        flows.push((socket, client));
                        places.insert(client, flows.len() - 1);
                        flows.len() - 1
                    }
                };
                waits(flows[place].0.send(&buffer[..n]))?;
            }
        }
    }
}

/// What a call brought; `None`: it has to be waited for, or what came is lost.
fn waits<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error),
    }
}
