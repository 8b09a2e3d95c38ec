//! What of an answer is believed (RFC 5452 §6): the records of the asked name and of the names that its aliases lead to, as
//! long as those are in the zone that the resolver was asked about. Whatever else an answer carries was not asked for.

use crate::dns::counters::Forwarded;
use crate::dns::forward::entry::Outcome;
use crate::dns::forward::upstream::Said;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// Answers are kept no longer, whatever their TTL: an hour of a wrong record is enough.
const MAX_TTL_SECONDS: u32 = 3600;
/// As above for "does not exist" (RFC 2308 §5): what was asked too early must appear soon.
const MAX_NEGATIVE_TTL_SECONDS: u32 = 60;
/// Longest chain of aliases in one answer.
pub(crate) const MAX_ALIASES: usize = 10;

/// What is known of a question so far: aliases, and where they lead.
#[derive(Debug)]
pub(crate) struct Chain {
    kind: RecordType,
    /// The name that is to be asked about, and those before it.
    name: Name,
    names: Vec<Name>,
    answers: Vec<Record>,
    ttl_seconds: u32,
}

/// Whether more is to be asked.
#[derive(Debug)]
pub(crate) enum Next {
    /// That is the answer.
    Done(Outcome),
    /// The last name is to be asked about.
    Ask,
    /// Aliases lead round in a circle, or on and on.
    Endless,
}

impl Chain {
    /// Starts with the asked name.
    pub(crate) fn new(name: Name, kind: RecordType) -> Self {
        Self { kind, name, names: Vec::new(), answers: Vec::new(), ttl_seconds: MAX_TTL_SECONDS }
    }

