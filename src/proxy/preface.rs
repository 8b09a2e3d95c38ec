//! A connection of a listener where proxies say who their client is: their header is read before anything else.
//!
//! Only from networks that are believed; a header from elsewhere, a malformed one, and none where there must be one close
//! the connection, which is counted by reason. Nothing behind the header is taken from the socket. Next on the path: what
//! `accept.rs` does with every connection.

use crate::model::ProxyProtocolSpec;
use crate::net::preface::proxy::{Header, MAX_BYTES, Malformed, Reading, read};
use crate::net::preface::{Peeked, peek, take};
use crate::proxy::network::contains;
use crate::proxy::state::Worker;
use crate::proxy::timer::Deadline;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::net::TcpStream;

/// Longest wait for the header.
const HEADER_MS: u64 = 3000;

/// Who a connection is from.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The client, as far as it is known.
    pub(crate) peer: IpAddr,
    /// What is known beside; `None`: nothing but what the socket says.
    pub(crate) origin: Option<Rc<Header>>,
}

impl Arrival {
    /// Returns what endpoints are told of a client at a socket.
    pub(crate) fn header(&self, socket: impl FnOnce() -> Option<Header>) -> Rc<Header> {
        self.origin.clone().unwrap_or_else(|| Rc::new(socket().unwrap_or_default()))
    }
}

/// Returns what a socket says of a client.
pub(crate) fn seen(socket: &TcpStream) -> Option<Header> {
    Some(Header { addresses: socket.peer_addr().ok().zip(socket.local_addr().ok()), ..Header::default() })
}

/// Reads what stands before the traffic; returns who the connection is from. `None`: it was refused, and counted.
pub(crate) async fn greet(
    worker: &Worker,
    deadline: &Deadline,
    socket: &TcpStream,
    peer: IpAddr,
    (spec, listener): (&ProxyProtocolSpec, &str),
) -> Option<Arrival> {
    let believed = spec.from.iter().any(|(network, length)| contains(*network, *length, peer));
    let origin = match (spec.required, believed) {
        // Whatever it says.
        (true, false) => Err("proxy_untrusted"),
        _ => match in_time(deadline, socket).await {
            Ok(Some(_)) if !believed => Err("proxy_untrusted"),
            Ok(None) if spec.required => Err("proxy_absent"),
            other => other,
        },
    };
    match origin {
        Ok(Some(header)) => {
            // Without addresses it is the proxy's own connection, such as a check.
            let client = header.addresses.map_or(peer, |(source, _)| source.ip().to_canonical());
            let origin = header.addresses.is_some().then(|| Rc::from(header));
            Some(Arrival { peer: client, origin })
        }
        Ok(None) => Some(Arrival { peer, origin: None }),
        Err(reason) => {
            worker.shard.refused(reason);
            worker.underway.say_preface(worker.timers.now_ms(), listener, peer, reason);
            None
        }
    }
}

/// Reads and takes a header within its time; `None`: there is none.
async fn in_time(deadline: &Deadline, socket: &TcpStream) -> Result<Option<Box<Header>>, &'static str> {
    deadline.set(HEADER_MS);
    let mut reading = pin!(header(socket));
    poll_fn(|cx| match reading.as_mut().poll(cx) {
        Poll::Ready(read) => Poll::Ready(read),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err("proxy_timeout")),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Reads and takes a header; `None`: there is none.
async fn header(socket: &TcpStream) -> Result<Option<Box<Header>>, &'static str> {
    // Whoever says nothing holds nothing.
    socket.readable().await.map_err(|_| "client_gone")?;
    let mut room = vec![0; MAX_BYTES];
    let decide = |octets: &[u8]| match read(octets) {
        Ok(Reading::Partial) => None,
        other => Some(other),
    };
    let peeked = peek(socket, &mut room, decide).await.map_err(|_: io::Error| "client_gone")?;
    let (header, length) = match peeked {
        // Nobody says less than a header where one must be: a client that goes, or looks whether the port is open.
        Peeked::Ended(_) => return Err("client_gone"),
        Peeked::Found(Err(Malformed(_))) => return Err("proxy_malformed"),
        Peeked::Found(Ok(Reading::Header(header, length))) => (header, length),
        Peeked::Found(Ok(_)) => return Ok(None),
    };
    room.truncate(length);
    take(socket, &mut room).map_err(|_| "client_gone")?;
    Ok(Some(header))
}
