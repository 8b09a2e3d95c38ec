//! HTTP requests: from a parsed head to the end of the answer.
//!
//! [`h1`] drives a client's connection; [`request`] turns bytes into a [`request::Request`]; [`exchange`] picks, attempts
//! and retries; [`attempt`] relays one attempt, as [`response`] decides and at the pace of [`pace`]; [`respond`] writes Weir's own answers; [`upgrade`]
//! carries tunnels; [`grpc`] is what calls ask for.

mod attempt;
mod bulk;
mod exchange;
mod grpc;
pub(crate) mod h1;
mod pace;
mod pick;
mod request;
mod respond;
mod response;
mod upgrade;

use crate::net::Stream;
use crate::net::preface::proxy::Header;
use crate::proxy::entry::Entry;
use crate::proxy::partial::PartialHead;
use crate::proxy::preface::Arrival;
use crate::proxy::state::Worker;
use crate::proxy::timer::Deadline;
use crate::proxy::tls::Session;
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
    /// Counts what is carried among what all connections carry.
    held: Option<PartialHead>,
    /// Its TLS session; `None`: clear text.
    pub(crate) session: Option<Rc<Session>>,
    /// Whether it is a stream of an HTTP/2 connection.
    pub(crate) http2: bool,
    /// What is known of where it comes from, beside what the socket says.
    origin: Option<Rc<Header>>,
}

impl Downstream {
    pub(crate) fn new(
        stream: Stream,
        (arrival, trusted): (Arrival, bool),
        entry: Rc<Entry>,
        deadline: Deadline,
    ) -> Self {
        let Arrival { peer, origin } = arrival;
        Client { peer, text: peer.to_string().into(), trusted, entry, session: None, origin }.with(stream, deadline)
    }

    /// Counts what is carried; returns whether it may be.
    pub(crate) fn holds(&mut self, worker: &Worker) -> bool {
        let held = self.held.get_or_insert_with(|| worker.heads.begin());
        held.holds(self.carry.len(), worker.options.limits.partial_heads_bytes)
    }

    /// Carries what came behind a request until it is served, in place of what was carried. False: it is too much for the
    /// worker and is dropped; no further request can be read from this connection.
    pub(crate) fn keep(&mut self, worker: &Worker, rest: &[u8]) -> bool {
        if rest.is_empty() {
            self.forget(worker);
            return true;
        }
        if self.carry.capacity() == 0 {
            self.carry = worker.take_buffer();
        }
        self.carry.clear();
        self.carry.extend_from_slice(rest);
        let may = self.holds(worker);
        if !may {
            self.forget(worker);
        }
        may
    }

    /// Gives back what is carried.
    pub(crate) fn forget(&mut self, worker: &Worker) {
        self.held = None;
        if self.carry.capacity() > 0 {
            worker.give_buffer(std::mem::take(&mut self.carry));
        }
    }

    /// Returns what endpoints are told of the client.
    pub(crate) fn told(&self) -> Rc<Header> {
        let addresses = || Header { addresses: self.stream.addresses(), ..Header::default() };
        self.origin.clone().unwrap_or_else(|| Rc::new(addresses()))
    }

    /// Parts what is known of the client from its stream and deadline.
    pub(crate) fn apart(self) -> (Client, Stream, Deadline) {
        let origin = Some(self.told());
        let Self {
            stream,
            deadline,
            peer,
            client: text,
            trusted,
            entry,
            session,
            carry: _,
            held: _,
            http2: _,
            origin: _,
        } = self;
        (Client { peer, text, trusted, entry, session, origin }, stream, deadline)
    }
}

/// What is known of a client, for further streams of it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    peer: IpAddr,
    text: Box<str>,
    trusted: bool,
    pub(crate) entry: Rc<Entry>,
    session: Option<Rc<Session>>,
    origin: Option<Rc<Header>>,
}

impl Client {
    /// Returns the client's side of one of its streams.
    pub(crate) fn on(&self, stream: Stream, deadline: Deadline) -> Downstream {
        Downstream { http2: true, ..self.clone().with(stream, deadline) }
    }

    fn with(self, stream: Stream, deadline: Deadline) -> Downstream {
        let Self { peer, text: client, trusted, entry, session, origin } = self;
        Downstream {
            stream,
            carry: Vec::new(),
            deadline,
            peer,
            client,
            trusted,
            entry,
            held: None,
            session,
            http2: false,
            origin,
        }
    }
}
