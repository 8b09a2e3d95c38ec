//! The names in a head block, looked at without decoding it (RFC 7541 §6).

use crate::http2::hpack::{Malformed, huffman, integer};

/// The entries of the static table for pseudo-header fields of requests: `:authority` to `:scheme` (RFC 7541 Appendix A).
const REQUEST: std::ops::RangeInclusive<usize> = 1..=7;
/// Those for `:status`.
const STATUS: std::ops::RangeInclusive<usize> = 8..=14;

/// Which pseudo-header fields are in a block of an answer (RFC 9113 §8.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pseudo {
    /// One that no answer may have: any but `:status`.
    pub request: bool,
    /// `:status`, which trailers may not have; one from the dynamic table is not seen.
    pub status: bool,
}

impl Pseudo {
    /// No name of the dynamic table is asked for.
    fn indexed(index: usize) -> Self {
        Self { request: REQUEST.contains(&index), status: STATUS.contains(&index) }
    }

    fn named(name: &[u8], huffman: bool) -> Self {
        // A colon is `1011100` in Huffman's code.
        let colon = name.first().is_some_and(|&first| if huffman { first & 0xfe == 0xb8 } else { first == b':' });
        if !colon {
            return Self::default();
        }
        let mut plain = Vec::new();
        if !huffman {
            plain.extend_from_slice(name);
        } else if huffman::decode(name, &mut plain).is_err() {
            return Self::default();
        }
        let status = plain == b":status";
        Self { request: !status, status }
    }
}

/// Returns which pseudo-header fields a block has, at most up to one that no answer may have.
///
/// No table is kept: an entry of the dynamic one came in a block, and that block had the name in a form that is seen here.
/// What is no block is none of this.
pub fn pseudo(mut block: &[u8]) -> Pseudo {
    let mut seen = Pseudo::default();
    while let Some(&first) = block.first() {
        let step = match first {
            0x80.. => integer::read(block, 7).map(|(index, used)| (Pseudo::indexed(index), used)),
            0x20..0x40 => integer::read(block, 5).map(|(_, used)| (Pseudo::default(), used)),
            _ => literal(block, if first >= 0x40 { 6 } else { 4 }),
        };
        let Ok((found, used)) = step else { return seen };
        seen = Pseudo { request: found.request, status: seen.status || found.status };
        if seen.request {
            return seen;
        }
        block = block.get(used..).unwrap_or_default();
    }
    seen
}

/// Looks at a literal; returns what its name is, and its octets.
fn literal(block: &[u8], bits: u32) -> Result<(Pseudo, usize), Malformed> {
    let (index, mut used) = integer::read(block, bits)?;
    let mut found = Pseudo::indexed(index);
    if index == 0 {
        let (text, after) = string(block, used)?;
        let huffman = block.get(used).is_some_and(|first| first & 0x80 != 0);
        found = Pseudo::named(text, huffman);
        used = after;
    }
    Ok((found, string(block, used)?.1))
}

/// Returns the octets of a string at a place, and where it ends.
fn string(block: &[u8], at: usize) -> Result<(&[u8], usize), Malformed> {
    let rest = block.get(at..).unwrap_or_default();
    let (length, used) = integer::read(rest, 7)?;
    let text = rest.get(used..).and_then(|rest| rest.get(..length)).ok_or(Malformed)?;
    Ok((text, at + used + length))
}

#[cfg(test)]
mod tests {
    use super::{Pseudo, pseudo};
    use crate::http2::hpack::huffman;

    fn text(value: &str, coded: bool) -> Vec<u8> {
        let mut octets = value.as_bytes().to_vec();
        if coded {
            octets.clear();
            huffman::encode(value.as_bytes(), &mut octets);
        }
        [&[octets.len() as u8 | if coded { 0x80 } else { 0 }][..], &octets].concat()
    }

    fn has_request_fields(block: &[u8]) -> bool {
        pseudo(block).request
    }

    /// A literal in each of its three forms.
    fn literals(name: &str, coded: bool) -> [Vec<u8>; 3] {
        [0x40, 0x00, 0x10].map(|first| [&[first][..], &text(name, coded), &text("value", coded)].concat())
    }

    #[test]
    fn pseudo_fields_of_requests_are_seen_in_every_form() {
        // A new size of the table, a status, two fields of the static table, one of the dynamic one, a literal by name.
        let before = [&[0x3f, 0xe1, 0x1f, 0x88, 0x90, 0xbf, 0x0f, 0x0d][..], &text("5", true)].concat();
        assert!(!has_request_fields(&before));
        for coded in [false, true] {
            for name in [":path", ":authority", ":method", ":scheme", ":protocol", ":x", ":", ":statuses"] {
                for literal in literals(name, coded) {
                    assert!(has_request_fields(&[&before[..], &literal].concat()), "{name} {coded}");
                }
            }
            for name in [":status", "path", "x:path", "", "\u{3b}"] {
                for literal in literals(name, coded) {
                    assert!(!has_request_fields(&[&before[..], &literal].concat()), "{name} {coded}");
                }
            }
        }
        for index in 1..=61u8 {
            let expected = index <= 7;
            let named = |first: u8, max: u8| {
                let mut head = if index < max { vec![first | index] } else { vec![first | max, index - max] };
                head.extend(text("v", false));
                head
            };
            assert_eq!(has_request_fields(&[&before[..], &[0x80 | index]].concat()), expected, "{index}");
            for block in [named(0x40, 63), named(0, 15), named(0x10, 15)] {
                assert_eq!(has_request_fields(&block), expected, "{index}");
            }
        }
    }

    #[test]
    fn what_is_no_block_is_nothing() {
        let whole = [&[0x88][..], &literals("name", false)[0], &[0x84]].concat();
        assert!(has_request_fields(&whole));
        assert!((0..whole.len()).all(|end| !has_request_fields(&whole[..end])));
        assert!(!has_request_fields(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    }

    #[test]
    fn a_status_is_seen_in_every_form_but_that_of_the_dynamic_table() {
        let seen = |block: &[u8]| pseudo(block) == Pseudo { request: false, status: true };
        for index in 1..=70u8 {
            let expected = (8..=14).contains(&index);
            assert_eq!(seen(&[0x80 | index]), expected, "{index}");
            assert_eq!(seen(&[&[0x40 | index.min(62)][..], &text("v", false)].concat()), expected, "{index}");
        }
        for coded in [false, true] {
            for literal in literals(":status", coded) {
                assert!(seen(&literal) && seen(&[&literals("x", coded)[0][..], &literal].concat()), "{coded}");
            }
            assert!(literals("status", coded).iter().all(|literal| !seen(literal)), "{coded}");
        }
    }
}
