//! TLS over sockets, both ways: handshakes, and the layer that carries octets afterwards.
//!
//! Takes ready configurations: which certificate is shown is the certificates' matter (`table/certificates`), whom a
//! connection belongs to the proxy's. TLS 1.2 and 1.3 by rustls, which has no renegotiation, no compression and no early data
//! unless asked; nothing here asks. A deadline is whoever awaits the handshake's.

mod accept;
mod client;
mod door;
pub mod files;
mod layer;
mod refusal;
mod server;
mod tickets;

pub use accept::{Accepted, Protocol, accept};
pub use client::{Clients, Fault, HTTP2, Ready, build as build_client, connect, connect_session, speaking};
pub use door::Door;
pub use files::{BadFile, read};
pub use refusal::Refusal;
pub use server::{ClientPolicy, Server, ServerError, ServerOptions};
pub use tickets::{Secret, Tickets};
