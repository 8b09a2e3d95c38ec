//! Choosing and copying the records of a service: who may be used now, in random order, as many as fit.
//!
//! A service of which an answer names endpoints is stamped with the time until which the answer may be cached, before the
//! answer leaves: a withdrawal waits for that (details: `table::Acknowledger`, `Marks::name_until`).

use crate::dns::locate::Pick;
use crate::dns::order::{Fit, Order};
use crate::dns::schema::{Kind, Schema};
use crate::dns::view::View;
use crate::dnswire::{Answer, OWNER_IS_QUESTION, Section, parse_name, record, rtype, skip_label};
use crate::rng::Rng;
use crate::table::names::Owner;
use crate::table::{Lead, Service};
use std::net::IpAddr;

/// Priority of SRV records in Consul's schema, as Consul has it.
const CONSUL_PRIORITY: u16 = 1;

/// Room that is used again for each answer, so that none is allocated; one per thread.
#[derive(Debug)]
pub struct Scratch {
    /// Chosen endpoints, in the order in which they are copied.
    order: Order,
    /// One flag per distinct address.
    seen: Vec<bool>,
    /// Endpoints of SRV records with the offset of their target.
    targets: Vec<(usize, usize)>,
}

/// What one lookup is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a, 's> {
    pub(crate) view: &'a View<'s>,
    /// The schema in which the name was found.
    pub(crate) schema: &'s Schema,
    /// The name that the records are of, lower case, and the pointer to it.
    pub(crate) name: &'a [u8],
    pub(crate) owner: u16,
    /// The asked type.
    pub(crate) kind: u16,
}

/// For how long an answer may be kept.
#[derive(Debug, Clone, Copy)]
struct Ttl {
    until_ms: u64,
    /// The octets that replace those of the records; `None`: they stay.
    octets: Option<[u8; 4]>,
}

impl Scratch {
    /// Returns empty room; `rng` decides the order of records.
    pub fn new(rng: Rng) -> Self {
        Self { order: Order::new(rng), seen: Vec::new(), targets: Vec::new() }
    }
}

impl Ttl {
    /// The TTL of a service's records; for a while after a change it is short.
    fn of(view: &View<'_>, service: &Service) -> Self {
        let ((own_ms, changed_ms), now_ms) = (service.front.age(), view.now_ms);
        let short = view.authority.changed_ttl_seconds;
        let short_ms = u64::from(short) * 1000;
        if short_ms >= own_ms || changed_ms == 0 || now_ms >= changed_ms + view.authority.settle_ms {
            return Self { until_ms: now_ms + own_ms, octets: None };
        }
        Self { until_ms: now_ms + short_ms, octets: Some(short.to_be_bytes()) }
    }

    fn seconds(self, now_ms: u64) -> u32 {
        u32::try_from((self.until_ms - now_ms) / 1000).unwrap_or(u32::MAX)
    }
}

/// Adds an encoded record with this TTL.
fn put(answer: &mut Answer<'_, '_>, section: Section, owner: u16, encoded: &[u8], ttl: Ttl) -> Option<usize> {
    match (ttl.octets, encoded.get(..4), encoded.get(8..)) {
        (Some(octets), Some(head), Some(tail)) => answer.add(section, owner, &[head, &octets, tail]),
        _ => answer.add(section, owner, &[encoded]),
    }
}

/// Returns the endpoints that may be used now and are meant, by index.
fn chosen<'a>(ask: &'a Ask<'_, '_>, service: &'a Service, pick: &'a Pick<'_>) -> impl Iterator<Item = usize> + 'a {
    let zone = if service.front.prefers_zone() { ask.view.scope.zone() } else { None };
    let near = move |&index: &usize| service.endpoints.get(index).is_some_and(|endpoint| endpoint.zone() == zone);
    let tagged = move |&index: &usize| {
        pick.tag.is_none_or(|tag| service.endpoints.get(index).is_some_and(|endpoint| endpoint.has_tag(tag)))
    };
    let candidates = move || service.candidates(ask.view.now_ms).filter(tagged);
    let only_near = zone.is_some() && candidates().any(|index| near(&index));
    candidates().filter(move |index| !only_near || near(index))
}

