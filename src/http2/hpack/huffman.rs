//! The code of strings (RFC 7541 §5.2, Appendix B), by tables that are made when this is compiled.
//!
//! The code is canonical: codes of one length follow each other in the order of their octets, so the lengths say it all.

use crate::http2::hpack::Malformed;

/// Bits of each octet's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
/// The end of a string, 30 bits of ones, is in no string.
const END: usize = 256;

/// Code of each octet, its bits at the low end.
const CODES: [u32; 256] = codes();

const fn codes() -> [u32; 256] {
    let mut table = [0u32; 256];
    let (mut code, mut length) = (0u32, 1u8);
    while length <= 30 {
        let mut octet = 0;
        while octet < 256 {
            if LENGTHS[octet] == length {
                table[octet] = code;
                code += 1;
            }
            octet += 1;
        }
        code <<= 1;
        length += 1;
    }
    table
}

/// What four more bits do in a state.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    octet: u8,
    /// [`EMITS`], [`ENDS`], [`FAILS`].
    flags: u8,
}

/// An octet is complete.
const EMITS: u8 = 1;
/// The string may end here: what is left is shorter than an octet, and all ones.
const ENDS: u8 = 2;
/// No code begins so.
const FAILS: u8 = 4;

/// A state is a place inside the tree of codes, which has 257 leaves and so 256 places; 0 is its root.
static STEPS: [[Step; 16]; 256] = steps();

/// Children of each place: 0 none yet, else a place, or [`LEAF`] and an octet.
const fn tree() -> [[u16; 2]; 256] {
    let mut places = [[0u16; 2]; 256];
    let mut used = 1;
    let mut symbol = 0;
    while symbol <= END {
        let (code, length) = if symbol == END { (0x3fff_ffff, 30) } else { (CODES[symbol], LENGTHS[symbol]) };
        let (mut at, mut left) = (0usize, length);
        while left > 1 {
            left -= 1;
            let bit = (code >> left & 1) as usize;
            if places[at][bit] == 0 {
                places[at][bit] = used;
                used += 1;
            }
            at = places[at][bit] as usize;
        }
        places[at][(code & 1) as usize] = LEAF | symbol as u16;
        symbol += 1;
    }
    places
}

const LEAF: u16 = 0x8000;

/// Returns for each place whether a string may end there: at the root, or up to seven ones below it.
const fn ends(places: &[[u16; 2]; 256]) -> [bool; 256] {
    let mut ends = [false; 256];
    let (mut at, mut depth) = (0usize, 0);
    while depth < 8 {
        ends[at] = true;
        at = places[at][1] as usize;
        depth += 1;
    }
    ends
}

const fn steps() -> [[Step; 16]; 256] {
    let places = tree();
    let ends = ends(&places);
    let mut table = [[Step { next: 0, octet: 0, flags: 0 }; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut bits = 0;
        while bits < 16 {
            let mut step = Step { next: 0, octet: 0, flags: 0 };
            let (mut at, mut left) = (state, 4);
            while left > 0 {
                left -= 1;
                let child = places[at][bits >> left & 1];
                if child == LEAF | END as u16 {
                    step.flags |= FAILS;
                    at = 0;
                } else if child & LEAF != 0 {
                    step.flags |= EMITS;
                    step.octet = child as u8;
                    at = 0;
                } else {
                    at = child as usize;
                }
            }
            step.next = at as u8;
            if ends[at] {
                step.flags |= ENDS;
            }
            table[state][bits] = step;
            bits += 1;
        }
        state += 1;
    }
    table
}

/// Appends the string that is coded in `input`; it is at most 8/5 as long.
///
/// # Errors
/// [`Malformed`] for the code of the end, and for padding that is not less than eight ones.
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.reserve(input.len() * 8 / 5 + 1);
    let (mut state, mut flags) = (0u8, ENDS);
    for &octet in input {
        for bits in [octet >> 4, octet & 15] {
            let row = STEPS.get(usize::from(state)).ok_or(Malformed)?;
            let step = row.get(usize::from(bits)).ok_or(Malformed)?;
            flags = step.flags;
            if flags & FAILS != 0 {
                return Err(Malformed);
            }
            if flags & EMITS != 0 {
                out.push(step.octet);
            }
            state = step.next;
        }
    }
    if flags & ENDS != 0 { Ok(()) } else { Err(Malformed) }
}

/// Returns the octets that a string takes.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&octet| LENGTHS.get(usize::from(octet)).map_or(30, |&n| usize::from(n))).sum();
    bits.div_ceil(8)
}

/// Appends a string in its code.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32);
    for &octet in text {
        let index = usize::from(octet);
        let (Some(&code), Some(&length)) = (CODES.get(index), LENGTHS.get(index)) else { continue };
        bits = bits << length | u64::from(code);
        have += u32::from(length);
        while have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    if have > 0 {
        // The rest of the last octet is ones.
        out.push((bits << (8 - have)) as u8 | (0xff >> have));
    }
}
