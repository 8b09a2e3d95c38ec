//! Typed options of the admin API.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// TCP address; only a loopback address is accepted.
    pub listen: Option<SocketAddr>,
    /// Unix socket, created with mode 0600.
    pub socket: Option<PathBuf>,
    /// Connections at a time.
    pub connections: usize,
    /// Largest request body in octets; above: 413.
    pub body_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9600))),
            socket: None,
            connections: 256,
            body_bytes: 4 * 1024 * 1024,
        }
    }
}
