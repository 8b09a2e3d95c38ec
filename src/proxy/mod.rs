//! Data plane: streams and requests.
//!
//! A connection's life: a [`worker`] accepts it ([`accept`]), [`connection`] serves it with the HTTP/1.1 engine
//! (`http::h1`), each request becomes one `http::exchange`, which picks an endpoint from the current snapshot, takes an
//! upstream connection from the worker's [`pool`] and relays. HTTP/2 ([`http2`]) is a bridge to the same path on either side. A connection of a TCP listener goes to one endpoint as it
//! is ([`tcp`]); its octets and those of upgraded connections move in [`copy`]. Datagrams of a UDP listener move in [`datagram`]. Nothing is shared between workers but the
//! snapshot's counters. No timer per wait: [`timer`] is swept on a coarse clock.

mod accept;
mod admission;
mod apart;
mod arriving;
mod capture;
mod connect;
mod connection;
mod copy;
mod datagram;
mod direction;
mod entry;
mod error;
#[cfg(test)]
mod fixture;
mod flow;
mod handshake;
mod held;
mod http;
mod http2;
mod known;
mod local;
mod memory;
mod network;
mod observe;
mod options;
mod outgoing;
mod partial;
mod passing;
mod patience;
mod pick;
mod pipe;
mod pool;
mod preface;
mod scratch;
mod shortage;
mod spread;
mod state;
mod streams;
mod tcp;
mod timer;
mod tls;
mod wait;
mod worker;

pub use accept::Lent;
pub use options::{Http2Options, Limits, Options, Timeouts};
pub use tls::{Tls, TlsListener};
pub use worker::{Parts, Workers, start};
