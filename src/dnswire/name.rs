//! Wire names: length-prefixed labels that end with the root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest name on the wire, RFC 1035 §2.3.4.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest label, RFC 1035 §2.3.4.
const MAX_LABEL_BYTES: usize = 63;

/// Encodes a dotted name, lower case, with the root; a final dot is allowed, escapes are not.
///
/// `None` when a label is empty or above 63 octets, or the name is above 255.
pub fn parse_name(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let mut wire = Vec::with_capacity(text.len() + 2);
    for label in text.split('.').filter(|_| !text.is_empty()) {
        if label.is_empty() || label.len() > MAX_LABEL_BYTES {
            return None;
        }
        record_label(&mut wire, label);
    }
    wire.push(0);
    (wire.len() <= MAX_NAME_BYTES).then_some(wire)
}

fn record_label(wire: &mut Vec<u8>, label: &str) {
    wire.push(u8::try_from(label.len()).unwrap_or(0));
    wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
}

/// Copies a wire name in lower case into `out` and returns it; empty when it does not fit.
///
/// Length octets are at most 63, below `A`, so that lowering the whole slice leaves them alone.
pub fn lower_into<'o>(name: &[u8], out: &'o mut [u8; MAX_NAME_BYTES]) -> &'o [u8] {
    let Some(copy) = out.get_mut(..name.len()) else { return &[] };
    // In one pass: what was just written is not read again.
    for (octet, asked) in copy.iter_mut().zip(name) {
        *octet = asked.to_ascii_lowercase();
    }
    copy
}

/// Returns the labels of a wire name, first to last, without the root; ends early where the name is not well formed.
pub fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (label, tail) = split(rest)?;
        rest = tail;
        Some(label)
    })
}

/// Returns a wire name without its first label; `None` at the root.
pub fn skip_label(name: &[u8]) -> Option<&[u8]> {
    split(name).map(|(_, tail)| tail)
}

fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = name.split_first()?;
    if length == 0 {
        return None;
    }
    rest.split_at_checked(usize::from(length))
}

/// Reads a lower-case reverse name: `4.3.2.1.in-addr.arpa` (RFC 1035 §3.5) or 32 nibbles below `ip6.arpa` (RFC 3596 §2.5).
pub fn address_of_reverse(name: &[u8]) -> Option<IpAddr> {
    let v4 = name.strip_suffix(b"\x07in-addr\x04arpa\x00");
    if let Some(digits) = v4 {
        return reverse_v4(digits);
    }
    reverse_v6(name.strip_suffix(b"\x03ip6\x04arpa\x00")?)
}

fn reverse_v4(digits: &[u8]) -> Option<IpAddr> {
    let (mut octets, mut count) = ([0u8; 4], 0);
    for label in bare_labels(digits) {
        let text = std::str::from_utf8(label?).ok()?;
        // "01" and "+1" are other names than "1": only the canonical spelling exists.
        if !text.bytes().all(|b| b.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0')) {
            return None;
        }
        *octets.get_mut(3usize.checked_sub(count)?)? = text.parse().ok()?;
        count += 1;
    }
    (count == 4).then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn reverse_v6(nibbles: &[u8]) -> Option<IpAddr> {
    let (mut bits, mut count) = (0u128, 0u32);
    for label in bare_labels(nibbles) {
        let &[digit] = label? else { return None };
        let value = char::from(digit).to_digit(16)?;
        bits |= u128::from(value).checked_shl(count * 4)?;
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(Ipv6Addr::from(bits)))
}

/// Labels of a name whose end was cut off; an item is `None` where a label is not whole.
fn bare_labels(mut rest: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parts = split(rest);
        rest = parts.map_or(&[], |(_, tail)| tail);
        Some(parts.map(|(label, _)| label))
    })
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAME_BYTES, address_of_reverse, labels, lower_into, parse_name, skip_label};

    #[test]
    fn encodes_dotted_names_in_lower_case() {
        assert_eq!(parse_name("Web.internal").unwrap(), b"\x03web\x08internal\x00");
        assert_eq!(parse_name("a.").unwrap(), b"\x01a\x00");
        assert_eq!(parse_name("").unwrap(), b"\x00");
        for bad in ["a..b", ".a", &"x".repeat(64), &vec!["abcdefg"; 40].join(".")] {
            assert!(parse_name(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn walks_labels_and_lowers_names() {
        let name = b"\x03WeB\x02Xy\x00";
        let mut room = [0; MAX_NAME_BYTES];
        let lower = lower_into(name, &mut room);
        assert_eq!(lower, b"\x03web\x02xy\x00");
        assert_eq!(labels(lower).collect::<Vec<_>>(), [&b"web"[..], b"xy"]);
        assert_eq!(skip_label(lower), Some(&b"\x02xy\x00"[..]));
        assert_eq!(skip_label(b"\x00"), None);
        assert_eq!(labels(b"\x09short").count(), 0);
    }

    #[test]
    fn reads_reverse_names_and_refuses_near_ones() {
        let of = |text: &str| address_of_reverse(&parse_name(text).unwrap()).map(|ip| ip.to_string());
        assert_eq!(of("4.3.2.10.in-addr.arpa").unwrap(), "10.2.3.4");
        assert_eq!(
            of("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa").unwrap(),
            "2001:db8::1"
        );
        for bad in
            ["3.2.10.in-addr.arpa", "5.4.3.2.10.in-addr.arpa", "04.3.2.10.in-addr.arpa", "256.3.2.1.in-addr.arpa"]
        {
            assert!(of(bad).is_none(), "{bad}");
        }
        assert!(of("1.0.ip6.arpa").is_none());
        assert!(of(&format!("{}ip6.arpa", "0.".repeat(33))).is_none());
        assert!(of("in-addr.arpa").is_none());
    }
}
