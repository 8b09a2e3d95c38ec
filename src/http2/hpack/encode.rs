//! Fields → head block (RFC 7541 §6).
//!
//! A field that is seen a second time within a while enters the table, and costs an octet or two from then on; what does
//! not repeat never pushes out what does. Credentials and cookies are never indexed, here or by who passes them on (§7.1.3).

use crate::http2::hpack::table::{STATIC, Table, fixed_name};
use crate::http2::hpack::{huffman, integer};

/// The largest table that is used, whatever the peer allows.
const MAX_TABLE: usize = 4096;
/// Fields that are remembered as seen once.
const SEEN: usize = 64;
/// A larger field is not worth its place.
const MAX_INDEXED: usize = 512;

/// Encodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// What the table must shrink to, at least for a moment, before its size is said.
    lowest: Option<usize>,
    target: usize,
    seen: [u32; SEEN],
    seen_at: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Table::new(MAX_TABLE), lowest: None, target: MAX_TABLE, seen: [0; SEEN], seen_at: 0 }
    }
}

impl Encoder {
    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_limit(&mut self, limit: u32) {
        let size = MAX_TABLE.min(limit as usize);
        if size != self.target || self.lowest.is_some() {
            self.target = size;
            self.lowest = Some(self.lowest.unwrap_or(self.table.max()).min(size));
        }
    }

    /// Begins a block with the status of an answer.
    pub fn begin(&mut self, status: u16, out: &mut Vec<u8>) {
        self.begin_trailers(out);
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
                // A literal without indexing; the name's index is 8.
                out.extend_from_slice(&[8, 3]);
                out.extend_from_slice(&digits);
                return;
            }
        };
        out.push(0x80 | index);
    }

    /// Begins a block without a status.
    pub fn begin_trailers(&mut self, out: &mut Vec<u8>) {
        // RFC 7541 §4.2: the smallest size in between, then the last.
        if let Some(lowest) = self.lowest.take() {
            for size in [Some(lowest), (lowest != self.target).then_some(self.target)].into_iter().flatten() {
                self.table.set_max(size);
                integer::write(out, 0x20, 5, size);
            }
        }
    }

    /// Appends a field; its name is in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        if is_secret(name) {
            return literal(out, (0x10, 4), (name, value));
        }
        let size = name.len() + value.len();
        if size > MAX_INDEXED {
            return literal(out, (0, 4), (name, value));
        }
        let hash = hash(name, value);
        if let Some(index) = self.table.find(hash, name, value) {
            integer::write(out, 0x80, 7, STATIC + 1 + index);
        } else if self.seen.contains(&hash) {
            literal(out, (0x40, 6), (name, value));
            self.table.insert(name, value, hash);
        } else {
            if let Some(place) = self.seen.get_mut(self.seen_at) {
                *place = hash;
            }
            self.seen_at = (self.seen_at + 1) % SEEN;
            literal(out, (0, 4), (name, value));
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn is_secret(name: &[u8]) -> bool {
    matches!(
        name,
        b"set-cookie"
            | b"cookie"
            | b"authorization"
            | b"proxy-authorization"
            | b"www-authenticate"
            | b"proxy-authenticate"
            | b"authentication-info"
            | b"proxy-authentication-info"
    )
}

/// Appends a literal whose first octet has these high bits and a prefix of so many bits.
fn literal(out: &mut Vec<u8>, (high, bits): (u8, u32), (name, value): (&[u8], &[u8])) {
    let index = fixed_name(name);
    integer::write(out, high, bits, index);
    if index == 0 {
        string(out, name);
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer::write(out, 0x80, 7, coded);
        huffman::encode(text, out);
    } else {
        integer::write(out, 0, 7, text.len());
        out.extend_from_slice(text);
    }
}

/// Mixes eight octets at a time; never 0, which marks a free place. Who chooses fields to collide only makes them literals.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = name.len() as u64;
    for text in [name, value] {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            mixed = (mixed.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(ODD);
        }
        let mut last = [0u8; 8];
        if let Some(place) = last.get_mut(..rest.len()) {
            place.copy_from_slice(rest);
        }
        mixed = (mixed.rotate_left(23) ^ u64::from_le_bytes(last)).wrapping_mul(ODD);
    }
    (mixed >> 32) as u32 | 1
}
