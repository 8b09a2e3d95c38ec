//! Records kept encoded: everything after the owner name, appended to a slab.
//!
//! Type, class IN, TTL, length and data, as they are copied into an answer behind a two-octet owner pointer.

use crate::dnswire::{class, rtype};
use std::net::IpAddr;

/// Octets before the data: type, class, TTL, length.
pub const FIXED_BYTES: usize = 10;
/// Octets of SRV data before the target: priority, weight, port (RFC 2782).
pub const SRV_BYTES: usize = 6;

/// Returns type, class IN, TTL in seconds and the length of the data as they stand before the data.
pub fn fixed(kind: u16, ttl_seconds: u32, data_bytes: usize) -> [u8; FIXED_BYTES] {
    let [k0, k1] = kind.to_be_bytes();
    let [c0, c1] = class::IN.to_be_bytes();
    // RFC 2181 §8: a TTL has 31 bits.
    let [t0, t1, t2, t3] = ttl_seconds.min(i32::MAX.unsigned_abs()).to_be_bytes();
    let [l0, l1] = u16::try_from(data_bytes).unwrap_or(u16::MAX).to_be_bytes();
    [k0, k1, c0, c1, t0, t1, t2, t3, l0, l1]
}

/// Appends an A or AAAA record without its owner; an IPv4-mapped address counts as IPv4.
pub fn push_address(out: &mut Vec<u8>, address: IpAddr, ttl_seconds: u32) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            out.extend_from_slice(&fixed(rtype::A, ttl_seconds, 4));
            out.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            out.extend_from_slice(&fixed(rtype::AAAA, ttl_seconds, 16));
            out.extend_from_slice(&v6.octets());
        }
    }
}

/// Appends an SRV record without its owner and its target; `target_bytes` long targets follow uncompressed (RFC 2782).
pub fn push_srv(out: &mut Vec<u8>, ttl_seconds: u32, weight: u16, port: u16, target_bytes: usize) {
    out.extend_from_slice(&fixed(rtype::SRV, ttl_seconds, SRV_BYTES + target_bytes));
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&port.to_be_bytes());
}

/// Appends a TXT record without its owner: one string of at most 255 octets, the rest is cut off.
pub fn push_txt(out: &mut Vec<u8>, ttl_seconds: u32, text: &str) {
    let text = text.as_bytes().get(..text.len().min(255)).unwrap_or_default();
    out.extend_from_slice(&fixed(rtype::TXT, ttl_seconds, text.len() + 1));
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text);
}

/// Returns the type of a record that was encoded here; 0 for less than a record.
pub fn kind(record: &[u8]) -> u16 {
    record.first_chunk::<2>().map_or(0, |code| u16::from_be_bytes(*code))
}

#[cfg(test)]
mod tests {
    use super::{kind, push_address, push_srv, push_txt};
    use crate::dnswire::rtype;

    #[test]
    fn encodes_addresses() {
        let mut out = Vec::new();
        push_address(&mut out, "10.0.0.1".parse().unwrap(), 5);
        assert_eq!(out, [0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1]);
        assert_eq!(kind(&out), rtype::A);
        out.clear();
        push_address(&mut out, "::ffff:10.0.0.1".parse().unwrap(), 5);
        assert_eq!(kind(&out), rtype::A);
        out.clear();
        push_address(&mut out, "::1".parse().unwrap(), u32::MAX);
        assert_eq!((out.len(), &out[..10]), (26, &[0, 28, 0, 1, 0x7F, 255, 255, 255, 0, 16][..]));
    }

    #[test]
    fn encodes_service_and_text() {
        let mut out = Vec::new();
        push_srv(&mut out, 5, 7, 8080, 20);
        assert_eq!(out, [0, 33, 0, 1, 0, 0, 0, 5, 0, 26, 0, 0, 0, 7, 0x1F, 0x90]);
        out.clear();
        push_txt(&mut out, 5, "v1");
        assert_eq!(out, [0, 16, 0, 1, 0, 0, 0, 5, 0, 3, 2, b'v', b'1']);
        out.clear();
        push_txt(&mut out, 5, &"x".repeat(300));
        assert_eq!(out.len(), 10 + 256);
        assert_eq!(kind(&[]), 0);
    }
}