/// Returns whether any endpoint of the service is meant, whatever its state.
pub(crate) fn knows(service: &Service, pick: &Pick<'_>) -> bool {
    pick.tag.is_none_or(|tag| service.endpoints.iter().any(|endpoint| endpoint.has_tag(tag)))
}

/// Adds the distinct addresses of the asked type that have at least one usable endpoint, or the service's own.
pub(crate) fn add_addresses(
    answer: &mut Answer<'_, '_>,
    ask: &Ask<'_, '_>,
    service: &Service,
    pick: &Pick<'_>,
    scratch: &mut Scratch,
) -> Fit {
    if ask.owner == OWNER_IS_QUESTION && pick.tag.is_none() && add_front(answer, ask, service, scratch) {
        return Fit::All;
    }
    let records = &service.records;
    let lead = lead(ask, service);
    if let Lead::Own(own) = lead {
        return add_address(answer, ask, own, Ttl::of(ask.view, service).seconds(ask.view.now_ms));
    }
    if !records.has(ask.kind) {
        return Fit::All;
    }
    let of_kind = |&index: &usize| {
        records.address(index).is_some_and(|address| record::kind(address) == ask.kind)
            && (lead == Lead::Endpoints || reaches(ask.view, service, index))
    };
    let ttl = Ttl::of(ask.view, service);
    service.front.name_until(ttl.until_ms);
    let Scratch { order, seen, .. } = scratch;
    order.clear(service.front.answers());
    if !records.shares_addresses() {
        order.extend(chosen(ask, service, pick).filter(of_kind));
        order.weigh(service, records.differ_in_weight());
        return order.each(|index| {
            records.address(index).and_then(|a| put(answer, Section::Answer, ask.owner, a, ttl)).is_some()
        });
    }
    seen.clear();
    seen.resize(service.endpoints.len(), false);
    for index in chosen(ask, service, pick).filter(of_kind) {
        let first = records.first_with_address(index);
        if let Some(seen) = seen.get_mut(first).filter(|seen| !**seen) {
            *seen = true;
            order.extend([first]);
        }
    }
    order.weigh(service, records.differ_in_weight());
    order.each(|first| records.address(first).and_then(|a| put(answer, Section::Answer, ask.owner, a, ttl)).is_some())
}

/// Adds all addresses of a service that tells everybody all its endpoints, in random order; `false`: they are not to be had
/// that way, and nothing was added.
fn add_front(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, service: &Service, scratch: &mut Scratch) -> bool {
    let Some((records, size)) = service.front.records(ask.kind, ask.view.now_ms) else { return false };
    let count = records.len() / size;
    let Some(placed) = u16::try_from(count).ok().and_then(|count| answer.add_all(records, count)) else { return false };
    let ttl = Ttl::of(ask.view, service);
    if let Some(octets) = ttl.octets {
        // Behind owner, type and class.
        placed
            .chunks_exact_mut(size)
            .filter_map(|record| record.get_mut(6..10))
            .for_each(|t| t.copy_from_slice(&octets));
    }
    scratch.order.shuffle(placed, size);
    // Before the answer leaves.
    service.front.name_until(ttl.until_ms);
    true
}

/// Adds one SRV record per usable endpoint that offers the port, then their addresses as far as they fit (RFC 2782).
pub(crate) fn add_services(
    answer: &mut Answer<'_, '_>,
    ask: &Ask<'_, '_>,
    service: &Service,
    pick: &Pick<'_>,
    scratch: &mut Scratch,
) -> Fit {
    let (records, Some(port)) = (&service.records, pick.port) else { return Fit::All };
    if !service.front.is_headless()
        && !matches!(ask.schema.kind, Kind::Consul(_))
        && let Some(own) = service.lead_to_port(port, ask.view.asker.whereabouts())
    {
        return add_own_service(answer, ask, service, own);
    }
    let ttl = Ttl::of(ask.view, service);
    service.front.name_until(ttl.until_ms);
    let Scratch { order, targets, .. } = scratch;
    order.clear(service.front.answers());
    let everywhere = service.is_everywhere();
    let usable = chosen(ask, service, pick).filter(|&index| records.service(index, port).is_some());
    order.extend(usable.filter(|&index| everywhere || reaches(ask.view, service, index)));
    order.weigh(service, records.differ_in_weight());
    targets.clear();
    let fit = order.each(|index| {
        let Some(at) = add_service(answer, ask, service, (index, port), ttl) else { return false };
        targets.push((index, at));
        true
    });
    if fit == Fit::All {
        for &(index, target_at) in targets.iter() {
            let (Some(owner), Some(address)) = (Answer::pointer(target_at), records.address(index)) else { break };
            if put(answer, Section::Additional, owner, address, ttl).is_none() {
                break;
            }
        }
    }
    fit
}

