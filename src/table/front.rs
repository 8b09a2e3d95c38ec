//! What the usual question for a service's addresses is answered from, on two lines of the cache.
//!
//! Most services tell everybody all their endpoints, each with an address of its own and the same weight. For those the
//! records of an answer stand one behind the other as they are sent, and whether they may be used is known for all of them
//! together: no endpoint's own counters are read. Any other service, and any moment in which an endpoint is ejected, takes
//! the way through [`crate::table::Records`].

use crate::balance::Marks;
use crate::dnswire::{OWNER_IS_QUESTION, record, rtype};
use crate::table::Service;
use std::sync::Arc;

/// Octets of a whole A record, owned by a pointer.
const A_BYTES: usize = 2 + record::FIXED_BYTES + 4;
/// Octets of a whole AAAA record, owned by a pointer.
const AAAA_BYTES: usize = 2 + record::FIXED_BYTES + 16;

/// The addresses of a service that tells everybody all its endpoints; that of another service has none.
#[derive(Debug, Clone, Default)]
#[repr(align(64))]
pub struct Front {
    /// Whole records, owned by the name of the question: those of IPv4, then those of IPv6.
    records: Box<[u8]>,
    marks: Arc<Marks>,
    ttl_ms: u64,
    changed_ms: u64,
    /// Octets of those of IPv4.
    ipv4_bytes: usize,
    /// Most records of an answer; 0: no bound.
    answers: u32,
    /// Whether no endpoint is known to be unhealthy.
    healthy: bool,
    headless: bool,
    prefer_zone: bool,
}

impl Front {
    /// Makes that of a service in which everything else is settled.
    pub(crate) fn of(service: &Service) -> Self {
        let (dns, records) = (&service.spec.dns, &service.records);
        let healthy = service.candidates.iter().all(|candidate| candidate.healthy);
        let (marks, ttl_ms) = (service.stats.marks().clone(), records.ttl_ms());
        let mut front = Self {
            marks,
            ttl_ms,
            changed_ms: service.changed_ms,
            healthy,
            answers: dns.answers.unwrap_or(0),
            headless: dns.headless,
            prefer_zone: dns.prefer_zone,
            ..Self::default()
        };
        let is_usual = service.is_everywhere()
            && !(dns.headless || dns.prefer_zone || dns.answers.is_some())
            && !(records.shares_addresses() || records.differ_in_weight());
        if is_usual {
            let mut all = Vec::with_capacity(A_BYTES * service.endpoints.len());
            for kind in [rtype::A, rtype::AAAA] {
                let of_kind = (0..service.endpoints.len()).filter_map(|index| records.address(index));
                for address in of_kind.filter(|address| record::kind(address) == kind) {
                    all.extend(OWNER_IS_QUESTION.to_be_bytes());
                    all.extend_from_slice(address);
                }
                if kind == rtype::A {
                    front.ipv4_bytes = all.len();
                }
            }
            front.records = all.into();
        }
        front
    }

    /// Returns whether every endpoint is known to be usable now; `false` where each has to be asked.
    pub fn every(&self, now_ms: u64) -> bool {
        self.healthy && !self.marks.any_ejected(now_ms)
    }

    /// Returns all records of a type and the octets of one, if there are any and every endpoint may be used now.
    pub fn records(&self, kind: u16, now_ms: u64) -> Option<(&[u8], usize)> {
        let (ipv4, ipv6) = self.records.split_at_checked(self.ipv4_bytes)?;
        let (records, size) = match kind {
            rtype::A => (ipv4, A_BYTES),
            rtype::AAAA => (ipv6, AAAA_BYTES),
            _ => return None,
        };
        (!records.is_empty() && self.every(now_ms)).then_some((records, size))
    }

    /// Returns how many records an answer may have; `None`: no bound.
    pub fn answers(&self) -> Option<u32> {
        (self.answers > 0).then_some(self.answers)
    }

    /// Returns whether its endpoints themselves are named, as in its definition.
    pub fn is_headless(&self) -> bool {
        self.headless
    }

    /// Returns whether endpoints in the asker's zone are preferred, as in its definition.
    pub fn prefers_zone(&self) -> bool {
        self.prefer_zone
    }

    /// Returns for how long answers may be kept, and when the endpoints last changed; both in milliseconds, 0: not yet.
    pub fn age(&self) -> (u64, u64) {
        (self.ttl_ms, self.changed_ms)
    }

    /// Notes that an answer that names endpoints may be cached until then; before it is sent.
    pub fn name_until(&self, until_ms: u64) {
        self.marks.name_until(until_ms);
    }
}
