//! `weir whoami`: the built-in test backend.
//!
//! A small HTTP/1.1 server on hyper that says which instance answered, and misbehaves on request. Tests and the demo
//! depend on it being exact: `/bytes/N` sends N bytes whose values follow from their position, every answer carries the
//! tag of its request, and every POST is counted (and journalled when asked) the moment its head arrives, so that a
//! request executed twice is seen even when the replica was killed in between. It knows nothing of the rest of Weir.
//!
//! Next on the path: `server.rs` accepts and ends, `answer.rs` routes one request, `body.rs` makes the bytes,
//! `websocket.rs` echoes frames (RFC 6455), `datagram.rs` datagrams.

mod answer;
mod args;
mod body;
mod datagram;
mod server;
mod websocket;

#[cfg(test)]
mod tests;

pub use args::WhoamiArgs;
pub use body::pattern_byte;
pub use server::run;