/// Returns where the asker is led: to the endpoints, to those in reach, or to the service's own address.
fn lead(ask: &Ask<'_, '_>, service: &Service) -> Lead {
    if service.front.is_headless() { Lead::Reachable } else { service.lead(ask.view.asker.whereabouts()) }
}

/// Adds the record of a port at the service's own address: its target is the service, as the question names it.
fn add_own_service(
    answer: &mut Answer<'_, '_>,
    ask: &Ask<'_, '_>,
    service: &Service,
    (own, number): (IpAddr, u16),
) -> Fit {
    // Behind the labels of port and protocol.
    let Some(target) = skip_label(ask.name).and_then(skip_label) else { return Fit::All };
    let mut part = Vec::with_capacity(record::FIXED_BYTES + record::SRV_BYTES);
    let ttl = Ttl::of(ask.view, service).seconds(ask.view.now_ms);
    record::push_srv(&mut part, ttl, 1, number, target.len());
    let Some(at) = answer.add(Section::Answer, ask.owner, &[&part, target]) else { return Fit::Part };
    if let Some(owner) = Answer::pointer(at + part.len()) {
        let mut address = Vec::with_capacity(record::FIXED_BYTES + 16);
        record::push_address(&mut address, own, ttl);
        let _ = answer.add(Section::Additional, owner, &[&address]);
    }
    Fit::All
}

/// Returns whether the asker reaches an endpoint.
fn reaches(view: &View<'_>, service: &Service, index: usize) -> bool {
    service.endpoints.get(index).is_some_and(|endpoint| view.asker.whereabouts().reaches(endpoint.address))
}

/// Adds one SRV record, its target in the form of the schema; returns the offset of the target.
fn add_service(
    answer: &mut Answer<'_, '_>,
    ask: &Ask<'_, '_>,
    service: &Service,
    (index, port): (usize, usize),
    ttl: Ttl,
) -> Option<usize> {
    let (part, native) = service.records.service(index, port)?;
    if ask.schema.kind == Kind::Native && ttl.octets.is_none() {
        return answer.add(Section::Answer, ask.owner, &[part, native]).map(|at| at + part.len());
    }
    let address = service.endpoints.get(index).map(|endpoint| endpoint.address);
    let written = ask.schema.target(native, ask.view.snapshot.names.zone(), address);
    let target = written.as_ref().map_or(native, |target| target.name());
    let (kind, data) = (part.get(..4)?, part.get(record::FIXED_BYTES..)?);
    let ttl = ttl.octets.as_ref().map_or(part.get(4..8)?, |octets| &octets[..]);
    let length = u16::try_from(record::SRV_BYTES + target.len()).ok()?.to_be_bytes();
    let consul = matches!(ask.schema.kind, Kind::Consul(_));
    let priority = if consul { CONSUL_PRIORITY.to_be_bytes() } else { [0; 2] };
    let at = answer.add(Section::Answer, ask.owner, &[kind, ttl, &length, &priority, data.get(2..)?, target])?;
    Some(at + part.len())
}

/// Adds the address of one instance if it is usable and of the asked type.
pub(crate) fn add_instance(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, service: &Service, index: usize) -> Fit {
    let address = service.records.address(index).filter(|address| record::kind(address) == ask.kind);
    let usable = || service.candidates(ask.view.now_ms).any(|usable| usable == index);
    let in_reach = || service.is_everywhere() || reaches(ask.view, service, index);
    let Some(address) = address.filter(|_| usable() && in_reach()) else { return Fit::All };
    let ttl = Ttl::of(ask.view, service);
    if put(answer, Section::Answer, ask.owner, address, ttl).is_none() {
        return Fit::Part;
    }
    service.front.name_until(ttl.until_ms);
    Fit::All
}

/// Adds the strings of a service as one TXT record, RFC 1035 §3.3.14; what is said about it does not go by its endpoints.
pub(crate) fn add_texts(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, service: &Service) -> Fit {
    add_strings(answer, ask, service, service.spec.dns.txt.iter().map(|text| text.to_string()))
}

