//! The DNS records of one service, encoded once per change and copied into answers.
//!
//! Per endpoint and in the order of the endpoints: its address record, its instance's wire name, and for each port the
//! fixed part of an SRV record. Owner names are not included: in an answer they are two-octet pointers.

use crate::balance::Candidate;
use crate::dnswire::{MAX_NAME_BYTES, parse_name, record, rtype};
use crate::model::ServiceSpec;
use crate::table::Endpoint;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64;

/// Octets of the part of an SRV record before its target.
const SRV_PART: usize = record::FIXED_BYTES + record::SRV_BYTES;

/// So many endpoints are searched in turn: their places stand side by side, on a line or two of the cache.
const FEW: usize = 32;

/// Encoded records of a service's endpoints.
#[derive(Debug, Clone, Default)]
pub struct Records {
    slab: Box<[u8]>,
    places: Box<[Place]>,
    /// Of many endpoints: hashes of instance ids in ascending order, each with its endpoint's index. Few are searched in turn.
    by_id: Box<[(u32, u32)]>,
    ports: u32,
    ttl_seconds: u32,
    shared_addresses: bool,
    differ_in_weight: bool,
    /// Types of the address records, so that a question for the other family touches no endpoint.
    kinds: [bool; 2],
}

/// Where an endpoint's records are in the slab.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    /// Hash of the instance's id.
    hash: u32,
    address_bytes: u8,
    target_bytes: u8,
    /// The first endpoint with the same address; itself when it is the first.
    first: u32,
}

impl Records {
    /// Encodes the records of a service below `zone`, a wire name; some 100 ns per endpoint.
    pub fn encode(zone: &[u8], spec: &ServiceSpec, endpoints: &[Endpoint], candidates: &[Candidate]) -> Self {
        let ttl = u32::try_from(spec.dns_ttl.as_secs()).unwrap_or(u32::MAX);
        let mut suffix = parse_name(&format!("{}.{}", spec.name.name(), spec.name.namespace())).unwrap_or_default();
        suffix.pop();
        suffix.extend_from_slice(zone);
        let mut slab = Vec::with_capacity(endpoints.len() * (64 + suffix.len()));
        let mut firsts = Firsts::new(endpoints);
        let mut places = Vec::with_capacity(endpoints.len());
        for (index, (endpoint, candidate)) in endpoints.iter().zip(candidates).enumerate() {
            let start = slab.len();
            record::push_address(&mut slab, endpoint.address, ttl);
            let address_bytes = slab.len() - start;
            let target = slab.len();
            push_target(&mut slab, endpoint.id.as_str(), &suffix);
            let target_bytes = slab.len() - target;
            let weight = u16::try_from(candidate.weight).unwrap_or(u16::MAX);
            for port in 0..spec.ports.len() {
                let number = endpoint.ports.get(port).copied().unwrap_or(0);
                record::push_srv(&mut slab, ttl, weight, number, target_bytes);
            }
            places.push(Place {
                start: u32::try_from(start).unwrap_or(u32::MAX),
                hash: hash(endpoint.id.as_str().as_bytes()),
                address_bytes: u8::try_from(address_bytes).unwrap_or(0),
                target_bytes: u8::try_from(target_bytes).unwrap_or(0),
                first: firsts.of(index),
            });
        }
        let mut by_id = Vec::new();
        if places.len() > FEW {
            by_id.extend(places.iter().zip(0u32..).map(|(place, index)| (place.hash, index)));
            by_id.sort_unstable();
        }
        let has = |ipv4: bool| endpoints.iter().any(|e| e.address.to_canonical().is_ipv4() == ipv4);
        Self {
            slab: slab.into(),
            kinds: [has(true), has(false)],
            differ_in_weight: candidates.windows(2).any(|pair| matches!(pair, [a, b] if a.weight != b.weight)),
            shared_addresses: places.iter().enumerate().any(|(index, place)| place.first as usize != index),
            places: places.into(),
            by_id: by_id.into(),
            ports: u32::try_from(spec.ports.len()).unwrap_or(0),
            ttl_seconds: ttl,
        }
    }

    /// Returns the TTL of these records in milliseconds.
    pub fn ttl_ms(&self) -> u64 {
        u64::from(self.ttl_seconds) * 1000
    }

