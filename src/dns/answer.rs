//! Choosing and copying the records of a service: who may be used now, in random order, as many as fit.
//!
//! Every endpoint that an answer names is stamped with the time until which the answer may be cached, before the answer
//! leaves: a withdrawal waits for that (details: `table::Acknowledger`, `EndpointStats::name_until`).

use crate::dns::view::View;
use crate::dnswire::{Answer, OWNER_IS_QUESTION, Section, record, rtype};
use crate::rng::Rng;
use crate::table::Service;
use crate::table::names::Owner;
use std::net::IpAddr;

/// Room that is used again for each answer, so that none is allocated; one per thread.
#[derive(Debug)]
pub struct Scratch {
    /// Chosen endpoints, shuffled as they are copied.
    order: Vec<usize>,
    /// Candidates that share addresses, by the number of their address.
    sharing: Vec<(usize, usize)>,
    /// One flag per distinct address.
    seen: Vec<bool>,
    /// Endpoints of SRV records with the offset of their target.
    targets: Vec<(usize, usize)>,
    rng: Rng,
}

/// Whether every answer record went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    All,
    Part,
}

impl Scratch {
    /// Returns empty room; `rng` decides the order of records.
    pub fn new(rng: Rng) -> Self {
        Self { order: Vec::new(), sharing: Vec::new(), seen: Vec::new(), targets: Vec::new(), rng }
    }

    /// Calls `copy` with the chosen endpoints in random order until it says that one does not fit.
    fn shuffle(&mut self, mut copy: impl FnMut(usize) -> bool) -> Fit {
        let total = self.order.len();
        for at in 0..total {
            let other = at + self.rng.below(total - at);
            self.order.swap(at, other);
            let chosen = self.order.get(at).copied();
            if !chosen.is_some_and(&mut copy) {
                return Fit::Part;
            }
        }
        Fit::All
    }
}

/// Adds the distinct addresses of one kind that have at least one usable endpoint.
pub(crate) fn add_addresses(
    answer: &mut Answer<'_, '_>,
    service: &Service,
    kind: u16,
    now_ms: u64,
    scratch: &mut Scratch,
) -> Fit {
    let records = &service.records;
    if !records.has(kind) {
        return Fit::All;
    }
    let of_kind = |&index: &usize| records.address(index).is_some_and(|address| record::kind(address) == kind);
    let until_ms = now_ms + records.ttl_ms();
    scratch.order.clear();
    if !records.shares_addresses() {
        scratch.order.extend(service.candidates(now_ms).filter(of_kind));
        return scratch.shuffle(|index| {
            let copied = records.address(index).and_then(|a| answer.add(Section::Answer, OWNER_IS_QUESTION, &[a]));
            if copied.is_some() {
                stamp(service, index, until_ms);
            }
            copied.is_some()
        });
    }
    scratch.sharing.clear();
    scratch.seen.clear();
    scratch.seen.resize(service.endpoints.len(), false);
    for index in service.candidates(now_ms).filter(of_kind) {
        let first = records.first_with_address(index);
        scratch.sharing.push((index, first));
        if let Some(seen) = scratch.seen.get_mut(first).filter(|seen| !**seen) {
            *seen = true;
            scratch.order.push(first);
        }
    }
    let mut copied = std::mem::take(&mut scratch.seen);
    copied.fill(false);
    let fit = scratch.shuffle(|first| {
        let added = records.address(first).and_then(|a| answer.add(Section::Answer, OWNER_IS_QUESTION, &[a]));
        if let Some(flag) = copied.get_mut(first).filter(|_| added.is_some()) {
            *flag = true;
        }
        added.is_some()
    });
    // The answer names every usable endpoint behind a copied address.
    for &(index, first) in &scratch.sharing {
        if copied.get(first) == Some(&true) {
            stamp(service, index, until_ms);
        }
    }
    scratch.seen = copied;
    fit
}

