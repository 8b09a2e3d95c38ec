//! The tables of fields (RFC 7541 §2.3, Appendix A).

use std::collections::VecDeque;

/// What an entry counts beside its octets (RFC 7541 §4.1).
const OVERHEAD: usize = 32;
/// Entries of the static table.
pub(super) const STATIC: usize = 61;

/// Index 1 is first.
#[rustfmt::skip]
const FIXED: [(&[u8], &[u8]); STATIC] = [
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""),
    (b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""),
    (b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b""),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""),
    (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""),
    (b"refresh", b""), (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""),
    (b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""),
    (b"via", b""), (b"www-authenticate", b""),
];

/// Returns an entry of the static table.
pub(super) fn fixed(index: usize) -> Option<(&'static [u8], &'static [u8])> {
    FIXED.get(index.checked_sub(1)?).copied()
}

/// Returns the index of a name in an answer; 0: it has none. By length first, so that most names cost one comparison.
pub(super) fn fixed_name(name: &[u8]) -> usize {
    match (name.len(), name) {
        (3, b"age") => 21,
        (3, b"via") => 60,
        (4, b"date") => 33,
        (4, b"etag") => 34,
        (4, b"vary") => 59,
        (4, b"link") => 45,
        (5, b"allow") => 22,
        (6, b"server") => 54,
        (7, b"expires") => 36,
        (7, b"refresh") => 52,
        (8, b"location") => 46,
        (10, b"set-cookie") => 55,
        (11, b"retry-after") => 53,
        (12, b"content-type") => 31,
        (13, b"cache-control") => 24,
        (13, b"accept-ranges") => 18,
        (13, b"last-modified") => 44,
        (13, b"content-range") => 30,
        (14, b"content-length") => 28,
        (16, b"content-encoding") => 26,
        (16, b"content-language") => 27,
        (16, b"content-location") => 29,
        (16, b"www-authenticate") => 61,
        (18, b"proxy-authenticate") => 48,
        (19, b"content-disposition") => 25,
        (25, b"strict-transport-security") => 56,
        (27, b"access-control-allow-origin") => 20,
        _ => 0,
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where it begins, counted from the first octet that the table ever held.
    start: u64,
    name: u32,
    value: u32,
    /// What the encoder finds it by.
    hash: u32,
}

impl Entry {
    fn size(&self) -> usize {
        self.name as usize + self.value as usize + OVERHEAD
    }
}

/// The dynamic table: the newest entry is first, the oldest goes when there is no room.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Names and values, oldest first; before `base` they are gone, and up to the oldest entry dead.
    octets: Vec<u8>,
    base: u64,
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Sets the size; what does not fit goes.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    /// Returns an entry, the newest being 0.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entries.get(index)?;
        let start = usize::try_from(entry.start - self.base).ok()?;
        let both = self.octets.get(start..start + entry.name as usize + entry.value as usize)?;
        both.split_at_checked(entry.name as usize)
    }

    /// Finds an entry; `hash` is what it was inserted with.
    pub(super) fn find(&self, hash: u32, name: &[u8], value: &[u8]) -> Option<usize> {
        let mut found = self.entries.iter().enumerate().filter(|(_, entry)| entry.hash == hash);
        found.find_map(|(index, _)| (self.get(index)? == (name, value)).then_some(index))
    }

    /// Inserts an entry; one that is larger than the table only empties it (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], hash: u32) {
        let (name_len, value_len) = (name.len() as u32, value.len() as u32);
        let entry = Entry { start: self.base + self.octets.len() as u64, name: name_len, value: value_len, hash };
        self.shrink(self.max.saturating_sub(entry.size()));
        if entry.size() > self.max {
            return;
        }
        self.size += entry.size();
        self.octets.extend_from_slice(name);
        self.octets.extend_from_slice(value);
        self.entries.push_front(entry);
    }

    fn shrink(&mut self, max: usize) {
        while self.size > max {
            let Some(oldest) = self.entries.pop_back() else { break };
            self.size -= oldest.size();
        }
        let end = self.base + self.octets.len() as u64;
        let oldest = self.entries.back().map_or(end, |entry| entry.start);
        let dead = usize::try_from(oldest - self.base).unwrap_or(0);
        // Moved seldom, so that an insertion costs its own octets on average.
        if dead > self.max {
            self.octets.drain(..dead.min(self.octets.len()));
            self.base = oldest;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    #[cfg(test)]
    pub(super) fn octets_held(&self) -> usize {
        self.octets.len()
    }
}
