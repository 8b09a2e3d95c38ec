//! One kept answer: the octets behind the question, ready to be copied with the client's number, letter case and TTLs.
//!
//! A question has the same length however its letters are written, so compression pointers hold for every client.

use crate::dns::counters::Forwarded;
use crate::dnswire::{HEADER_BYTES, MAX_NAME_BYTES, Query, lower_into, rtype};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What a kept answer occupies beside its octets: its structures, their places in map and queue, the allocator's part.
const OVERHEAD_BYTES: usize = 400;
/// TTL of a stale answer, in seconds: RFC 8767 §4.
const STALE_TTL_SECONDS: u32 = 30;
/// A kept answer is asked for anew in the last tenth of its life when it was used so often.
const PREFETCH_HITS: u32 = 3;
const PREFETCH_PART: u64 = 10;
/// Shorter lives are not worth a question more.
const PREFETCH_LIFE_MS: u64 = 5_000;
/// Octets of the OPT record of an answer, and of an extended error (RFC 8914 §2) in it.
const OPT_BYTES: usize = 11;
const EXTENDED_ERROR_BYTES: usize = 6;
/// What this server can receive over UDP without fragments, RFC 9715 §3.1.
const OWN_UDP_BYTES: u16 = 1232;
/// Extended errors (RFC 8914 §4): an old answer; no resolver could be reached.
const STALE_ANSWER: u16 = 3;
const NO_REACHABLE_AUTHORITY: u16 = 22;
const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// RD, CD and the operation come back as sent.
const ECHOED: u16 = 0x7910;
const SERVFAIL: u16 = 2;

/// Wire name in lower case and type, as one key.
pub(crate) type Key = Box<[u8]>;

/// An answer in the making, as records.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) counted: Forwarded,
    /// How long it may be kept, in seconds.
    pub(crate) ttl_seconds: u32,
}

impl Outcome {
    /// Makes one without records.
    pub(crate) fn bare(code: ResponseCode, counted: Forwarded, ttl_seconds: u32) -> Self {
        Self { code, answers: Vec::new(), authorities: Vec::new(), counted, ttl_seconds }
    }

    /// Returns whether nobody could say anything about the name.
    pub(crate) fn is_failure(&self) -> bool {
        is_failure(self.counted)
    }
}

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Answer and authority records.
    body: Box<[u8]>,
    /// Where the TTLs are in it.
    ttls: Box<[u16]>,
    counts: [u16; 2],
    code: u16,
    counted: Forwarded,
    stored_ms: u64,
    expires_ms: u64,
    hits: AtomicU32,
    refreshing: AtomicBool,
    /// No resolver is asked before this.
    retry_ms: AtomicU64,
}

/// Whether a kept answer may be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    Stale,
}

impl Entry {
    /// Encodes an outcome; `None` when it does not fit a message.
    pub(crate) fn new(name: &Name, kind: RecordType, outcome: Outcome, now_ms: u64) -> Option<Self> {
        let name = name.to_lowercase();
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_query(hickory_proto::op::Query::query(name.clone(), kind));
        message.answers = outcome.answers;
        message.authorities = outcome.authorities;
        for record in message.answers.iter_mut().filter(|record| record.name == name) {
            // Written as the question is, so that it becomes a pointer to it and has the client's letters.
            record.name = name.clone();
        }
        let counts = [message.answers.len(), message.authorities.len()].map(|count| u16::try_from(count).unwrap_or(0));
        let octets = message.to_vec().ok()?;
        let (_, rest) = Query::question_of(&octets)?;
        let body: Box<[u8]> = rest.into();
        let ttls = ttl_offsets(&body, counts)?;
        Some(Self {
            body,
            ttls,
            counts,
            code: u16::from(outcome.code),
            counted: outcome.counted,
            stored_ms: now_ms,
            expires_ms: now_ms + u64::from(outcome.ttl_seconds) * 1000,
            hits: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
            retry_ms: AtomicU64::new(0),
        })
    }

    /// Returns what it occupies, with a key of so many octets.
    pub(crate) fn bytes(&self, key: &[u8]) -> usize {
        OVERHEAD_BYTES + key.len() + self.body.len() + 2 * self.ttls.len()
    }

    /// Returns the response code.
    pub(crate) fn code(&self) -> u16 {
        self.code
    }

    /// Returns what to count.
    pub(crate) fn counted(&self) -> Forwarded {
        self.counted
    }

