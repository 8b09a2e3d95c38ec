//! Reading a question: the common shape here, everything else sorted out for the slow path.

use crate::dnswire::name::MAX_NAME_BYTES;
use crate::dnswire::{HEADER_BYTES, class, rtype};

/// Longest message of the common shape: what fits a UDP query without EDNS, RFC 1035 §4.2.1.
const MAX_FAST_BYTES: usize = 512;
/// Code of the COOKIE option, RFC 7873 §4.
pub(crate) const COOKIE: u16 = 10;
/// Code of the option that asks for the server's identity, RFC 5001 §2.
const NSID: u16 = 3;
/// Octets of the COOKIE option of an answer: a client's cookie of 8 and a server's of 16 (RFC 9018 §4).
pub const REPLY_COOKIE_BYTES: usize = 24;
/// Octets of an OPT record before its options: root, type, size, flags, length.
const OPT_BYTES: usize = 11;

/// What an OPT record of version 0 asks for, RFC 6891 §6.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP answer that the client can take, in octets.
    pub udp_bytes: u16,
    /// The DO bit: copied into the answer, RFC 3225 §3.
    pub dnssec_ok: bool,
}

/// One question, borrowed from the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'m> {
    /// The client's number for it.
    pub id: u16,
    /// The second header word as sent: RD and CD go into the answer.
    pub flags: u16,
    /// The question as sent, so that its letter case comes back: name, type, class.
    pub question: &'m [u8],
    /// The asked type.
    pub rtype: u16,
    /// The asked class.
    pub class: u16,
    /// The OPT record, when there was one.
    pub edns: Option<Edns>,
    /// The COOKIE option in it as sent, 8 or 16 to 40 octets (RFC 7873 §4).
    pub cookie: Option<&'m [u8]>,
    /// The COOKIE option that the answer brings.
    pub reply_cookie: Option<[u8; REPLY_COOKIE_BYTES]>,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<'m> {
    /// A question of the common shape: answer it now.
    Fast(Query<'m>),
    /// Well-formed as far as it was read, but unusual: for the slow path.
    Slow,
    /// A query that breaks the format: FORMERR.
    FormErr,
    /// An answer, or too short for a header: no reply, so that no two servers talk in a loop.
    Silent,
}

