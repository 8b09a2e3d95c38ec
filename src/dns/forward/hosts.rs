//! What is known without asking anybody: a file such as `/etc/hosts`, and names that have a meaning of their own.

use crate::dns::counters::Forwarded;
use crate::dnswire::{
    Answer, MAX_NAME_BYTES, OWNER_IS_QUESTION, Query, Section, address_of_reverse, labels, lower_into, parse_name,
    rcode, record, rtype,
};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TTL of what a file says, in seconds: it may change at any moment.
const TTL_SECONDS: u32 = 5;
/// Names of one address that are told, and addresses of one name.
const MAX_RECORDS: usize = 32;
/// RA, RFC 1035 §4.1.1, in the second octet of the flags.
const RECURSION_AVAILABLE: u8 = 0x80;

/// The names of a file.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    addresses: HashMap<Vec<u8>, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Vec<u8>>>,
}

/// What is known of a question.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Addresses(Vec<IpAddr>),
    Names(Vec<Vec<u8>>),
    /// The name exists, with other records.
    Nothing,
    Missing,
}

impl Hosts {
    /// Reads a file; lines that are none are skipped, as resolvers do.
    pub(crate) fn read(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words.filter_map(parse_name).filter(|name| name.len() > 1) {
                let known = hosts.addresses.entry(name.clone()).or_default();
                if !known.contains(&address) && known.len() < MAX_RECORDS {
                    known.push(address);
                }
                let known = hosts.names.entry(address).or_default();
                if !known.contains(&name) && known.len() < MAX_RECORDS {
                    known.push(name);
                }
            }
        }
        hosts
    }

    /// Answers a question that needs no resolver; `client` is who asks. Returns length, code and what to count.
    pub(crate) fn answer(
        &self,
        query: &Query<'_>,
        client: Option<IpAddr>,
        max_bytes: usize,
        out: &mut [u8],
    ) -> Option<(usize, u16, Forwarded)> {
        let mut room = [0; MAX_NAME_BYTES];
        let name = lower_into(query.name(), &mut room);
        let known = self.find(name, query.rtype, client).or_else(|| reserved(name, query.rtype))?;
        let code = if known == Known::Missing { rcode::NXDOMAIN } else { rcode::NOERROR };
        let counted = match &known {
            Known::Missing => Forwarded::NxDomain,
            Known::Nothing => Forwarded::NoData,
            _ => Forwarded::Answered,
        };
        let mut answer = Answer::begin(query, out, max_bytes)?;
        let mut add = |parts: &[&[u8]]| {
            if answer.add(Section::Answer, OWNER_IS_QUESTION, parts).is_none() {
                answer.truncate();
            }
        };
        match known {
            Known::Addresses(list) => list.iter().for_each(|address| {
                let mut encoded = Vec::with_capacity(26);
                record::push_address(&mut encoded, *address, TTL_SECONDS);
                add(&[&encoded]);
            }),
            Known::Names(list) => list.iter().for_each(|name| {
                add(&[&record::fixed(rtype::PTR, TTL_SECONDS, name.len()), name]);
            }),
            Known::Nothing | Known::Missing => {}
        }
        let length = answer.finish(code, false);
        if let Some(flags) = out.get_mut(3) {
            *flags |= RECURSION_AVAILABLE;
        }
        Some((length, code, counted))
    }

    /// Returns what the file says; `None`: nothing. Loopback addresses mean something else to another host.
    fn find(&self, name: &[u8], kind: u16, client: Option<IpAddr>) -> Option<Known> {
        if self.addresses.is_empty() {
            return None;
        }
        if kind == rtype::PTR
            && let Some(address) = address_of_reverse(name)
        {
            return self.names.get(&address).map(|names| Known::Names(names.clone()));
        }
        let is_here = client.is_some_and(|client| client.to_canonical().is_loopback());
        let mut usable =
            self.addresses.get(name)?.iter().filter(|address| is_here || !address.is_loopback()).peekable();
        usable.peek()?;
        let of_kind = usable.filter(|address| if kind == rtype::A { address.is_ipv4() } else { address.is_ipv6() });
        let found: Vec<IpAddr> = of_kind.copied().collect();
        let is_address = matches!(kind, rtype::A | rtype::AAAA);
        Some(if is_address && !found.is_empty() { Known::Addresses(found) } else { Known::Nothing })
    }
}

/// Returns what names with a meaning of their own have: RFC 6761 §6.3 (localhost), §6.4 (invalid), RFC 7686 (onion).
fn reserved(name: &[u8], kind: u16) -> Option<Known> {
    match labels(name).last()? {
        b"localhost" => Some(match kind {
            rtype::A => Known::Addresses(vec![Ipv4Addr::LOCALHOST.into()]),
            rtype::AAAA => Known::Addresses(vec![Ipv6Addr::LOCALHOST.into()]),
            _ => Known::Nothing,
        }),
        b"invalid" | b"onion" => Some(Known::Missing),
        b"arpa" if address_of_reverse(name).is_some_and(|address| address.is_loopback()) => Some(match kind {
            rtype::PTR => Known::Names(vec![b"\x09localhost\x00".to_vec()]),
            _ => Known::Nothing,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Hosts, Known, reserved};
    use crate::dnswire::{parse_name, rtype};

    #[test]
    fn reads_a_file_and_answers_each_family_and_the_way_back() {
        let hosts = Hosts::read(
            "127.0.0.1 localhost\n10.0.0.7\tDb.example db # 10.0.0.8 no\n::7 db\nnonsense line\n127.0.1.1 me\n",
        );
        let find = |name: &str, kind, client: &str| {
            hosts.find(&parse_name(name).unwrap(), kind, Some(client.parse().unwrap()))
        };
        let addresses = |list: &[&str]| Some(Known::Addresses(list.iter().map(|a| a.parse().unwrap()).collect()));
        assert_eq!(find("db", rtype::A, "10.9.9.9"), addresses(&["10.0.0.7"]));
        assert_eq!(find("db", rtype::AAAA, "10.9.9.9"), addresses(&["::7"]));
        assert_eq!(find("db.example", rtype::AAAA, "10.9.9.9"), Some(Known::Nothing));
        assert_eq!(find("db", rtype::TXT, "10.9.9.9"), Some(Known::Nothing));
        assert_eq!(find("me", rtype::A, "127.0.0.1"), addresses(&["127.0.1.1"]));
        assert_eq!(find("me", rtype::A, "10.9.9.9"), None, "loopback of this host is not that of another");
        assert_eq!(find("line", rtype::A, "127.0.0.1"), None);
        let names = vec![parse_name("db.example").unwrap(), parse_name("db").unwrap()];
        assert_eq!(find("7.0.0.10.in-addr.arpa", rtype::PTR, "10.9.9.9"), Some(Known::Names(names)));
    }

    #[test]
    fn names_with_a_meaning_of_their_own_go_no_further() {
        let of = |name: &str, kind| reserved(&parse_name(name).unwrap(), kind);
        assert!(matches!(of("a.localhost", rtype::A), Some(Known::Addresses(_))));
        assert_eq!(of("localhost", rtype::TXT), Some(Known::Nothing));
        assert_eq!((of("x.invalid", rtype::A), of("x.onion", rtype::A)), (Some(Known::Missing), Some(Known::Missing)));
        assert!(matches!(of("1.0.0.127.in-addr.arpa", rtype::PTR), Some(Known::Names(_))));
        assert_eq!(of("localhost.example", rtype::A), None);
    }
}
