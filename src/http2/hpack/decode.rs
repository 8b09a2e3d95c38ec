//! Head block → fields (RFC 7541 §3, §6).

use crate::http2::hpack::table::{STATIC, Table, fixed};
use crate::http2::hpack::{Malformed, huffman, integer};

/// Decodes the blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// The largest size of the table that was announced.
    limit: usize,
    /// Name and value of a literal.
    text: Vec<u8>,
}

impl Decoder {
    /// Returns a decoder for a peer that was told this size of the table.
    pub fn new(limit: usize) -> Self {
        Self { table: Table::new(limit), limit, text: Vec::new() }
    }

    /// Decodes a whole block, and gives each field with its octets as they are. Work and memory are linear in the block; what
    /// is given may be longer, as an octet can name an entry of the table.
    ///
    /// # Errors
    /// [`Malformed`] for what is no block; some fields may have been given.
    pub fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), Malformed> {
        let mut begun = false;
        while let Some(&first) = block.first() {
            let used = if first & 0x80 != 0 {
                let (index, used) = integer::read(block, 7)?;
                let (name, value) = entry(&self.table, index)?;
                each(name, value);
                used
            } else if first & 0xe0 == 0x20 {
                // RFC 7541 §4.2: before the first field only.
                let (size, used) = integer::read(block, 5)?;
                if begun || size > self.limit {
                    return Err(Malformed);
                }
                self.table.set_max(size);
                block = block.get(used..).unwrap_or_default();
                continue;
            } else {
                self.literal(block, &mut each)?
            };
            begun = true;
            block = block.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Takes a literal; returns its octets in the block.
    fn literal(&mut self, block: &[u8], each: &mut impl FnMut(&[u8], &[u8])) -> Result<usize, Malformed> {
        let first = block.first().copied().unwrap_or(0);
        let indexed = first & 0xc0 == 0x40;
        let (index, mut used) = integer::read(block, if indexed { 6 } else { 4 })?;
        self.text.clear();
        if index == 0 {
            used += string(block.get(used..).unwrap_or_default(), &mut self.text)?;
        } else {
            self.text.extend_from_slice(entry(&self.table, index)?.0);
        }
        let name_len = self.text.len();
        used += string(block.get(used..).unwrap_or_default(), &mut self.text)?;
        let (name, value) = self.text.split_at_checked(name_len).ok_or(Malformed)?;
        each(name, value);
        if indexed {
            self.table.insert(name, value, 0);
        }
        // One long field must not keep its memory for as long as the connection lasts.
        if self.text.capacity() > 16 * 1024 {
            self.text = Vec::new();
        }
        Ok(used)
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn entry(table: &Table, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
    match index.checked_sub(STATIC + 1) {
        Some(dynamic) => table.get(dynamic).ok_or(Malformed),
        None => fixed(index).ok_or(Malformed),
    }
}

/// Appends a string; returns its octets in the block.
fn string(block: &[u8], out: &mut Vec<u8>) -> Result<usize, Malformed> {
    let (length, used) = integer::read(block, 7)?;
    let text = block.get(used..).and_then(|rest| rest.get(..length)).ok_or(Malformed)?;
    if block.first().is_some_and(|first| first & 0x80 != 0) {
        huffman::decode(text, out)?;
    } else {
        out.extend_from_slice(text);
    }
    Ok(used + length)
}