impl<'m> Query<'m> {
    /// Sorts a message out; one pass, about 20 ns.
    ///
    /// Fast is: opcode QUERY, one question (RFC 9619), class IN, a data type, no compression, and at most one OPT of
    /// version 0 that ends the message.
    pub fn parse(message: &'m [u8]) -> Parsed<'m> {
        let Some(header) = message.first_chunk::<HEADER_BYTES>() else { return Parsed::Silent };
        let [_, _, high, _, q0, q1, an0, an1, ns0, ns1, ar0, ar1] = *header;
        if high & 0x80 != 0 {
            return Parsed::Silent;
        }
        if high & 0x78 != 0 {
            return Parsed::Slow;
        }
        if [q0, q1] != [0, 1] {
            return if Self::cookie_alone(message).is_some() { Parsed::Slow } else { Parsed::FormErr };
        }
        let Some((mut query, rest)) = Self::question_of(message) else { return Parsed::FormErr };
        if [an0, an1, ns0, ns1, ar0, ar1] == [0; 6] && !rest.is_empty() {
            return Parsed::FormErr;
        }
        let common = [an0, an1, ns0, ns1, ar0] == [0; 5] && high & 0x02 == 0 && message.len() <= MAX_FAST_BYTES;
        if !common || query.class != class::IN || is_meta(query.rtype) {
            return Parsed::Slow;
        }
        match (ar1, rest) {
            (0, _) => Parsed::Fast(query),
            (1, _) => match opt(rest) {
                Opt::Plain(edns, cookie, nsid) => {
                    (query.edns, query.cookie) = (Some(edns), cookie);
                    if nsid { Parsed::Slow } else { Parsed::Fast(query) }
                }
                Opt::Unusual => Parsed::Slow,
                Opt::Malformed => Parsed::FormErr,
            },
            _ => Parsed::Slow,
        }
    }

    /// Reads header and first question only, whatever the counts say; with the octets that follow it.
    pub fn question_of(message: &'m [u8]) -> Option<(Self, &'m [u8])> {
        let (&[i0, i1, f0, f1, ..], body) = message.split_first_chunk::<HEADER_BYTES>()?;
        let name = name_bytes(body)?;
        let (question, rest) = body.split_at_checked(name + 4)?;
        let &[t0, t1, c0, c1] = question.last_chunk::<4>()?;
        let query = Self {
            id: u16::from_be_bytes([i0, i1]),
            flags: u16::from_be_bytes([f0, f1]),
            question,
            rtype: u16::from_be_bytes([t0, t1]),
            class: u16::from_be_bytes([c0, c1]),
            edns: None,
            cookie: None,
            reply_cookie: None,
        };
        Some((query, rest))
    }

    /// Reads a message that asks for a cookie and nothing else: a header and an OPT record with one, RFC 7873 §5.4.
    pub fn cookie_alone(message: &'m [u8]) -> Option<Self> {
        let (&[i0, i1, f0, f1, counts @ ..], rest) = message.split_first_chunk::<HEADER_BYTES>()?;
        if f0 & 0xF8 != 0 || counts != [0, 0, 0, 0, 0, 0, 0, 1] {
            return None;
        }
        let Opt::Plain(edns, cookie @ Some(_), _) = opt(rest) else { return None };
        Some(Self {
            id: u16::from_be_bytes([i0, i1]),
            flags: u16::from_be_bytes([f0, f1]),
            question: &[],
            rtype: 0,
            class: 0,
            edns: Some(edns),
            cookie,
            reply_cookie: None,
        })
    }

    /// Takes the COOKIE option out of what follows the question, where that is an OPT record alone; returns whether it is
    /// well formed.
    pub fn take_cookie(&mut self, rest: &'m [u8]) -> bool {
        match opt(rest) {
            Opt::Plain(_, cookie, _) => {
                self.cookie = cookie;
                true
            }
            Opt::Unusual => true,
            Opt::Malformed => false,
        }
    }

    /// Returns the asked name on the wire, as sent, with the root.
    pub fn name(&self) -> &'m [u8] {
        self.question.get(..self.question.len().saturating_sub(4)).unwrap_or_default()
    }
}

/// Types that ask for something else than records of one type: OPT and 128-255, RFC 6895 §3.1.
fn is_meta(code: u16) -> bool {
    code == rtype::OPT || code == 0 || (128..=255).contains(&code)
}

/// Returns the length of the uncompressed name at the start; pointers have nothing to point to in a first question.
fn name_bytes(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*body.get(at)?);
        at += 1 + length;
        if length > 63 || at > MAX_NAME_BYTES {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}

enum Opt<'m> {
    /// With the cookie in it, and whether the server's identity is asked for.
    Plain(Edns, Option<&'m [u8]>, bool),
    Unusual,
    Malformed,
}

/// Reads the additional section when it has one record.
fn opt(rest: &[u8]) -> Opt<'_> {
    let Some((&[root, t0, t1, s0, s1, _, version, f0, _, l0, l1], mut options)) = rest.split_first_chunk::<OPT_BYTES>()
    else {
        return Opt::Unusual;
    };
    if root != 0 || u16::from_be_bytes([t0, t1]) != rtype::OPT || version != 0 {
        return Opt::Unusual;
    }
    if options.len() != usize::from(u16::from_be_bytes([l0, l1])) {
        return Opt::Malformed;
    }
    // RFC 6891 §6.1.2: unknown options are ignored, but lying lengths are an error.
    let (mut cookie, mut nsid) = (None, false);
    while let Some((&[c0, c1, o0, o1], tail)) = options.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([o0, o1]));
        let Some((option, next)) = tail.split_at_checked(length) else { return Opt::Malformed };
        if u16::from_be_bytes([c0, c1]) == COOKIE && cookie.is_none() {
            // RFC 7873 §5.2.2: FORMERR; §5.2: of several the first counts.
            if length != 8 && !(16..=40).contains(&length) {
                return Opt::Malformed;
            }
            cookie = Some(option);
        }
        // What it holds is ignored, RFC 5001 §2.1.
        nsid |= u16::from_be_bytes([c0, c1]) == NSID;
        options = next;
    }
    if !options.is_empty() {
        return Opt::Malformed;
    }
    Opt::Plain(Edns { udp_bytes: u16::from_be_bytes([s0, s1]), dnssec_ok: f0 & 0x80 != 0 }, cookie, nsid)
}