    /// Returns whether it says nothing about the name.
    pub(crate) fn is_failure(&self) -> bool {
        is_failure(self.counted)
    }

    /// Returns whether it is within its TTL, or after that still within `stale_ms`.
    pub(crate) fn age(&self, now_ms: u64, stale_ms: u64) -> Option<Age> {
        if now_ms < self.expires_ms {
            return Some(Age::Fresh);
        }
        (!self.is_failure() && now_ms < self.expires_ms.saturating_add(stale_ms)).then_some(Age::Stale)
    }

    /// Returns whether it may be kept at all.
    pub(crate) fn lasts(&self) -> bool {
        self.expires_ms > self.stored_ms
    }

    /// Counts a use; returns whether this one is to ask for it anew, which is said once.
    pub(crate) fn used(&self, now_ms: u64) -> bool {
        let life = self.expires_ms - self.stored_ms;
        let hits = self.hits.fetch_add(1, Ordering::Relaxed) + 1;
        let due = hits >= PREFETCH_HITS
            && life >= PREFETCH_LIFE_MS
            && !self.is_failure()
            && self.expires_ms.saturating_sub(now_ms) < life / PREFETCH_PART;
        due && !self.refreshing.swap(true, Ordering::Relaxed)
    }

    /// Returns whether it is being asked for anew before its end.
    pub(crate) fn is_refreshing(&self) -> bool {
        self.refreshing.load(Ordering::Relaxed)
    }