/// Adds one SRV record per usable endpoint that offers the port, then their addresses as far as they fit (RFC 2782).
pub(crate) fn add_services(
    answer: &mut Answer<'_, '_>,
    service: &Service,
    port: usize,
    now_ms: u64,
    scratch: &mut Scratch,
) -> Fit {
    let records = &service.records;
    let until_ms = now_ms + records.ttl_ms();
    scratch.order.clear();
    scratch.order.extend(service.candidates(now_ms).filter(|&index| records.service(index, port).is_some()));
    let mut targets = std::mem::take(&mut scratch.targets);
    targets.clear();
    let fit = scratch.shuffle(|index| {
        let Some((part, target)) = records.service(index, port) else { return false };
        let Some(at) = answer.add(Section::Answer, OWNER_IS_QUESTION, &[part, target]) else { return false };
        targets.push((index, at + part.len()));
        stamp(service, index, until_ms);
        true
    });
    if fit == Fit::All {
        for &(index, target_at) in &targets {
            let (Some(owner), Some(address)) = (Answer::pointer(target_at), records.address(index)) else { break };
            if answer.add(Section::Additional, owner, &[address]).is_none() {
                break;
            }
        }
    }
    scratch.targets = targets;
    fit
}

/// Adds the address of one instance if it is usable and of this kind.
pub(crate) fn add_instance(
    answer: &mut Answer<'_, '_>,
    service: &Service,
    index: usize,
    kind: u16,
    now_ms: u64,
) -> Fit {
    let address = service.records.address(index).filter(|address| record::kind(address) == kind);
    let Some(address) = address.filter(|_| service.candidates(now_ms).any(|usable| usable == index)) else {
        return Fit::All;
    };
    if answer.add(Section::Answer, OWNER_IS_QUESTION, &[address]).is_none() {
        return Fit::Part;
    }
    stamp(service, index, now_ms + service.records.ttl_ms());
    Fit::All
}

/// Returns the address of a withdrawn instance by its lower-case label: service records that name it may be cached for
/// their TTL, and until then its own name must lead to it.
pub(crate) fn draining(service: &Service, label: &[u8]) -> Option<IpAddr> {
    service.draining.iter().find(|(e, _)| e.id.as_str().as_bytes() == label).map(|(e, _)| e.address)
}

/// Adds the address of a withdrawn instance, not to be cached: it is about to go.
pub(crate) fn add_draining(answer: &mut Answer<'_, '_>, address: IpAddr, kind: u16) -> Fit {
    let (own, octets) = match address {
        IpAddr::V4(address) => (rtype::A, address.octets().to_vec()),
        IpAddr::V6(address) => (rtype::AAAA, address.octets().to_vec()),
    };
    if own != kind {
        return Fit::All;
    }
    let fixed = record::fixed(own, 0, octets.len());
    match answer.add(Section::Answer, OWNER_IS_QUESTION, &[&fixed, &octets]) {
        Some(_) => Fit::All,
        None => Fit::Part,
    }
}

/// Adds the names of the instances behind an address. Health does not matter here: the name stays right.
pub(crate) fn add_names(answer: &mut Answer<'_, '_>, view: &View<'_>, owners: &[Owner]) -> Fit {
    for owner in owners {
        let service = view.snapshot.services.at(owner.slot).filter(|service| view.scope.sees_service(service));
        let Some(service) = service else { continue };
        let Some(index) = service.records.find(owner.id.as_str().as_bytes()) else { continue };
        let Some(target) = service.records.target(index) else { continue };
        let ttl_ms = service.records.ttl_ms();
        let fixed = record::fixed(rtype::PTR, u32::try_from(ttl_ms / 1000).unwrap_or(u32::MAX), target.len());
        if answer.add(Section::Answer, OWNER_IS_QUESTION, &[&fixed, target]).is_none() {
            return Fit::Part;
        }
        stamp(service, index, view.now_ms + ttl_ms);
    }
    Fit::All
}

/// Notes until when an answer that names the endpoint may be cached; a read suffices when another answer did in this
/// millisecond.
fn stamp(service: &Service, index: usize, until_ms: u64) {
    if let Some(candidate) = service.candidates.get(index)
        && candidate.stats.named_until_ms() < until_ms
    {
        candidate.stats.name_until(until_ms);
    }
}