    /// Returns the name that is to be asked about.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Takes what a resolver of `zone` said about [`Chain::name`].
    pub(crate) fn take(&mut self, zone: &Name, said: Said) -> Next {
        let before = self.names.len();
        loop {
            let name = self.name().clone();
            if !zone.zone_of(&name) {
                return Next::Ask;
            }
            let of_name = |record: &&Record| record.dns_class == DNSClass::IN && record.name == name;
            let wanted = said.answers.iter().filter(of_name).filter(|record| record.record_type() == self.kind);
            let found: Vec<Record> = wanted.cloned().collect();
            if !found.is_empty() {
                found.into_iter().for_each(|record| self.push(record));
                return Next::Done(self.positive());
            }
            let alias = said.answers.iter().filter(of_name).find_map(|record| match &record.data {
                RData::CNAME(target) => Some((record, target.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else { break };
            self.push(record.clone());
            self.names.push(std::mem::replace(&mut self.name, target));
            if self.names.contains(&self.name) || self.names.len() > MAX_ALIASES {
                return Next::Endless;
            }
        }
        let soa = said.authorities.into_iter().find(|record| {
            record.dns_class == DNSClass::IN
                && record.record_type() == RecordType::SOA
                && record.name.zone_of(self.name())
        });
        if soa.is_none() && self.names.len() > before && said.code == ResponseCode::NoError {
            // An alias without a word about where it leads.
            return Next::Ask;
        }
        Next::Done(self.negative(said.code, soa))
    }

    /// Returns what is known when nobody can be asked about the last name.
    pub(crate) fn unfinished(mut self) -> Outcome {
        if self.answers.is_empty() {
            return Outcome::bare(ResponseCode::ServFail, Forwarded::Unreachable, 1);
        }
        self.positive()
    }

    fn push(&mut self, mut record: Record) {
        // RFC 2181 §8: a TTL has 31 bits, what has more is none.
        record.ttl = if record.ttl > i32::MAX.unsigned_abs() { 0 } else { record.ttl.min(MAX_TTL_SECONDS) };
        self.ttl_seconds = self.ttl_seconds.min(record.ttl);
        self.answers.push(record);
    }

    fn positive(&mut self) -> Outcome {
        let answers = std::mem::take(&mut self.answers);
        let bare = Outcome::bare(ResponseCode::NoError, Forwarded::Answered, self.ttl_seconds);
        Outcome { answers, ..bare }
    }

    /// RFC 2308 §5: kept for the smaller of the SOA's TTL and minimum; without one not at all.
    fn negative(&mut self, code: ResponseCode, soa: Option<Record>) -> Outcome {
        let counted = if code == ResponseCode::NXDomain { Forwarded::NxDomain } else { Forwarded::NoData };
        let mut ttl_seconds = 0;
        let authorities = soa.into_iter().map(|mut soa| {
            let minimum = if let RData::SOA(data) = &soa.data { data.minimum } else { 0 };
            soa.ttl = soa.ttl.min(minimum).min(MAX_NEGATIVE_TTL_SECONDS);
            ttl_seconds = soa.ttl.min(self.ttl_seconds);
            soa
        });
        let authorities = authorities.collect();
        Outcome { code, answers: std::mem::take(&mut self.answers), authorities, counted, ttl_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chain, MAX_ALIASES, Next};
    use crate::dns::counters::Forwarded;
    use crate::dns::forward::entry::Outcome;
    use crate::dns::forward::upstream::Said;
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(owner: &str, ttl: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn alias(owner: &str, target: &str) -> Record {
        Record::from_rdata(name(owner), 60, RData::CNAME(CNAME(name(target))))
    }

    fn soa(owner: &str, ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(name(owner), ttl, RData::SOA(SOA::new(name("ns."), name("me."), 1, 2, 3, 4, minimum)))
    }

    fn said(answers: Vec<Record>, authorities: Vec<Record>) -> Said {
        Said { code: ResponseCode::NoError, answers, authorities }
    }

    fn take(zone: &str, said: Said) -> (Next, Chain) {
        let mut chain = Chain::new(name("www.example."), RecordType::A);
        (chain.take(&name(zone), said), chain)
    }

    fn done(next: Next) -> Outcome {
        match next {
            Next::Done(outcome) => outcome,
            next => panic!("{next:?}"),
        }
    }

    #[test]
    fn aliases_are_followed_and_nothing_else_is_believed() {
        let answers = vec![
            address("other.example.", 9),
            address("b.example.", 9),
            alias("www.example.", "b.example."),
            soa(".", 9, 9),
        ];
        let outcome = done(take(".", said(answers, vec![])).0);
        let names: Vec<String> = outcome.answers.iter().map(|record| record.name.to_string()).collect();
        assert_eq!((names, outcome.ttl_seconds), (vec!["www.example.".to_owned(), "b.example.".to_owned()], 9));
    }

    #[test]
    fn who_was_asked_about_a_zone_is_not_believed_about_others() {
        let answers = vec![alias("www.example.", "www.bank."), address("www.bank.", 9)];
        let (next, chain) = take("example.", said(answers, vec![]));
        assert!(matches!(next, Next::Ask) && *chain.name() == name("www.bank."), "{next:?}");
        assert_eq!(chain.unfinished().answers.len(), 1);
    }

    #[test]
    fn circles_and_endless_chains_end() {
        let circle = vec![alias("www.example.", "b."), alias("b.", "c."), alias("c.", "b.")];
        assert!(matches!(take(".", said(circle, vec![])).0, Next::Endless));
        let own = vec![alias("www.example.", "www.example.")];
        assert!(matches!(take(".", said(own, vec![])).0, Next::Endless));
        let mut long = vec![alias("www.example.", "n0.")];
        long.extend((0..MAX_ALIASES + 5).map(|n| alias(&format!("n{n}."), &format!("n{}.", n + 1))));
        assert!(matches!(take(".", said(long, vec![])).0, Next::Endless));
    }

    #[test]
    fn what_does_not_exist_is_kept_as_rfc2308_says() {
        let of = |soa: Vec<Record>| done(take(".", said(vec![], soa)).0).ttl_seconds;
        assert_eq!(of(vec![soa("example.", 30, 20)]), 20);
        assert_eq!(of(vec![soa("example.", 10, 20)]), 10);
        assert_eq!(of(vec![soa("example.", 9999, 9999)]), 60);
        assert_eq!(of(vec![soa("other.", 30, 20)]), 0, "another zone's");
        assert_eq!(of(vec![]), 0);
        let missing = Said { code: ResponseCode::NXDomain, ..said(vec![], vec![soa("example.", 30, 20)]) };
        let outcome = done(take(".", missing).0);
        assert_eq!((outcome.code, outcome.counted), (ResponseCode::NXDomain, Forwarded::NxDomain));
    }

    #[test]
    fn an_alias_without_its_target_is_asked_about_unless_it_was_said_that_there_is_nothing() {
        let lone = || vec![alias("www.example.", "b.example.")];
        assert!(matches!(take(".", said(lone(), vec![])).0, Next::Ask));
        let outcome = done(take(".", said(lone(), vec![soa("example.", 30, 20)])).0);
        assert_eq!((outcome.answers.len(), outcome.counted), (1, Forwarded::NoData));
    }

    #[test]
    fn ttls_are_bounded_and_what_has_too_many_bits_is_none() {
        let of = |ttl| done(take(".", said(vec![address("www.example.", ttl)], vec![])).0).ttl_seconds;
        assert_eq!([of(5), of(100_000), of(0), of(u32::MAX)], [5, 3600, 0, 0]);
    }
}
