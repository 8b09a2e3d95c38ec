//! What an endpoint's heads say that its codec would drop without a word: pseudo-header fields of requests (RFC 9113 §8.3.2).
//!
//! Frames are only walked over, and heads looked at where they came, before the codec takes them. What is no frame is left to it.

use crate::http2::frame::{self, CONTINUATION, END_HEADERS, HEADERS, Head, MAX_PAYLOAD};
use crate::http2::hpack::has_request_fields;

/// Octets of one block that are looked at; the codec takes less.
const MAX_BLOCK: usize = 512 * 1024;

/// Walks over what comes on one connection.
#[derive(Debug, Default)]
pub(super) struct Inspector {
    /// Of the frame that has not come whole: its head, and the payload of one that is part of a block.
    partial: Vec<u8>,
    /// Octets of a payload that are still to be passed over.
    skip: usize,
    /// A block that came in pieces.
    block: Vec<u8>,
    /// Nothing can be told any more: the codec ends the connection.
    lost: bool,
}

impl Inspector {
    /// Takes what came; `found` hears the streams whose head is malformed.
    pub(super) fn see(&mut self, mut octets: &[u8], mut found: impl FnMut(u32)) {
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
    fn fill(&mut self, octets: &[u8], found: &mut impl FnMut(u32)) -> usize {
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
    fn frame(&mut self, octets: &[u8], found: &mut impl FnMut(u32)) -> usize {
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
        if !head.has(END_HEADERS) {
            self.block.extend_from_slice(fragment);
        } else if self.block.is_empty() {
            if has_request_fields(fragment) {
                found(head.stream);
            }
        } else {
            let mut block = std::mem::take(&mut self.block);
            block.extend_from_slice(fragment);
            if has_request_fields(&block) {
                found(head.stream);
            }
        }
        frame::HEAD + head.length
    }
}

#[cfg(test)]
mod tests {
    use super::Inspector;
    use crate::http2::frame::{self, CONTINUATION, DATA, END_HEADERS, HEADERS, PADDED, SETTINGS, WITH_PRIORITY};

    fn seen(octets: &[u8], piece: usize) -> Vec<u32> {
        let (mut inspector, mut found) = (Inspector::default(), Vec::new());
        octets.chunks(piece).for_each(|part| inspector.see(part, |stream| found.push(stream)));
        found
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
    fn what_is_no_frame_is_left_alone() {
        for octets in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0xff; 100], &[0; 100]] {
            for piece in [1, 7, 100] {
                assert_eq!(seen(octets, piece), [0; 0]);
            }
        }
    }
}
