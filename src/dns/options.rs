//! Typed options of the DNS server.

use std::net::SocketAddr;
use std::time::Duration;

/// Options of the DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Addresses for UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The zone, lower case, without the final dot.
    pub zone: String,
    /// UDP threads.
    pub threads: usize,
    /// TTL of negative answers (SOA minimum), RFC 2308 §4.
    pub negative_ttl: Duration,
    /// Largest UDP answer with EDNS; RFC 9715 advises 1232 octets.
    pub max_udp_bytes: u16,
    /// TCP connections at a time; further ones are closed.
    pub tcp_connections: usize,
    /// Idle TCP connections are closed after this, RFC 7766 §6.2.3.
    pub tcp_idle: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8600))],
            zone: "weir.internal".to_owned(),
            threads: 1,
            negative_ttl: Duration::from_secs(5),
            max_udp_bytes: 1232,
            tcp_connections: 1024,
            tcp_idle: Duration::from_secs(10),
        }
    }
}
