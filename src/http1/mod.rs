//! The HTTP/1.1 protocol as functions on byte slices: no socket, no clock, no allocation per message.
//!
//! [`head`] parses strictly (RFC 9110, 9112: refuse, never repair), [`framing`] says where a body ends, [`date`] writes dates, [`digest`] proves a WebSocket handshake, [`path`] gives each path its one form, [`rewrite`] turns
//! a parsed head into the one that is forwarded. `proxy::http` drives them.

pub mod date;
pub mod digest;
pub mod framing;
pub mod head;
pub mod path;
pub mod reject;
pub mod rewrite;

#[cfg(test)]
mod tests;
