//! `dns.service_addresses`: a range of which each service gets an address of its own.

use crate::config::file::Dns;
use crate::spec::{Network, Problems};
use std::net::{IpAddr, Ipv4Addr};

/// Shorter prefixes would swallow the internet, longer ones hold no services.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=29;

/// Reads the range.
pub(super) fn read(p: &mut Problems, section: Option<&Dns>) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = section?.service_addresses?.get();
    let key = "dns.service_addresses";
    let hint = "write a range that is in use nowhere, such as \"198.18.0.0/16\"";
    let IpAddr::V4(network) = address else {
        p.add(key, "is no IPv4 network", hint);
        return None;
    };
    if !PREFIXES.contains(&prefix) {
        p.add(key, format!("has a prefix of {prefix}, 8 to 29 are possible"), hint);
    } else if network.is_loopback() || network.is_multicast() || network.is_unspecified() {
        p.add(key, format!("{network} is of a network with a meaning of its own"), hint);
    } else {
        return Some((network, prefix));
    }
    None
}

/// Writes the range.
pub(super) fn write(range: (Ipv4Addr, u8)) -> Network {
    Network::new(range.0.into(), range.1)
}
