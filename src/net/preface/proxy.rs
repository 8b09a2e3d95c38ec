//! The PROXY protocol, versions 1 and 2: what a proxy says of its client before the client's octets.
//!
//! Pure, both ways. What can be read in two ways is refused: lengths fit to the octet, a fact stands there once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1 with its CRLF (specification 2.1).
const MAX_V1: usize = 107;
/// Longest header of version 2 that is read: addresses and what proxies say of TLS fit many times over.
pub const MAX_BYTES: usize = 4096;
/// How version 2 begins (specification 2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// How version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";
const FIXED: usize = 16;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
/// The client connected over TLS; it showed a certificate over this connection.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERTIFICATE: u8 = 0x02;
const MAX_AUTHORITY: usize = 255;
const MAX_UNIQUE_ID: usize = 128;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The client and where it connected to; `None`: the connection is the proxy's own, or nothing is known.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The host that the client asked for.
    pub authority: Option<Box<str>>,
    /// What the client's connection carries, as in ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// The client's TLS.
    pub tls: Option<Tls>,
}

/// What is known of a client's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Its version, such as `TLSv1.3`.
    pub version: Box<str>,
    /// Whether the client showed a certificate that was verified.
    pub certificate: bool,
}

/// What the first octets of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// They may become a header.
    Partial,
    /// No header.
    Absent,
    /// A header and how many octets it has.
    Header(Box<Header>, usize),
}

/// The octets are no header, though they begin as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(
    /// What is wrong.
    pub &'static str,
);

/// Reads the first octets of a connection.
///
/// # Errors
/// [`Malformed`]: no octet that may follow makes a header of them.
pub fn read(octets: &[u8]) -> Result<Reading, Malformed> {
    let begins = |with: &[u8]| octets.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        return if octets.len() < FIXED { Ok(Reading::Partial) } else { read_v2(octets) };
    }
    match begins(WORD) {
        true if octets.len() < WORD.len() => Ok(Reading::Partial),
        true => read_v1(octets),
        false => Ok(Reading::Absent),
    }
}

fn read_v1(octets: &[u8]) -> Result<Reading, Malformed> {
    let head = octets.get(..MAX_V1).unwrap_or(octets);
    let Some(end) = head.iter().position(|&octet| octet == b'\n') else {
        return if octets.len() < MAX_V1 { Ok(Reading::Partial) } else { Err(Malformed("no end of the line")) };
    };
    let line = head.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed("a line ends in CRLF"))?;
    let text = std::str::from_utf8(line).map_err(|_| Malformed("no text"))?;
    let words: Vec<&str> = text.split(' ').collect();
    let addresses = match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, from, to] => {
            let (source, destination) = match *family {
                "TCP4" => (v4(source)?, v4(destination)?),
                "TCP6" => (v6(source)?, v6(destination)?),
                _ => return Err(Malformed("unknown family")),
            };
            Some((SocketAddr::new(source, port(from)?), SocketAddr::new(destination, port(to)?)))
        }
        _ => return Err(Malformed("not six words")),
    };
    Ok(Reading::Header(Box::new(Header { addresses, ..Header::default() }), end + 1))
}

fn v4(text: &str) -> Result<IpAddr, Malformed> {
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed("no IPv4 address"))
}

fn v6(text: &str) -> Result<IpAddr, Malformed> {
    text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Malformed("no IPv6 address"))
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed("no port"))
}

fn read_v2(octets: &[u8]) -> Result<Reading, Malformed> {
    let Some(&[version, family, high, low]) = octets.get(12..FIXED) else { return Ok(Reading::Partial) };
    let local = match version {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("unknown version or command")),
    };
    // Address family and transport: none, IPv4, IPv6, Unix; none, stream, datagram.
    if family >> 4 > 3 || family & 15 > 2 {
        return Err(Malformed("unknown family"));
    }
    let whole = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if whole > MAX_BYTES {
        return Err(Malformed("too long"));
    }
    let Some(rest) = octets.get(FIXED..whole) else { return Ok(Reading::Partial) };
    // What comes with LOCAL, and with a family that says nothing, is to be skipped (specification 2.2).
    if local || family >> 4 == 0 {
        return Ok(Reading::Header(Box::default(), whole));
    }
    let size = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    let (addresses, facts) = rest.split_at_checked(size).ok_or(Malformed("too short for its addresses"))?;
    let header = octets.get(..whole).unwrap_or_default();
    let mut said = read_facts(facts, (header, FIXED + size))?;
    // What was no stream was not this connection.
    said.addresses = if family & 15 == 1 { socket_addresses(addresses) } else { None };
    Ok(Reading::Header(Box::new(said), whole))
}

/// Reads source and destination with their ports; `None`: Unix addresses.
fn socket_addresses(octets: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?));
    let (source, destination, ports): (IpAddr, IpAddr, usize) = match octets.len() {
        12 => {
            let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets.get(at..at + 4)?).ok()?));
            (ip(0)?.into(), ip(4)?.into(), 8)
        }
        36 => {
            let ip = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets.get(at..at + 16)?).ok()?));
            (ip(0)?.into(), ip(16)?.into(), 32)
        }
        _ => return None,
    };
    Some((SocketAddr::new(source, port(ports)?), SocketAddr::new(destination, port(ports + 2)?)))
}

