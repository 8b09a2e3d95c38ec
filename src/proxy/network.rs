//! Networks of addresses.

use std::net::IpAddr;

/// Returns whether a network of the given prefix length holds the address.
pub(crate) fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let (a, b, width) = match (network, address) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let shift = width - u32::from(length).min(width);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::contains;

    #[test]
    fn a_network_holds_its_addresses() {
        let ip = |text: &str| text.parse().unwrap();
        assert!(contains(ip("10.0.0.0"), 8, ip("10.255.1.2")));
        assert!(!contains(ip("10.0.0.0"), 8, ip("11.0.0.0")));
        assert!(contains(ip("0.0.0.0"), 0, ip("1.2.3.4")) && !contains(ip("0.0.0.0"), 0, ip("::1")));
        assert!(contains(ip("fd00::"), 8, ip("fdff::1")) && contains(ip("::"), 0, ip("::1")));
        assert!(contains(ip("192.0.2.1"), 32, ip("192.0.2.1")) && !contains(ip("192.0.2.1"), 32, ip("192.0.2.2")));
    }
}
