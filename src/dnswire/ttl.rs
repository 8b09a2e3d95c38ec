//! How long an answer is fresh.

use crate::dnswire::{HEADER_BYTES, rtype};

/// Octets of a record between its owner and its data: type, class, TTL, length.
const FIXED_BYTES: usize = 10;
/// Most labels of a name, RFC 1035 §2.3.4.
const MAX_LABELS: usize = 128;

/// Returns the lowest TTL of an answer's records in seconds; that of a negative answer is no more than its SOA's minimum
/// (RFC 2308 §5). `None` when there is no record, or the message is malformed.
pub fn least_ttl(message: &[u8]) -> Option<u32> {
    let count = |at: usize| message.get(at..at + 2)?.first_chunk::<2>().map(|n| u16::from_be_bytes(*n));
    let mut at = HEADER_BYTES;
    for _ in 0..count(4)? {
        at = skip_name(message, at)? + 4;
    }
    let records = u32::from(count(6)?) + u32::from(count(8)?) + u32::from(count(10)?);
    let mut least = None::<u32>;
    for _ in 0..records {
        at = skip_name(message, at)?;
        let &[k0, k1, _, _, t0, t1, t2, t3, l0, l1] = message.get(at..)?.first_chunk::<FIXED_BYTES>()?;
        let end = at + FIXED_BYTES + usize::from(u16::from_be_bytes([l0, l1]));
        let data = message.get(at + FIXED_BYTES..end)?;
        at = end;
        let kind = u16::from_be_bytes([k0, k1]);
        if kind == rtype::OPT {
            continue;
        }
        let mut ttl = u32::from_be_bytes([t0, t1, t2, t3]);
        if kind == rtype::SOA {
            ttl = ttl.min(data.last_chunk::<4>().map_or(0, |minimum| u32::from_be_bytes(*minimum)));
        }
        least = Some(least.map_or(ttl, |least| least.min(ttl)));
    }
    least
}

/// Returns the place behind a name, which may end in a pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    for _ in 0..MAX_LABELS {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..64 => at += 1 + length,
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::least_ttl;
    use proptest::prelude::{any, prop, proptest};

    fn message(records: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0, 1, 0x84, 0, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        out.extend_from_slice(b"\x01a\x00\x00\x01\x00\x01");
        records.iter().for_each(|record| out.extend_from_slice(record));
        out
    }

    #[test]
    fn the_record_that_ends_first_counts() {
        let a = |ttl: u8| [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 1, 7];
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
        assert_eq!(least_ttl(&message(&[&a(9), &a(4), &opt])), Some(4));
        assert_eq!(least_ttl(&message(&[&opt])), None);
        assert_eq!(least_ttl(&message(&[])), None);
        let soa = [
            0xC0, 12, 0, 6, 0, 1, 0, 0, 0, 60, 0, 22, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5,
        ];
        assert_eq!(least_ttl(&message(&[&soa])), Some(5));
        assert_eq!(least_ttl(&message(&[&a(9)])[..30]), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = least_ttl(&octets);
        }
    }
}