    /// Returns an endpoint's A or AAAA record without its owner.
    pub fn address(&self, index: usize) -> Option<&[u8]> {
        let place = self.places.get(index)?;
        let start = place.start as usize;
        self.slab.get(start..start + usize::from(place.address_bytes))
    }

    /// Returns the wire name of an endpoint's instance; `None` where it would be longer than a name may be.
    pub fn target(&self, index: usize) -> Option<&[u8]> {
        let place = self.places.get(index)?;
        let start = place.start as usize + usize::from(place.address_bytes);
        self.slab.get(start..start + usize::from(place.target_bytes)).filter(|target| !target.is_empty())
    }

    /// Returns an endpoint's SRV record for a port in its two parts, without owner; `None` where it does not offer the port.
    pub fn service(&self, index: usize, port: usize) -> Option<(&[u8], &[u8])> {
        let place = self.places.get(index).filter(|_| port < self.ports as usize)?;
        let target = self.target(index)?;
        let start = place.start as usize + usize::from(place.address_bytes) + target.len() + port * SRV_PART;
        let part = self.slab.get(start..start + SRV_PART)?;
        (!part.ends_with(&[0, 0])).then_some((part, target))
    }

    /// Returns whether any endpoint has an address record of this type.
    pub fn has(&self, kind: u16) -> bool {
        let [ipv4, ipv6] = self.kinds;
        (ipv4 && kind == rtype::A) || (ipv6 && kind == rtype::AAAA)
    }

    /// Returns whether some endpoints share an address, so that an answer must skip repetitions.
    pub fn shares_addresses(&self) -> bool {
        self.shared_addresses
    }

    /// Returns whether some endpoints have another weight than others, so that the order of records follows it.
    pub fn differ_in_weight(&self) -> bool {
        self.differ_in_weight
    }

    /// Returns the first endpoint with the same address: one number per distinct address.
    pub fn first_with_address(&self, index: usize) -> usize {
        self.places.get(index).map_or(index, |place| place.first as usize)
    }

    /// Returns the endpoint whose instance id is this lower-case label.
    pub fn find(&self, label: &[u8]) -> Option<usize> {
        let hash = hash(label);
        let is_it = |&index: &usize| {
            let id = self.target(index).and_then(|target| target.get(1..=usize::from(*target.first()?)));
            id == Some(label)
        };
        if self.places.len() <= FEW {
            let same = self.places.iter().enumerate().filter(|(_, place)| place.hash == hash);
            return same.map(|(index, _)| index).find(is_it);
        }
        let first = self.by_id.partition_point(|(known, _)| *known < hash);
        let same = self.by_id.get(first..)?.iter().take_while(|(known, _)| *known == hash);
        same.map(|(_, index)| *index as usize).find(is_it)
    }
}

fn hash(id: &[u8]) -> u32 {
    // The low half of an even hash is as even.
    xxh3_64(id) as u32
}

fn push_target(slab: &mut Vec<u8>, id: &str, suffix: &[u8]) {
    if 1 + id.len() + suffix.len() > MAX_NAME_BYTES || suffix.is_empty() {
        return;
    }
    slab.push(u8::try_from(id.len()).unwrap_or(0));
    slab.extend_from_slice(id.as_bytes());
    slab.extend_from_slice(suffix);
}

/// Finds the first endpoint with the same address: by a scan for few, by a map for many.
struct Firsts<'e> {
    endpoints: &'e [Endpoint],
    seen: HashMap<std::net::IpAddr, u32>,
}

impl<'e> Firsts<'e> {
    fn new(endpoints: &'e [Endpoint]) -> Self {
        let mut seen = HashMap::new();
        if endpoints.len() > 16 {
            for (index, endpoint) in (0u32..).zip(endpoints) {
                seen.entry(endpoint.address).or_insert(index);
            }
        }
        Self { endpoints, seen }
    }

    fn of(&mut self, index: usize) -> u32 {
        let itself = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(endpoint) = self.endpoints.get(index) else { return itself };
        if !self.seen.is_empty() {
            return self.seen.get(&endpoint.address).copied().unwrap_or(itself);
        }
        let first = self.endpoints.iter().position(|e| e.address == endpoint.address);
        first.and_then(|first| u32::try_from(first).ok()).unwrap_or(itself)
    }
}
