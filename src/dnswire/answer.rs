//! Encoding an answer into the caller's buffer.

use crate::dnswire::query::{COOKIE, REPLY_COOKIE_BYTES};
use crate::dnswire::{Query, rcode, rtype};

/// Octets of the header, RFC 1035 §4.1.1.
pub const HEADER_BYTES: usize = 12;
/// Compression pointer to the name of the question, which starts right after the header.
pub const OWNER_IS_QUESTION: u16 = 0xC00C;
/// Octets of the OPT record of an answer.
const OPT_BYTES: usize = 11;
/// Octets of the COOKIE option in it.
const COOKIE_BYTES: usize = 4 + REPLY_COOKIE_BYTES;
/// What this server can receive over UDP without fragments, RFC 9715 §3.1.
const OWN_UDP_BYTES: u16 = 1232;
/// Offsets above this do not fit a compression pointer, RFC 1035 §4.1.4.
const MAX_POINTER: usize = 0x3FFF;

const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
/// RD and CD come back as sent (RFC 1035 §4.1.1, RFC 4035 §3.2.2); AD, RA and Z do not.
const ECHOED: u16 = 0x0110;
const OPCODE: u16 = 0x7800;

/// A section of a message after the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// What was asked.
    Answer = 0,
    /// Who is responsible; SOA of a negative answer.
    Authority = 1,
    /// What the client will ask next.
    Additional = 2,
}

/// An answer in the making: whole records until the size is reached, sections in their order.
#[derive(Debug)]
pub struct Answer<'q, 'o> {
    query: &'q Query<'q>,
    out: &'o mut [u8],
    /// Largest message without the OPT record.
    room: usize,
    length: usize,
    counts: [u16; 3],
    truncated: bool,
}

impl<'q, 'o> Answer<'q, 'o> {
    /// Starts an answer of at most `max_bytes`; `None` when not even header, question and OPT fit (below 310 octets).
    pub fn begin(query: &'q Query<'q>, out: &'o mut [u8], max_bytes: usize) -> Option<Self> {
        let cookie = if query.reply_cookie.is_some() { COOKIE_BYTES } else { 0 };
        let opt = if query.edns.is_some() { OPT_BYTES + cookie } else { 0 };
        let room = max_bytes.min(out.len()).checked_sub(opt)?;
        let length = HEADER_BYTES + query.question.len();
        if length > room {
            return None;
        }
        out.get_mut(HEADER_BYTES..length)?.copy_from_slice(query.question);
        Some(Self { query, out, room, length, counts: [0; 3], truncated: false })
    }

    /// Returns the size that an answer over UDP may have: 512 without EDNS, else what the client takes up to `max_bytes`.
    pub fn udp_bytes(query: &Query<'_>, max_bytes: u16) -> usize {
        usize::from(query.edns.map_or(512, |edns| edns.udp_bytes.min(max_bytes).max(512)))
    }

    /// Adds a record: owner pointer, then `parts` one behind the other. Returns the offset of the first part, `None` when it
    /// does not fit and nothing was added.
    pub fn add(&mut self, section: Section, owner: u16, parts: &[&[u8]]) -> Option<usize> {
        let start = self.length + 2;
        let end = parts.iter().fold(start, |sum, part| sum + part.len());
        if end > self.room {
            return None;
        }
        self.out.get_mut(self.length..start)?.copy_from_slice(&owner.to_be_bytes());
        let mut at = start;
        for part in parts {
            self.out.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        self.length = end;
        if let Some(count) = self.counts.get_mut(section as usize) {
            *count += 1;
        }
        Some(start)
    }

    /// Adds `count` whole records, which stand one behind the other, to the answer section, owned by the question's name.
    /// Returns them for the caller to put in order; `None` when they do not all fit and nothing was added.
    pub fn add_all(&mut self, records: &[u8], count: u16) -> Option<&mut [u8]> {
        let end = self.length + records.len();
        if end > self.room {
            return None;
        }
        let place = self.out.get_mut(self.length..end)?;
        place.copy_from_slice(records);
        self.length = end;
        self.counts[Section::Answer as usize] += count;
        Some(place)
    }

    /// Says that an answer record was left out: sets TC (RFC 2181 §9; never for additional data).
    pub fn truncate(&mut self) {
        self.truncated = true;
    }

    /// Returns the number of answer records that were added so far.
    pub fn answers(&self) -> u16 {
        self.counts[Section::Answer as usize]
    }

    /// Returns a compression pointer to an offset of this message; `None` where none can reach.
    pub fn pointer(offset: usize) -> Option<u16> {
        let offset = u16::try_from(offset).ok().filter(|_| offset <= MAX_POINTER)?;
        Some(0xC000 | offset)
    }

    fn add_cookie(&mut self) {
        let place = self.out.get_mut(self.length..self.length + COOKIE_BYTES);
        if let (Some(cookie), Some((head, body))) =
            (self.query.reply_cookie, place.and_then(|place| place.split_first_chunk_mut::<4>()))
        {
            let [c0, c1] = COOKIE.to_be_bytes();
            *head = [c0, c1, 0, REPLY_COOKIE_BYTES as u8];
            body.copy_from_slice(&cookie);
            self.length += COOKIE_BYTES;
        }
    }

    /// Writes header and OPT and returns the length of the message.
    pub fn finish(mut self, code: u16, authoritative: bool) -> usize {
        let mut additional = self.counts[Section::Additional as usize];
        if let Some(edns) = self.query.edns {
            let [u0, u1] = OWN_UDP_BYTES.to_be_bytes();
            let [k0, k1] = rtype::OPT.to_be_bytes();
            let high = u8::try_from(code >> 4).unwrap_or(0);
            let dnssec = if edns.dnssec_ok { 0x80 } else { 0 };
            let options = if self.query.reply_cookie.is_some() { COOKIE_BYTES as u8 } else { 0 };
            let opt: [u8; OPT_BYTES] = [0, k0, k1, u0, u1, high, 0, dnssec, 0, 0, options];
            // `begin` kept this room free.
            if let Some(place) = self.out.get_mut(self.length..self.length + OPT_BYTES) {
                place.copy_from_slice(&opt);
                self.length += OPT_BYTES;
                additional += 1;
            }
            self.add_cookie();
        }
        let mut flags = RESPONSE | (self.query.flags & (ECHOED | OPCODE)) | (code & 0xF);
        if authoritative {
            flags |= AUTHORITATIVE;
        }
        if self.truncated {
            flags |= TRUNCATED;
        }
        let [answers, authorities, _] = self.counts;
        let words = [self.query.id, flags, 1, answers, authorities, additional];
        for (place, word) in self.out.chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        self.length
    }
}

/// Writes a bare header that turns a message down with a code below 16; returns its length, 0 when that is impossible.
pub fn reject(message: &[u8], code: u16, out: &mut [u8]) -> usize {
    let (Some(&[i0, i1, f0, f1]), Some(place)) = (message.first_chunk::<4>(), out.first_chunk_mut::<HEADER_BYTES>())
    else {
        return 0;
    };
    debug_assert!(code < rcode::BADVERS, "a bare header has four bits for the code");
    let flags = RESPONSE | (u16::from_be_bytes([f0, f1]) & (ECHOED | OPCODE)) | (code & 0xF);
    let [r0, r1] = flags.to_be_bytes();
    *place = [i0, i1, r0, r1, 0, 0, 0, 0, 0, 0, 0, 0];
    HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::{Answer, OWNER_IS_QUESTION, Section, reject};
    use crate::dnswire::{Edns, Query, rcode, record};

    const QUESTION: &[u8] = b"\x03WeB\x04weir\x00\x00\x01\x00\x01";

    fn query(edns: Option<Edns>) -> Query<'static> {
        Query { id: 7, flags: 0x0120, question: QUESTION, rtype: 1, class: 1, edns, cookie: None, reply_cookie: None }
    }

