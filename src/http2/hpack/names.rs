//! The names in a head block, looked at without decoding it (RFC 7541 §6).

use crate::http2::hpack::table::STATIC;
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
    /// `:status`, which trailers may not have.
    pub status: bool,
}

impl Pseudo {
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

/// What is known of the names in the dynamic table of one direction, which must not be larger than 4096 octets (the default).
///
/// No table is kept: an entry that no answer may have came in a block, and was seen there. Entries are counted from the newest,
/// so which of them are `:status` is told by the order in which they came, whatever has been evicted; one that is larger than the
/// table, and is not in it, leaves no older one that could be asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names {
    /// A bit for each of the newest entries, the lowest is the newest; as many as fit, each counting at least 32 octets (§4.1).
    statuses: u128,
}

impl Names {
    /// Returns which pseudo-header fields the next block of a connection has. What is no block is none of this.
    pub fn see(&mut self, mut block: &[u8]) -> Pseudo {
        let mut seen = Pseudo::default();
        while let Some(&first) = block.first() {
            let step = match first {
                0x80.. => integer::read(block, 7).map(|(index, used)| (self.indexed(index), used)),
                0x20..0x40 => integer::read(block, 5).map(|(_, used)| (Pseudo::default(), used)),
                _ => self.literal(block, if first >= 0x40 { 6 } else { 4 }),
            };
            let Ok((found, used)) = step else { return seen };
            if (0x40..0x80).contains(&first) {
                self.statuses = (self.statuses << 1) | u128::from(found.status);
            }
            seen = Pseudo { request: seen.request || found.request, status: seen.status || found.status };
            block = block.get(used..).unwrap_or_default();
        }
        seen
    }

    fn indexed(&self, index: usize) -> Pseudo {
        let dynamic = index.checked_sub(STATIC + 1).and_then(|newest| u32::try_from(newest).ok());
        let kept = dynamic.and_then(|newest| self.statuses.checked_shr(newest)).is_some_and(|bits| bits & 1 == 1);
        Pseudo { request: REQUEST.contains(&index), status: STATUS.contains(&index) || kept }
    }

    /// Looks at a literal; returns what its name is, and its octets.
    fn literal(&self, block: &[u8], bits: u32) -> Result<(Pseudo, usize), Malformed> {
        let (index, mut used) = integer::read(block, bits)?;
        let mut found = self.indexed(index);
        if index == 0 {
            let (text, after) = string(block, used)?;
            let huffman = block.get(used).is_some_and(|first| first & 0x80 != 0);
            found = Pseudo::named(text, huffman);
            used = after;
        }
        Ok((found, string(block, used)?.1))
    }
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
    use super::{Names, Pseudo};
    use crate::http2::hpack::huffman;

    fn text(value: &str, coded: bool) -> Vec<u8> {
        let mut octets = value.as_bytes().to_vec();
        if coded {
            octets.clear();
            huffman::encode(value.as_bytes(), &mut octets);
        }
        [&[octets.len() as u8 | if coded { 0x80 } else { 0 }][..], &octets].concat()
    }

    /// Looks at the first block of a connection.
    fn pseudo(block: &[u8]) -> Pseudo {
        Names::default().see(block)
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
    fn a_status_of_the_dynamic_table_is_seen_where_it_is_now() {
        let (status, other) = (literals(":status", true)[0].clone(), literals("x", false)[0].clone());
        let mut names = Names::default();
        assert!(names.see(&status).status);
        for age in 0..127u8 {
            let index = 62 + age;
            // Both forms: the whole field, and a literal with its name; and the neighbours are none.
            let asked = |index: u8| if index < 127 { vec![0x80 | index] } else { vec![0xff, index - 127] };
            let named = |index: u8| {
                let rest = index - 15;
                let index = if rest < 128 { vec![0x0f, rest] } else { vec![0x0f, rest, 1] };
                [index, text("v", false)].concat()
            };
            for form in [asked, named] {
                assert!(names.see(&form(index)).status, "{index}");
                assert!(!names.see(&form(index - 1)).status && !names.see(&form(index + 1)).status, "{index}");
            }
            // What is not kept moves nothing.
            names.see(&literals("x", false)[1]);
            names.see(&literals(":path", false)[2]);
            assert!(!names.see(&other).status);
        }
        // One that got its name from there is one too; and whatever else is in the block, it is counted.
        let mut names = Names::default();
        names.see(&[&literals(":path", false)[0][..], &status].concat());
        names.see(&[&[0x40 | 62][..], &text("201", false)].concat());
        assert_eq!([62, 63, 64].map(|index| names.see(&[0x80 | index]).status), [true, true, false]);
        assert!(!names.see(&[0xff; 9]).status);
    }

    #[test]
    fn a_status_is_seen_in_every_form() {
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