    /// Notes that it could not be had anew: nobody is asked before `until_ms`, RFC 8767 §5.
    pub(crate) fn rest_until(&self, until_ms: u64) {
        self.retry_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Returns whether nobody is to be asked yet.
    pub(crate) fn rests(&self, now_ms: u64) -> bool {
        now_ms < self.retry_ms.load(Ordering::Relaxed)
    }

    /// Writes the answer to a question of its name and type; returns its length, 0 when not even its head fits. What does not
    /// fit `max_bytes` is left out whole, with TC.
    pub(crate) fn write(&self, query: &Query<'_>, at: (u64, Age), max_bytes: usize, out: &mut [u8]) -> usize {
        let (now_ms, age) = at;
        let error = match age {
            Age::Stale => Some(STALE_ANSWER),
            Age::Fresh => (self.counted == Forwarded::Unreachable).then_some(NO_REACHABLE_AUTHORITY),
        };
        let error = error.filter(|_| query.edns.is_some());
        let cookie = query.reply_cookie.as_ref().map_or(&[][..], |cookie| &cookie[..]);
        let opt = query.edns.map_or(0, |_| opt_bytes(error, cookie));
        let head = HEADER_BYTES + query.question.len();
        let room = max_bytes.min(out.len());
        if head + opt > room {
            return 0;
        }
        let fits = head + self.body.len() + opt <= room;
        let mut length = head;
        if let Some(place) = out.get_mut(HEADER_BYTES..head) {
            place.copy_from_slice(query.question);
        }
        if fits && let Some(place) = out.get_mut(head..head + self.body.len()) {
            place.copy_from_slice(&self.body);
            self.age_ttls(place, now_ms, age);
            length += self.body.len();
        }
        if let (Some(edns), Some(place)) = (query.edns, out.get_mut(length..length + opt)) {
            write_opt(place, edns.dnssec_ok, error, cookie);
            length += opt;
        }
        let mut flags = RESPONSE | RECURSION_AVAILABLE | (query.flags & ECHOED) | (self.code & 0xF);
        if !fits {
            flags |= TRUNCATED;
        }
        let [answers, authorities] = if fits { self.counts } else { [0, 0] };
        let words = [query.id, flags, 1, answers, authorities, u16::from(query.edns.is_some())];
        for (place, word) in out.chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        length
    }

    fn age_ttls(&self, body: &mut [u8], now_ms: u64, age: Age) {
        let elapsed = u32::try_from(now_ms.saturating_sub(self.stored_ms) / 1000).unwrap_or(u32::MAX);
        for &at in &*self.ttls {
            let Some(place) = body.get_mut(usize::from(at)..).and_then(|rest| rest.first_chunk_mut::<4>()) else {
                continue;
            };
            let left = match age {
                Age::Fresh => u32::from_be_bytes(*place).saturating_sub(elapsed),
                Age::Stale => STALE_TTL_SECONDS,
            };
            *place = left.to_be_bytes();
        }
    }
}

fn is_failure(counted: Forwarded) -> bool {
    matches!(counted, Forwarded::Failed | Forwarded::Unreachable)
}

/// Returns wire name and type of a question as a key in `room`.
pub(crate) fn key_in<'r>(query: &Query<'_>, room: &'r mut [u8; MAX_NAME_BYTES + 2]) -> &'r [u8] {
    let mut name = [0; MAX_NAME_BYTES];
    let name = lower_into(query.name(), &mut name);
    let length = name.len() + 2;
    if let Some((place, kind)) = room.get_mut(..length).and_then(|place| place.split_last_chunk_mut::<2>()) {
        place.copy_from_slice(name);
        *kind = query.rtype.to_be_bytes();
    }
    room.get(..length).unwrap_or_default()
}

fn opt_bytes(error: Option<u16>, cookie: &[u8]) -> usize {
    let cookie = if cookie.is_empty() { 0 } else { 4 + cookie.len() };
    OPT_BYTES + error.map_or(0, |_| EXTENDED_ERROR_BYTES) + cookie
}

/// Writes the OPT record with an extended error (RFC 8914) and a cookie (RFC 7873), where there are any.
fn write_opt(place: &mut [u8], dnssec_ok: bool, error: Option<u16>, cookie: &[u8]) {
    let ([k0, k1], [u0, u1]) = (rtype::OPT.to_be_bytes(), OWN_UDP_BYTES.to_be_bytes());
    let options = u16::try_from(opt_bytes(error, cookie) - OPT_BYTES).unwrap_or(0).to_be_bytes();
    let head: [u8; OPT_BYTES] = [0, k0, k1, u0, u1, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, options[0], options[1]];
    let [e0, e1] = error.unwrap_or_default().to_be_bytes();
    let error = [0, 15, 0, 2, e0, e1].into_iter().filter(|_| error.is_some());
    let length = u8::try_from(cookie.len()).unwrap_or(0);
    let name = [0, 10, 0, length].into_iter().filter(|_| length > 0);
    let octets = head.into_iter().chain(error).chain(name).chain(cookie.iter().copied());
    for (place, octet) in place.iter_mut().zip(octets) {
        *place = octet;
    }
}

/// Returns where the TTLs of so many records are; `None` where they are not whole.
fn ttl_offsets(body: &[u8], counts: [u16; 2]) -> Option<Box<[u16]>> {
    let (mut at, mut found) = (0, Vec::new());
    for _ in 0..counts.iter().sum::<u16>() {
        loop {
            let length = usize::from(*body.get(at)?);
            at += if length >= 0xC0 { 2 } else { 1 + length };
            if length == 0 || length >= 0xC0 {
                break;
            }
        }
        found.push(u16::try_from(at + 4).ok()?);
        let length = body.get(at + 8..at + 10)?.first_chunk::<2>()?;
        at += 10 + usize::from(u16::from_be_bytes(*length));
    }
    (at == body.len()).then(|| found.into())
}

/// Makes the answer that nothing could be found out.
pub(crate) fn failure(query: &Query<'_>) -> Vec<u8> {
    let cookie = query.reply_cookie.as_ref().map_or(&[][..], |cookie| &cookie[..]);
    let mut out = vec![0; HEADER_BYTES + query.question.len() + opt_bytes(None, cookie)];
    let outcome = Outcome::bare(ResponseCode::ServFail, Forwarded::Failed, 0);
    let entry = Entry::new(&Name::root(), RecordType::A, outcome, 0);
    let room = out.len();
    let length = entry.map_or(0, |entry| entry.write(query, (0, Age::Fresh), room, &mut out));
    debug_assert!(length == 0 || out.get(3).is_some_and(|flags| u16::from(flags & 0xF) == SERVFAIL), "SERVFAIL");
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::{Age, Entry, Outcome, key_in};
    use crate::dns::counters::Forwarded;
    use crate::dnswire::{Edns, MAX_NAME_BYTES, Query};
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, MX};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    const QUESTION: &[u8] = b"\x03wWw\x07eXample\x00\x00\x01\x00\x01";

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query(edns: Option<Edns>) -> Query<'static> {
        Query { id: 7, flags: 0x0110, question: QUESTION, rtype: 1, class: 1, edns, cookie: None, reply_cookie: None }
    }

    fn entry() -> Entry {
        let alias = RData::CNAME(CNAME(name("host.EXAMPLE.")));
        let answers = vec![
            Record::from_rdata(name("WWW.example."), 300, alias),
            Record::from_rdata(name("host.example."), 20, RData::A(A::new(192, 0, 2, 1))),
        ];
        let outcome = Outcome { answers, ..Outcome::bare(ResponseCode::NoError, Forwarded::Answered, 20) };
        Entry::new(&name("www.Example."), RecordType::A, outcome, 1000).unwrap()
    }

    fn written(entry: &Entry, edns: Option<Edns>, at: (u64, Age), max: usize) -> Message {
        let mut out = [0; 512];
        let length = entry.write(&query(edns), at, max, &mut out);
        Message::from_vec(&out[..length]).unwrap()
    }

    #[test]
    fn a_kept_answer_has_the_number_the_letters_and_the_age_of_each_client() {
        let entry = entry();
        let answer = written(&entry, None, (8_999, Age::Fresh), 512);
        assert_eq!((answer.metadata.id, answer.metadata.recursion_available), (7, true));
        assert!(answer.metadata.recursion_desired && answer.metadata.checking_disabled);
        assert_eq!(answer.queries[0].name().to_ascii(), "wWw.eXample.");
        assert_eq!(answer.answers[0].name.to_ascii(), "wWw.eXample.", "a pointer to the question");
        assert_eq!([answer.answers[0].ttl, answer.answers[1].ttl], [293, 13]);
        let edns = Some(Edns { udp_bytes: 4096, dnssec_ok: true });
        let stale = written(&entry, edns, (99_000, Age::Stale), 512);
        assert_eq!([stale.answers[0].ttl, stale.answers[1].ttl], [30, 30], "RFC 8767 section 4");
        assert!(stale.edns.unwrap().flags().dnssec_ok);
    }

    #[test]
    fn a_failure_has_room_for_a_cookie() {
        let edns = Some(Edns { udp_bytes: 1232, dnssec_ok: false });
        let asked = Query { reply_cookie: Some([7; 24]), ..query(edns) };
        for asked in [asked, query(edns), query(None)] {
            let answer = Message::from_vec(&super::failure(&asked)).unwrap();
            assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::ServFail));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_whole() {
        let short = written(&entry(), None, (1000, Age::Fresh), 60);
        assert!(short.metadata.truncation && short.answers.is_empty());
        assert_eq!(entry().write(&query(None), (1000, Age::Fresh), 20, &mut [0; 512]), 0);
        assert_eq!(entry().write(&query(None), (1000, Age::Fresh), 512, &mut []), 0);
    }

    #[test]
    fn it_is_fresh_then_stale_then_gone_and_a_failure_never_stale() {
        let entry = entry();
        let ages = [20_999, 21_000, 30_999, 31_000].map(|now| entry.age(now, 10_000));
        assert_eq!(ages, [Some(Age::Fresh), Some(Age::Stale), Some(Age::Stale), None]);
        let failed = Outcome::bare(ResponseCode::ServFail, Forwarded::Failed, 1);
        let failed = Entry::new(&name("a."), RecordType::A, failed, 1000).unwrap();
        assert_eq!((failed.age(1999, 10_000), failed.age(2000, 10_000)), (Some(Age::Fresh), None));
    }

    #[test]
    fn who_is_used_often_is_asked_for_anew_once_shortly_before_its_end() {
        let entry = entry();
        assert!(!(0..10).any(|_| entry.used(18_000)), "not yet");
        assert!(entry.used(19_500) && !entry.used(19_600) && entry.is_refreshing());
        let rare = self::entry();
        assert!(!rare.used(19_500) && !rare.used(19_500) && rare.used(19_500));
    }

    #[test]
    fn ttls_are_found_behind_names_of_every_form() {
        let mail = RData::MX(MX::new(10, name("mx.other.")));
        let answers = vec![Record::from_rdata(name("."), 1, mail.clone()), Record::from_rdata(name("a.b.c."), 2, mail)];
        let outcome = Outcome { answers, ..Outcome::bare(ResponseCode::NoError, Forwarded::Answered, 1) };
        let entry = Entry::new(&name("x."), RecordType::MX, outcome, 0).unwrap();
        assert_eq!(entry.ttls.len(), 2);
        let ttl = |at: u16| entry.body[usize::from(at) + 3];
        assert_eq!([ttl(entry.ttls[0]), ttl(entry.ttls[1])], [1, 2]);
    }

    #[test]
    fn keys_are_names_in_lower_case_with_their_type() {
        let mut room = [0; MAX_NAME_BYTES + 2];
        assert_eq!(key_in(&query(None), &mut room), b"\x03www\x07example\x00\x00\x01");
    }
}