    fn address() -> Vec<u8> {
        let mut out = Vec::new();
        record::push_address(&mut out, "10.0.0.1".parse().unwrap(), 5);
        out
    }

    #[test]
    fn writes_header_question_records_and_opt() {
        let query = query(Some(Edns { udp_bytes: 4096, dnssec_ok: true }));
        let mut out = [0; 512];
        let mut answer = Answer::begin(&query, &mut out, 512).unwrap();
        assert_eq!(answer.add(Section::Answer, OWNER_IS_QUESTION, &[&address()]), Some(12 + QUESTION.len() + 2));
        let length = answer.finish(rcode::BADVERS, true);
        assert_eq!(out[..12], [0, 7, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        assert_eq!(&out[12..12 + QUESTION.len()], QUESTION);
        assert_eq!(out[length - 11..length], [0, 0, 41, 4, 208, 1, 0, 0x80, 0, 0, 0]);
    }

    #[test]
    fn brings_a_cookie_in_the_opt() {
        let mut query = query(Some(Edns { udp_bytes: 1232, dnssec_ok: false }));
        query.reply_cookie = Some([7; 24]);
        let mut out = [0; 512];
        let length = Answer::begin(&query, &mut out, 512).unwrap().finish(rcode::NOERROR, true);
        assert_eq!(length, 12 + QUESTION.len() + 11 + 28);
        assert_eq!(out[length - 30..length - 22], [0, 28, 0, 10, 0, 24, 7, 7]);
        assert!(Answer::begin(&query, &mut out, length - 1).is_none());
        assert!(Answer::begin(&query, &mut out, length).is_some());
    }

    #[test]
    fn leaves_out_what_does_not_fit_and_never_a_part_of_it() {
        let query = query(None);
        let mut out = [0; 512];
        let room = 12 + QUESTION.len() + 16;
        let mut answer = Answer::begin(&query, &mut out, room + 15).unwrap();
        assert!(answer.add(Section::Answer, OWNER_IS_QUESTION, &[&address()]).is_some());
        assert!(answer.add(Section::Answer, OWNER_IS_QUESTION, &[&address()]).is_none());
        answer.truncate();
        assert_eq!(answer.finish(rcode::NOERROR, true), room);
        assert_eq!(out[2], 0x87);
        assert!(Answer::begin(&query, &mut out, 12).is_none());
        assert!(Answer::begin(&query, &mut [], 512).is_none());
    }

    #[test]
    fn the_size_follows_client_and_server() {
        let size = |edns| Answer::udp_bytes(&query(edns), 1232);
        let asks = |udp_bytes| Some(Edns { udp_bytes, dnssec_ok: false });
        assert_eq!([size(None), size(asks(100)), size(asks(900)), size(asks(4096))], [512, 512, 900, 1232]);
    }

    #[test]
    fn pointers_reach_fourteen_bits() {
        assert_eq!(Answer::pointer(12), Some(OWNER_IS_QUESTION));
        assert_eq!(Answer::pointer(0x3FFF), Some(0xFFFF));
        assert_eq!(Answer::pointer(0x4000), None);
    }

    #[test]
    fn rejects_with_a_bare_header() {
        let mut out = [9; 12];
        assert_eq!(reject(&[1, 2, 0x29, 0x30, 0, 1], rcode::NOTIMP, &mut out), 12);
        assert_eq!(out, [1, 2, 0xA9, 0x14, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(reject(&[1, 2], rcode::FORMERR, &mut out), 0);
    }
}
