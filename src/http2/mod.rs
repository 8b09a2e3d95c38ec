//! HTTP/2 as functions on octets and one state machine: no socket, no clock, no task (RFC 9113, RFC 7541, RFC 8441).
//!
//! [`frame`] reads and writes frames, [`hpack`] head blocks, [`settings`] what a peer announces. [`connection`] is the
//! server's side of one connection: [`receive`] takes what came, frame by frame in place, [`streams`] holds what is known of
//! each stream, [`send`] encodes what goes out into one buffer, [`serve`] is what the owner of a stream calls. A request is
//! given as HTTP/1.1 octets ([`request`]), its answer is taken from a parsed HTTP/1.1 head ([`answer`]). [`meter`] counts
//! what is legal one frame at a time and a flood in number. `proxy::http2` drives them.

pub mod answer;
pub mod connection;
pub mod frame;
pub mod hpack;
pub mod meter;
pub mod receive;
pub mod request;
pub mod send;
pub mod serve;
pub mod settings;
pub mod streams;

#[cfg(test)]
mod tests;
