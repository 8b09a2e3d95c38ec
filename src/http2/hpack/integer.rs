//! Integers with a prefix (RFC 7541 §5.1).

use crate::http2::hpack::Malformed;

/// Octets behind the prefix: enough for 32 bits.
const MAX_OCTETS: usize = 5;

/// Reads an integer with a prefix of `bits`, 1 to 8; returns it and its octets.
///
/// # Errors
/// [`Malformed`] where it ends early, is above 32 bits or longer than those need.
pub(super) fn read(octets: &[u8], bits: u32) -> Result<(usize, usize), Malformed> {
    let mask = (1usize << bits) - 1;
    let first = usize::from(*octets.first().ok_or(Malformed)?) & mask;
    if first < mask {
        return Ok((first, 1));
    }
    let mut value = mask as u64;
    for (index, &octet) in octets.iter().skip(1).take(MAX_OCTETS).enumerate() {
        value += u64::from(octet & 127) << (7 * index);
        if octet < 128 {
            let value = u32::try_from(value).map_err(|_| Malformed)?;
            return Ok((value as usize, index + 2));
        }
    }
    Err(Malformed)
}

/// Appends an integer behind the high bits of its first octet.
pub(super) fn write(out: &mut Vec<u8>, high: u8, bits: u32, value: usize) {
    let mask = (1usize << bits) - 1;
    if value < mask {
        out.push(high | value as u8);
        return;
    }
    out.push(high | mask as u8);
    let mut rest = value - mask;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}
