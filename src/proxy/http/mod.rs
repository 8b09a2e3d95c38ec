//! HTTP requests: from a parsed head to the end of the answer.
//!
//! [`h1`] drives a client's connection; [`request`] turns bytes into a [`request::Request`]; [`exchange`] picks, attempts
//! and retries; [`attempt`] relays one attempt, as [`response`] decides; [`respond`] writes Weir's own answers; [`upgrade`]
//! carries tunnels.

mod attempt;
mod exchange;
pub(crate) mod h1;
mod pick;
mod request;
mod respond;
mod response;
mod upgrade;

use crate::net::Stream;
use crate::proxy::entry::Entry;
use crate::proxy::timer::Deadline;
use std::net::IpAddr;
use std::rc::Rc;

/// The client's side of a connection.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) stream: Stream,
    /// Octets read but not yet used: a partial head, or what was pipelined. Empty while idle.
    pub(crate) carry: Vec<u8>,
    pub(crate) deadline: Deadline,
    pub(crate) peer: IpAddr,
    /// The peer as text, made once.
    pub(crate) client: Box<str>,
    /// Whether the peer's forwarding fields are believed.
    pub(crate) trusted: bool,
    /// The listener that it came through.
    pub(crate) entry: Rc<Entry>,
}

impl Downstream {
    pub(crate) fn new(stream: Stream, (peer, trusted): (IpAddr, bool), entry: Rc<Entry>, deadline: Deadline) -> Self {
        Self { stream, carry: Vec::new(), deadline, peer, client: peer.to_string().into(), trusted, entry }
    }
}