#[cfg(test)]
mod tests {
    use super::{Edns, Parsed, Query};
    use crate::dnswire::{parse_name, rtype};
    use proptest::prelude::{Just, Strategy, any, prop, proptest};

    const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];

    fn message(counts: [u8; 4], name: &[u8], kind: u16, tail: &[u8]) -> Vec<u8> {
        let [q, an, ns, ar] = counts;
        let mut out = vec![0xAB, 0xCD, 1, 0, 0, q, 0, an, 0, ns, 0, ar];
        out.extend_from_slice(name);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(tail);
        out
    }

    fn web() -> Vec<u8> {
        parse_name("web.weir.internal").unwrap()
    }

    #[test]
    fn reads_a_plain_question_and_an_opt() {
        let plain = message([1, 0, 0, 0], &web(), rtype::A, &[]);
        let Parsed::Fast(query) = Query::parse(&plain) else { panic!("not fast") };
        assert_eq!((query.id, query.rtype, query.name(), query.edns), (0xABCD, rtype::A, &web()[..], None));
        let with_opt = message([1, 0, 0, 1], &web(), rtype::SRV, OPT);
        let Parsed::Fast(query) = Query::parse(&with_opt) else { panic!("not fast") };
        assert_eq!(query.edns, Some(Edns { udp_bytes: 1232, dnssec_ok: true }));
    }

    #[test]
    fn takes_a_cookie_of_the_right_length_out_of_the_options() {
        let with = |lengths: &[usize]| {
            let mut opt = OPT.to_vec();
            for (n, length) in (1u8..).zip(lengths) {
                opt.extend_from_slice(&[0, 10, 0, *length as u8]);
                opt.extend(std::iter::repeat_n(n, *length));
            }
            opt[10] = (opt.len() - 11) as u8;
            message([1, 0, 0, 1], &web(), rtype::A, &opt)
        };
        for (lengths, expected) in [(&[8][..], Some(8)), (&[16], Some(16)), (&[40, 8], Some(40)), (&[], None)] {
            let octets = with(lengths);
            let Parsed::Fast(query) = Query::parse(&octets) else { panic!("not fast") };
            assert_eq!(query.cookie.map(<[u8]>::len), expected);
            assert!(query.cookie.is_none_or(|cookie| cookie[0] == 1));
        }
        for length in [0, 7, 9, 15, 41] {
            assert_eq!(Query::parse(&with(&[length])), Parsed::FormErr, "{length}");
        }
    }

    #[test]
    fn a_cookie_is_asked_for_with_or_without_a_question_and_the_identity_is_unusual() {
        let option = |code: u8, octets: usize| {
            let mut opt = OPT.to_vec();
            opt[10] = 4 + octets as u8;
            opt.extend([0, code, 0, octets as u8]);
            opt.extend(std::iter::repeat_n(7, octets));
            opt
        };
        assert_eq!(Query::parse(&message([1, 0, 0, 1], &web(), rtype::A, &option(3, 0))), Parsed::Slow);
        let bare = |counts: [u8; 4], opt: &[u8]| {
            let [q, an, ns, ar] = counts;
            [&[0xAB, 0xCD, 1, 0, 0, q, 0, an, 0, ns, 0, ar][..], opt].concat()
        };
        let alone = bare([0, 0, 0, 1], &option(10, 8));
        assert_eq!(Query::parse(&alone), Parsed::Slow);
        assert_eq!(
            Query::cookie_alone(&alone).map(|query| (query.id, query.cookie)),
            Some((0xABCD, Some(&[7; 8][..])))
        );
        for wrong in [
            bare([0, 0, 0, 1], OPT),
            bare([0, 0, 0, 1], &option(10, 7)),
            bare([0, 1, 0, 1], &option(10, 8)),
            bare([0, 0, 0, 0], &[]),
            bare([0, 0, 0, 1], &[]),
        ] {
            assert_eq!(Query::parse(&wrong), Parsed::FormErr, "{wrong:?}");
        }
    }

    #[test]
    fn sorts_out_what_is_no_common_question() {
        let parse = |m: &[u8]| match Query::parse(m) {
            Parsed::Fast(_) => "fast",
            Parsed::Slow => "slow",
            Parsed::FormErr => "formerr",
            Parsed::Silent => "silent",
        };
        let plain = message([1, 0, 0, 0], &web(), rtype::A, &[]);
        let with = |at: usize, value: u8| {
            let mut copy = plain.clone();
            copy[at] = value;
            copy
        };
        assert_eq!(parse(&plain[..11]), "silent");
        assert_eq!(parse(&with(2, 0x81)), "silent");
        assert_eq!(parse(&with(2, 0x28)), "slow");
        assert_eq!(parse(&with(5, 0)), "formerr");
        assert_eq!(parse(&with(5, 2)), "formerr");
        assert_eq!(parse(&with(7, 1)), "slow");
        assert_eq!(parse(&with(11, 2)), "slow");
        assert_eq!(parse(&with(12, 0xC0)), "formerr");
        assert_eq!(parse(&with(12, 0x40)), "formerr");
        assert_eq!(parse(&plain[..plain.len() - 1]), "formerr");
        assert_eq!(parse(&[plain.clone(), vec![0]].concat()), "formerr");
        assert_eq!(parse(&message([1, 0, 0, 0], &web(), rtype::ANY, &[])), "slow");
        let mut lying = OPT.to_vec();
        lying[10] = 9;
        assert_eq!(parse(&message([1, 0, 0, 1], &web(), rtype::A, &lying)), "formerr");
        let mut version = OPT.to_vec();
        version[6] = 1;
        assert_eq!(parse(&message([1, 0, 0, 1], &web(), rtype::A, &version)), "slow");
        let mut option = OPT.to_vec();
        option[10] = 5;
        option.extend_from_slice(&[0, 10, 0, 2, 1]);
        assert_eq!(parse(&message([1, 0, 0, 1], &web(), rtype::A, &option)), "formerr");
    }

    #[test]
    fn a_name_ends_at_255_octets() {
        let long = |last: usize| {
            let mut name = Vec::new();
            for length in [63, 63, 63, last] {
                name.push(u8::try_from(length).unwrap());
                name.extend(std::iter::repeat_n(b'a', length));
            }
            name.push(0);
            name
        };
        assert!(matches!(Query::parse(&message([1, 0, 0, 0], &long(61), rtype::A, &[])), Parsed::Fast(_)));
        assert_eq!(Query::parse(&message([1, 0, 0, 0], &long(62), rtype::A, &[])), Parsed::FormErr);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Query::parse(&octets);
        }

        #[test]
        fn no_mutation_makes_it_panic_or_read_outside(
            at in 0usize..60, value in any::<u8>(), cut in 0usize..60, tail in Just(OPT).prop_map(<[u8]>::to_vec)
        ) {
            let mut octets = message([1, 0, 0, 1], &web(), rtype::A, &tail);
            let length = octets.len();
            octets[at % length] = value;
            octets.truncate(length - cut % length);
            if let Parsed::Fast(query) = Query::parse(&octets) {
                assert!(query.question.len() >= 5 && query.name().last() == Some(&0));
            }
        }
    }
}
