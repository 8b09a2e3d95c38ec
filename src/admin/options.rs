//! Typed options of the admin API.

use crate::model::CertificateFiles;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// TCP address; only a loopback address is accepted.
    pub listen: Option<SocketAddr>,
    /// Unix socket, created with mode 0600.
    pub socket: Option<PathBuf>,
    /// What other machines may ask; `None`: nothing.
    pub remote: Option<RemoteOptions>,
    /// Connections at a time at each address, those of Weirs that follow left out.
    pub connections: usize,
    /// Connections of Weirs that follow at a time at each address.
    pub followers: usize,
    /// Largest request body in octets; above: 413.
    pub body_bytes: usize,
}

/// Options of the door for other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOptions {
    /// TCP address.
    pub listen: SocketAddr,
    /// File of tokens.
    pub token_file: PathBuf,
    /// Its certificate; `None` only at a loopback address: clear text.
    pub tls: Option<CertificateFiles>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9600))),
            socket: None,
            remote: None,
            connections: 256,
            followers: 4096,
            body_bytes: 4 * 1024 * 1024,
        }
    }
}