/// Takes one type, length and value; `None` at the end.
fn fact<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Malformed> {
    let octets = *rest;
    let (kind, high, low, values) = match octets {
        [] => return Ok(None),
        [kind, high, low, values @ ..] => (*kind, *high, *low, values),
        _ => return Err(Malformed("a part of a type and length")),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, after) = values.split_at_checked(length).ok_or(Malformed("a value that is too short"))?;
    *rest = after;
    Ok(Some((kind, value)))
}

fn read_facts(mut rest: &[u8], (header, begin): (&[u8], usize)) -> Result<Header, Malformed> {
    let mut said = Header::default();
    let (mut unique, mut sum) = (false, false);
    let whole = rest.len();
    while let Some((kind, value)) = fact(&mut rest)? {
        let twice = match kind {
            ALPN => said.alpn.replace(value.into()).is_some(),
            AUTHORITY if value.len() > MAX_AUTHORITY => return Err(Malformed("an authority that is too long")),
            AUTHORITY => {
                let text = std::str::from_utf8(value).map_err(|_| Malformed("an authority that is no text"))?;
                said.authority.replace(text.into()).is_some()
            }
            CRC32C => {
                let sum_at = begin + whole - rest.len() - value.len();
                check_sum(header, sum_at, value)?;
                std::mem::replace(&mut sum, true)
            }
            UNIQUE_ID if value.len() > MAX_UNIQUE_ID => return Err(Malformed("an identifier that is too long")),
            UNIQUE_ID => std::mem::replace(&mut unique, true),
            SSL => {
                let before = said.tls.take();
                said.tls = read_tls(value)?;
                before.is_some()
            }
            _ => false,
        };
        if twice {
            return Err(Malformed("a fact that is said twice"));
        }
    }
    Ok(said)
}

fn read_tls(value: &[u8]) -> Result<Option<Tls>, Malformed> {
    let (head, mut rest) = value.split_at_checked(5).ok_or(Malformed("TLS that is too short"))?;
    let [client, verify @ ..] = head else { return Err(Malformed("TLS that is too short")) };
    let mut version: Option<Box<str>> = None;
    while let Some((kind, value)) = fact(&mut rest)? {
        if kind == SSL_VERSION {
            let text = std::str::from_utf8(value).map_err(|_| Malformed("a version that is no text"))?;
            if version.replace(text.into()).is_some() {
                return Err(Malformed("a fact that is said twice"));
            }
        }
    }
    let certificate = client & !CLIENT_SSL != 0 && verify == [0; 4];
    Ok((client & CLIENT_SSL != 0).then(|| Tls { version: version.unwrap_or_default(), certificate }))
}

/// Checks a sum over the whole header with the sum's own octets as zeroes (specification 2.2.3).
fn check_sum(header: &[u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let said: [u8; 4] = value.try_into().map_err(|_| Malformed("a sum of another length"))?;
    let octets = header.iter().enumerate().map(|(i, octet)| if (at..at + 4).contains(&i) { 0 } else { *octet });
    if crc32c(octets) == u32::from_be_bytes(said) { Ok(()) } else { Err(Malformed("a wrong sum")) }
}

/// CRC32C (RFC 9260 appendix A), bit by bit: a header is short, and few have a sum.
fn crc32c(octets: impl Iterator<Item = u8>) -> u32 {
    !octets.fold(!0u32, |crc, octet| {
        (0..8).fold(crc ^ u32::from(octet), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// Both addresses in one family: where they differ IPv4 is written as IPv6.
fn one_family((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}

/// Writes a header of version 1.
pub fn write_v1(header: &Header) -> Vec<u8> {
    let Some((source, destination)) = header.addresses.map(one_family) else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
        .into_bytes()
}

/// Writes a header of version 2; without addresses LOCAL: the connection is the proxy's own.
pub fn write_v2(header: &Header) -> Vec<u8> {
    let mut octets = SIGNATURE.to_vec();
    let Some((source, destination)) = header.addresses.map(one_family) else {
        octets.extend([0x20, 0, 0, 0]);
        return octets;
    };
    octets.extend([0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, 0, 0]);
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => octets.extend(ip.octets()),
            IpAddr::V6(ip) => octets.extend(ip.octets()),
        }
    }
    octets.extend(source.port().to_be_bytes());
    octets.extend(destination.port().to_be_bytes());
    let said = |kind: u8, value: &[u8], octets: &mut Vec<u8>| {
        // Longer ones are not written; none of those that Weir knows comes near.
        if let Ok(length) = u16::try_from(value.len()).map(u16::to_be_bytes) {
            octets.push(kind);
            octets.extend(length);
            octets.extend(value);
        }
    };
    if let Some(alpn) = &header.alpn {
        said(ALPN, alpn, &mut octets);
    }
    if let Some(authority) = header.authority.as_deref().filter(|authority| authority.len() <= MAX_AUTHORITY) {
        said(AUTHORITY, authority.as_bytes(), &mut octets);
    }
    if let Some(tls) = &header.tls {
        let mut value = vec![CLIENT_SSL | if tls.certificate { CLIENT_CERTIFICATE } else { 0 }];
        // 0: a certificate was verified.
        value.extend(u32::from(!tls.certificate).to_be_bytes());
        said(SSL_VERSION, tls.version.as_bytes(), &mut value);
        said(SSL, &value, &mut octets);
    }
    let length = u16::try_from(octets.len() - FIXED).unwrap_or(u16::MAX).to_be_bytes();
    for (place, octet) in octets.iter_mut().skip(14).zip(length) {
        *place = octet;
    }
    octets
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
