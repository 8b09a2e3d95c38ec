//! Addresses, networks and ranges of numbers as texts.

use crate::spec::text::text;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// An IP address with a port: `127.0.0.1:8080`, `[::1]:8080`, or `:8080` for every address of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(SocketAddr);

text!(
    Address, "Address",
    expecting "an address with its port, such as \"127.0.0.1:8080\" or \":8080\"",
    pattern "^(\\[[0-9a-fA-F:.]+\\]|[0-9.]*):[0-9]{1,5}$",
    example "127.0.0.1:8080"
);

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// An IP address without a port.
    #[error("address {0:?} has no port: write it as \"{1}:8080\"")]
    NoPort(String, String),
    /// A host name where an IP address must stand.
    #[error("address {0:?} is a host name: write an IP address, such as \"127.0.0.1:8080\"")]
    HostName(String),
    /// Anything else.
    #[error(
        "{0:?} is no address: write an IP address and a port, such as \"127.0.0.1:8080\", \"[::1]:8080\" or \":8080\""
    )]
    Form(String),
}

impl Address {
    /// Wraps a socket address.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Returns the socket address; `:8080` is `[::]:8080`, which listens on both IP versions.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(port) = text.strip_prefix(':').and_then(number::<u16>) {
            return Ok(Self(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let shown = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
            return Err(AddressError::NoPort(text.to_owned(), shown));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if number::<u16>(port).is_some() && is_host(host) => {
                Err(AddressError::HostName(text.to_owned()))
            }
            _ => Err(AddressError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => write!(f, ":{}", self.0.port()),
            _ => self.0.fmt(f),
        }
    }
}

/// A network in CIDR form, `10.0.0.0/8` or `fd00::/8`; a bare address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

text!(
    Network, "Network",
    expecting "a network, such as \"10.0.0.0/8\"",
    pattern "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
    example "10.0.0.0/8"
);

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Bits behind the prefix are set.
    #[error("network {0:?} has bits set behind its prefix: did you mean \"{1}\"?")]
    HostBits(String, Network),
    /// Anything else.
    #[error("{0:?} is no network: write an IP address and a prefix length, such as \"10.0.0.0/8\"")]
    Form(String),
}

impl Network {
    /// Makes the network of the first `prefix` bits of `address`; a longer prefix than the address counts as its length.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.min(bits);
        let shift = u32::from(bits - prefix);
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(shift).unwrap_or(0)).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(shift).unwrap_or(0)).into()),
        };
        Self { address, prefix }
    }

    /// Returns the address and the prefix length.
    pub fn get(self) -> (IpAddr, u8) {
        (self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let form = || NetworkError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), number::<u8>).filter(|p| *p <= bits).ok_or_else(form)?;
        let network = Self::new(address, prefix);
        if network.address == address { Ok(network) } else { Err(NetworkError::HostBits(text.to_owned(), network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An inclusive range of numbers up to 65535: `200-399`, or one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range(RangeInclusive<u16>);

text!(
    Range, "Range",
    expecting "a range in quotes, such as \"200-399\"",
    pattern "^[0-9]{1,5}(-[0-9]{1,5})?$",
    example "200-399"
);

/// Why a text is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The first number is above the last.
    #[error("range {0:?} begins above its end: did you mean \"{1}\"?")]
    Backwards(String, Range),
    /// Anything else.
    #[error("{0:?} is no range: write two numbers up to 65535, such as \"200-399\", or one")]
    Form(String),
}

impl Range {
    /// Wraps a range.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self(range)
    }

    /// Returns the range.
    pub fn get(&self) -> RangeInclusive<u16> {
        self.0.clone()
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (number::<u16>(first), number::<u16>(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first..=last)),
            (Some(first), Some(last)) => Err(RangeError::Backwards(text.to_owned(), Self(last..=first))),
            _ => Err(RangeError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// Returns whether a text could be a host name rather than an address.
fn is_host(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Reads digits only: no sign, no space.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Address, AddressError, Network, NetworkError, Range, RangeError};
    use proptest::prelude::{any, proptest};

    #[test]
    fn reads_addresses_and_a_bare_port_for_all() {
        let read = |text: &str| text.parse::<Address>().unwrap().get().to_string();
        assert_eq!([read("127.0.0.1:80"), read("[::1]:80"), read(":8080")], ["127.0.0.1:80", "[::1]:80", "[::]:8080"]);
        assert_eq!(":8080".parse::<Address>().unwrap().to_string(), ":8080");
    }

    #[test]
    fn says_what_an_address_lacks() {
        assert_eq!("127.0.0.1".parse::<Address>(), Err(AddressError::NoPort("127.0.0.1".into(), "127.0.0.1".into())));
        assert_eq!("::1".parse::<Address>(), Err(AddressError::NoPort("::1".into(), "[::1]".into())));
        assert_eq!("localhost:80".parse::<Address>(), Err(AddressError::HostName("localhost:80".into())));
        for bad in ["", ":", ":99999", ":+80", "8080", "127.0.0.1:80:80", "[::g]:80"] {
            assert!(matches!(bad.parse::<Address>(), Err(AddressError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn reads_networks_and_corrects_host_bits() {
        let read = |text: &str| text.parse::<Network>().unwrap().to_string();
        assert_eq!(
            [read("10.0.0.0/8"), read("0.0.0.0/0"), read("::/0"), read("fd00::/8"), read("10.1.2.3")],
            ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "10.1.2.3/32"]
        );
        let wrong = "10.1.2.3/8".parse::<Network>().unwrap_err();
        assert!(matches!(wrong, NetworkError::HostBits(..)) && wrong.to_string().contains("\"10.0.0.0/8\""));
        for bad in ["", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/", "a/8", "10.0.0.0/-1"] {
            assert!(matches!(bad.parse::<Network>(), Err(NetworkError::Form(_))), "{bad}");
        }
    }

    #[test]
    fn reads_ranges() {
        let read = |text: &str| text.parse::<Range>().unwrap();
        assert_eq!([read("200-399").get(), read("204").get()], [200..=399, 204..=204]);
        assert_eq!([read("200-399").to_string(), read("204").to_string()], ["200-399", "204"]);
        assert!(matches!("399-200".parse::<Range>(), Err(RangeError::Backwards(..))));
        for bad in ["", "-", "2xx", "200-", "200-399-", "1-70000", "+1"] {
            assert!(matches!(bad.parse::<Range>(), Err(RangeError::Form(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), ascii in "[0-9a-f:./\\[\\]-]{0,40}") {
            for text in [text, ascii] {
                let _ = (text.parse::<Address>(), text.parse::<Network>(), text.parse::<Range>());
            }
        }

        #[test]
        fn what_is_shown_reads_as_the_same(ip in any::<std::net::IpAddr>(), prefix in 0_u8..=128, port in any::<u16>()) {
            let network = Network::new(ip, prefix);
            assert_eq!(network.to_string().parse(), Ok(network));
            let address = Address::new((ip, port).into());
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }
}
