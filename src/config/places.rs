//! `dns.listen`: addresses, and the gateways of containers' networks.

use crate::spec::Address;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

const CONTAINERS: &str = "containers";

/// Where the DNS server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsListen {
    /// At an address.
    At(Address),
    /// At this port of the gateway of every network of containers.
    Containers(u16),
}

/// Why a text is no place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsListenError {
    /// It is no address.
    #[error("{0}")]
    Address(String),
    /// Its port is none.
    #[error("{0:?} has no port: write \"containers:53\"")]
    Port(String),
}

impl DnsListen {
    /// Returns the address.
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::At(address) => Some(address.get()),
            Self::Containers(_) => None,
        }
    }

    /// Returns the port at the gateways.
    pub(super) fn port(self) -> Option<u16> {
        match self {
            Self::At(_) => None,
            Self::Containers(port) => Some(port),
        }
    }
}

impl FromStr for DnsListen {
    type Err = DnsListenError;

    fn from_str(text: &str) -> Result<Self, DnsListenError> {
        let Some(rest) = text.strip_prefix(CONTAINERS) else {
            return text
                .parse()
                .map(Self::At)
                .map_err(|error: <Address as FromStr>::Err| DnsListenError::Address(error.to_string()));
        };
        let port = rest.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0);
        port.map(Self::Containers).ok_or_else(|| DnsListenError::Port(text.to_owned()))
    }
}

impl fmt::Display for DnsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Containers(port) => write!(f, "{CONTAINERS}:{port}"),
        }
    }
}

crate::spec::text!(
    DnsListen, "DnsListen",
    expecting "an address with its port, such as \"127.0.0.1:8600\", or \"containers:53\"",
    pattern "^(containers:[0-9]{1,5}|([0-9.]*|\\[[0-9a-fA-F:.]*\\]):[0-9]{1,5})$",
    example "containers:53"
);

#[cfg(test)]
mod tests {
    use super::DnsListen;

    #[test]
    fn reads_addresses_and_gateways() {
        let shown = |text: &str| text.parse::<DnsListen>().map(|listen| listen.to_string());
        assert_eq!(shown("containers:53").unwrap(), "containers:53");
        assert_eq!(shown("127.0.0.1:8600").unwrap(), "127.0.0.1:8600");
        for wrong in ["", "containers", "containers:", "containers:0", "containers:70000", "container:53"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
