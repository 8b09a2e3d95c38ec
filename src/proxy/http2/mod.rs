//! HTTP/2 around the one request path, which speaks HTTP/1.1 octets.
//!
//! Downstream, [`server`] drives `crate::http2`, the codec, on a client's connection; each of its streams becomes a [`lane`]: a
//! layer that yields the request as HTTP/1.1 octets and takes the answer back as such, so that every rule, limit, retry and log
//! line of the request path holds here too, and the strict HTTP/1.1 parser checks again what came over HTTP/2.
//!
//! Upstream, [`client`] is the crate `h2`'s; [`head`] and [`reply`] translate heads for it, [`source`] and [`sink`] are the two
//! directions of a stream, [`pulse`] finds endpoints that are gone without a word, [`inspect`] heads that the crate would repair.

pub(crate) mod client;
mod head;
mod inspect;
mod lane;
mod pulse;
mod reply;
pub(crate) mod server;
mod sink;
mod source;
#[cfg(test)]
mod tests;
