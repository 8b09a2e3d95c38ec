//! What an endpoint's heads say that its codec would drop without a word: pseudo-header fields of requests, and any in trailers
//! (RFC 9113 §8.1, §8.3.2).
//!
//! Frames are only walked over, and heads looked at where they came, before the codec takes them. What is no frame is left to it.

use crate::http2::frame::{self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Head, MAX_PAYLOAD};
use crate::http2::hpack::{Names, Pseudo};

/// Octets of one block that are looked at; the codec takes less.
const MAX_BLOCK: usize = 512 * 1024;

/// What is told of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It has a field that no answer may have.
    Malformed,
    /// It is its stream's last and has a status: malformed where it is no head but trailers.
    LastStatus,
}

/// Walks over what comes on one connection.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// Of the frame that has not come whole: its head, and the payload of one that is part of a block.
    partial: Vec<u8>,
    /// Octets of a payload that are still to be passed over.
    skip: usize,
    /// A block that comes in pieces, and whether it is its stream's last.
    block: Vec<u8>,
    last: bool,
    names: Names,
    /// Nothing can be told any more: the codec ends the connection.
    lost: bool,
}

impl Inspector {
    /// Takes what came; `found` hears of streams what is to be known of them.
    pub(super) fn see(&mut self, mut octets: &[u8], mut found: impl FnMut(u32, Found)) {
        while !octets.is_empty() && !self.lost {
            let passed = self.skip.min(octets.len());
            self.skip -= passed;
            octets = octets.get(passed..).unwrap_or_default();
            let used = if self.partial.is_empty() {
                let used = self.frame(octets, &mut found);
                if used == 0 {
                    self.partial.extend_from_slice(octets);
                }
                if used == 0 { octets.len() } else { used }
            } else {
                self.fill(octets, &mut found)
            };
            octets = octets.get(used..).unwrap_or_default();
        }
    }

    /// Adds to a frame of which a part came before; returns how much.
    fn fill(&mut self, octets: &[u8], found: &mut impl FnMut(u32, Found)) -> usize {
        let wanted = match Head::parse(&self.partial) {
            Some(head) => frame::HEAD + head.length,
            None => frame::HEAD,
        };
        let used = (wanted - self.partial.len()).min(octets.len());
        self.partial.extend_from_slice(octets.get(..used).unwrap_or_default());
        let whole = std::mem::take(&mut self.partial);
        if self.frame(&whole, found) == 0 {
            self.partial = whole;
        }
        used
    }

    /// Looks at the frame that begins here; returns how much of it there is, or nothing where more is needed.
    fn frame(&mut self, octets: &[u8], found: &mut impl FnMut(u32, Found)) -> usize {
        let Some(head) = Head::parse(octets) else { return 0 };
        if !matches!(head.kind, HEADERS | CONTINUATION) {
            let there = (frame::HEAD + head.length).min(octets.len());
            self.skip = frame::HEAD + head.length - there;
            return there;
        }
        if head.length > MAX_PAYLOAD || self.block.len() > MAX_BLOCK {
            self.lost = true;
            return octets.len();
        }
        let Some(payload) = octets.get(frame::HEAD..frame::HEAD + head.length) else { return 0 };
        let fragment = match head.kind {
            HEADERS => frame::fragment(&head, payload).map_or(&[][..], |(fragment, _)| fragment),
            _ => payload,
        };
        if head.kind == HEADERS {
            self.last = head.has(END_STREAM);
        }
        if !head.has(END_HEADERS) {
            self.block.extend_from_slice(fragment);
        } else if self.block.is_empty() {
            let seen = self.names.see(fragment);
            self.tell(head.stream, seen, found);
        } else {
            let mut block = std::mem::take(&mut self.block);
            block.extend_from_slice(fragment);
            let seen = self.names.see(&block);
            self.tell(head.stream, seen, found);
        }
        frame::HEAD + head.length
    }

    fn tell(&self, stream: u32, seen: Pseudo, found: &mut impl FnMut(u32, Found)) {
        if seen.request {
            found(stream, Found::Malformed);
        } else if seen.status && self.last {
            found(stream, Found::LastStatus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Inspector};
    use crate::http2::frame::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, SETTINGS, WITH_PRIORITY,
    };

    fn told(octets: &[u8], piece: usize) -> Vec<(u32, Found)> {
        let (mut inspector, mut found) = (Inspector::default(), Vec::new());
        octets.chunks(piece).for_each(|part| inspector.see(part, |stream, what| found.push((stream, what))));
        found
    }

    fn seen(octets: &[u8], piece: usize) -> Vec<u32> {
        let malformed = |(stream, what)| (what == Found::Malformed).then_some(stream);
        told(octets, piece).into_iter().filter_map(malformed).collect()
    }

    #[test]
    fn heads_are_seen_however_they_are_cut() {
        let mut octets = Vec::new();
        let mut put = |kind, flags, stream, payload: &[u8]| frame::put(&mut octets, kind, flags, stream, payload);
        put(SETTINGS, 0, 0, &[]);
        put(HEADERS, END_HEADERS, 1, &[0x88]);
        // Data looks like anything.
        put(DATA, 0, 1, &[0x84; 300]);
        put(HEADERS, END_HEADERS, 3, &[0x88, 0x84]);
        put(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 5, &[2, 0, 0, 0, 0, 7, 0x88, 0x84, 0x84]);
        put(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 7, &[1, 0, 0, 0, 0, 7, 0x88, 0x84, 0x84]);
        // A name in two pieces.
        put(HEADERS, 0, 9, &[0x88, 0, 5, b':', b'p']);
        put(CONTINUATION, 0, 9, b"at");
        put(CONTINUATION, END_HEADERS, 9, &[b'h', 1, b'/']);
        put(HEADERS, END_HEADERS, 11, &[0x88]);
        put(HEADERS, END_HEADERS, 13, &[0x81]);
        for piece in 1..=octets.len() {
            assert_eq!(seen(&octets, piece), [3, 7, 9, 13], "{piece}");
        }
    }

    #[test]
    fn the_last_block_of_a_stream_is_told_where_it_has_a_status() {
        let mut octets = Vec::new();
        let mut put = |kind, flags, stream, payload: &[u8]| frame::put(&mut octets, kind, flags, stream, payload);
        put(HEADERS, END_HEADERS, 1, &[0x88]);
        put(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88]);
        put(HEADERS, END_STREAM, 3, &[]);
        put(CONTINUATION, END_HEADERS, 3, &[0x88]);
        put(HEADERS, END_HEADERS | END_STREAM, 5, &[0x90]);
        put(HEADERS, END_HEADERS | END_STREAM, 7, &[0x88, 0x84]);
        let last = Found::LastStatus;
        for piece in 1..=octets.len() {
            assert_eq!(told(&octets, piece), [(1, last), (3, last), (7, Found::Malformed)], "{piece}");
        }
    }

    #[test]
    fn what_is_no_frame_is_left_alone() {
        for octets in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 100], &[0; 100]] {
            for piece in [1, 7, 100] {
                assert_eq!(seen(octets, piece), [0; 0]);
            }
        }
    }
}