/// Adds what is said about an instance as one TXT record, `key=value` each (RFC 1464).
pub(crate) fn add_meta(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, service: &Service, index: usize) -> Fit {
    let traits = service.endpoints.get(index).and_then(|endpoint| endpoint.traits.as_ref());
    let pairs = traits.iter().flat_map(|traits| &traits.meta);
    add_strings(answer, ask, service, pairs.map(|(key, value)| format!("{key}={value}")))
}

/// Allocates: texts are rarely asked for.
fn add_strings(
    answer: &mut Answer<'_, '_>,
    ask: &Ask<'_, '_>,
    service: &Service,
    strings: impl Iterator<Item = String>,
) -> Fit {
    let mut data = Vec::new();
    for text in strings {
        // `config` and the admin API bound each string; a longer one has no form.
        let Ok(length) = u8::try_from(text.len()) else { continue };
        data.push(length);
        data.extend_from_slice(text.as_bytes());
    }
    if data.is_empty() {
        return Fit::All;
    }
    let ttl = Ttl::of(ask.view, service).seconds(ask.view.now_ms);
    match answer.add(Section::Answer, ask.owner, &[&record::fixed(rtype::TXT, ttl, data.len()), &data]) {
        Some(_) => Fit::All,
        None => Fit::Part,
    }
}

/// Adds an address if it is of the asked type; a TTL of 0 is for one that is about to go.
pub(crate) fn add_address(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, address: IpAddr, ttl_seconds: u32) -> Fit {
    let (kind, v4, v6);
    let octets: &[u8] = match address.to_canonical() {
        IpAddr::V4(address) => {
            (kind, v4) = (rtype::A, address.octets());
            &v4
        }
        IpAddr::V6(address) => {
            (kind, v6) = (rtype::AAAA, address.octets());
            &v6
        }
    };
    if kind != ask.kind {
        return Fit::All;
    }
    let fixed = record::fixed(kind, ttl_seconds, octets.len());
    match answer.add(Section::Answer, ask.owner, &[&fixed, octets]) {
        Some(_) => Fit::All,
        None => Fit::Part,
    }
}

/// Adds the names of the instances behind an address, or of the service whose own it is, in the form of the schema. Health
/// does not matter here: the name stays right.
pub(crate) fn add_names(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, owners: &[Owner]) -> Fit {
    let view = ask.view;
    for owner in owners {
        let service = view.snapshot.services.at(owner.slot).filter(|service| view.scope.sees_service(service));
        let Some(service) = service else { continue };
        let Some(id) = &owner.id else {
            match add_own_name(answer, ask, service) {
                Fit::All => continue,
                Fit::Part => return Fit::Part,
            }
        };
        let Some(index) = service.records.find(id.as_str().as_bytes()) else { continue };
        let Some(native) = service.records.target(index) else { continue };
        let address = service.endpoints.get(index).map(|endpoint| endpoint.address);
        let written = ask.schema.target(native, view.snapshot.names.zone(), address);
        let target = written.as_ref().map_or(native, |target| target.name());
        let ttl = Ttl::of(view, service);
        let fixed = record::fixed(rtype::PTR, ttl.seconds(view.now_ms), target.len());
        if answer.add(Section::Answer, ask.owner, &[&fixed, target]).is_none() {
            return Fit::Part;
        }
        service.front.name_until(ttl.until_ms);
    }
    Fit::All
}

/// Adds the name of a service whose own address was asked about, in the form of the schema. Allocates: rarely asked for.
fn add_own_name(answer: &mut Answer<'_, '_>, ask: &Ask<'_, '_>, service: &Service) -> Fit {
    let name = service.name();
    let key = parse_name(&format!("{}.{}", name.name(), name.namespace()));
    let target = key.and_then(|key| ask.schema.service(key.strip_suffix(&[0])?));
    let Some(target) = target else { return Fit::All };
    let ttl = Ttl::of(ask.view, service).seconds(ask.view.now_ms);
    let fixed = record::fixed(rtype::PTR, ttl, target.name().len());
    match answer.add(Section::Answer, ask.owner, &[&fixed, target.name()]) {
        Some(_) => Fit::All,
        None => Fit::Part,
    }
}
