//! Definitions + instances + the previous snapshot → the next snapshot. Pure; carries counters over.
//!
//! Cost of one changed endpoint in a table of 10,000 services: its service is rebuilt, one shard of about 80 pointers,
//! the list of 128 shards and a few name shards are copied; everything else is shared.

use crate::balance::{Candidate, EndpointStats, Picker, ServiceStats};
use crate::model::{
    Instance, InstanceId, InstanceState, ListenerProtocol, ListenerSpec, RouteSpec, ServiceName, ServiceSpec, Verdict,
};
use crate::table::snapshot::SHARDS;
use crate::table::{Endpoint, Front, Records, Routes, Service, Snapshot, Told, Wake};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A service before and after a change; `None` where it did not exist or is gone.
pub type ServiceChange = (Option<Arc<Service>>, Option<Arc<Service>>);

/// A change of one service.
#[derive(Debug, Clone)]
pub enum Change {
    /// The service has this definition and these instances now.
    Set {
        /// Its definition.
        spec: Arc<ServiceSpec>,
        /// All its instances, in a stable order.
        instances: Vec<Instance>,
    },
    /// The service is gone.
    Remove(ServiceName),
}

/// What changes from one snapshot to the next.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Changed services; one entry each.
    pub services: Vec<Change>,
    /// New routes, when they changed.
    pub routes: Option<Arc<[RouteSpec]>>,
    /// New listeners, when they changed.
    pub listeners: Option<Arc<[ListenerSpec]>>,
    /// The services' own addresses, when they changed; a service takes its own up with its next change.
    pub addresses: Option<Arc<HashMap<ServiceName, IpAddr>>>,
    /// When this is, in milliseconds of the publisher's clock; 0: no change is noted.
    pub now_ms: u64,
}

/// Builds the next snapshot, its generation one above `previous`.
pub fn build(previous: &Snapshot, changes: Changes) -> Snapshot {
    let mut next = previous.clone();
    next.generation += 1;
    if let Some(addresses) = changes.addresses {
        next.addresses = addresses;
    }
    let before = next.services.slots.clone();
    let mut pairs: Vec<ServiceChange> = Vec::with_capacity(changes.services.len());
    for change in changes.services {
        pairs.push(apply(&mut next, change, changes.now_ms));
    }
    next.names = next.names.apply(&pairs);
    if let Some(listeners) = changes.listeners {
        next.listeners = listeners;
    }
    let slots = next.services.slots.clone();
    let slot = |name: &ServiceName| slots.get(name).copied();
    let http = next.listeners.iter().filter(|listener| listener.protocol == ListenerProtocol::Http);
    let names: Arc<[Arc<str>]> = http.map(|listener| listener.name.clone()).collect();
    if let Some(routes) = changes.routes {
        next.routes = Arc::new(Routes::compile(routes, names, slot));
    } else if !Arc::ptr_eq(&before, &slots) {
        next.routes = Arc::new(Routes::compile(next.routes.specs().into(), names, slot));
    }
    next
}

fn apply(next: &mut Snapshot, change: Change, now_ms: u64) -> ServiceChange {
    match change {
        Change::Remove(name) => {
            let Some(&slot) = next.services.slots.get(&name) else { return (None, None) };
            let old = next.services.at(slot).cloned();
            Arc::make_mut(&mut next.services.slots).remove(&name);
            put(next, slot, None);
            (old, None)
        }
        Change::Set { spec, instances } => {
            let old = next.services.get(&spec.name).cloned();
            let slot = match &old {
                Some(service) => service.slot,
                None => {
                    let slot = free_slot(next);
                    Arc::make_mut(&mut next.services.slots).insert(spec.name.clone(), slot);
                    slot
                }
            };
            let mut new = service(slot, spec, &instances, old.as_deref(), next.names.zone());
            new.settle(next.addresses.get(new.name()).copied());
            if let Some(old) = &old {
                // The first endpoints of a service make no answer wrong that somebody has.
                let same = old.endpoints.is_empty() || same_endpoints(old, &new);
                new.changed_ms = if same { old.changed_ms } else { now_ms };
            }
            new.front = Front::of(&new);
            let new = Arc::new(new);
            put(next, slot, Some(new.clone()));
            (old, Some(new))
        }
    }
}

/// Returns the lowest free slot; O(services), only when a service is added.
fn free_slot(snapshot: &Snapshot) -> usize {
    let n = snapshot.services.slots.len();
    // With n services in use, one of the first n + 1 slots is free; a fresh table fills without a search.
    if snapshot.services.at(n).is_none() {
        n
    } else {
        (0..n).find(|&slot| snapshot.services.at(slot).is_none()).unwrap_or(n + 1)
    }
}

fn put(next: &mut Snapshot, slot: usize, service: Option<Arc<Service>>) {
    let Some(shard) = next.services.shards.get_mut(slot % SHARDS) else { return };
    let mut copy: Vec<Option<Arc<Service>>> = shard.to_vec();
    let place = slot / SHARDS;
    if copy.len() <= place {
        copy.resize(place + 1, None);
    }
    if let Some(cell) = copy.get_mut(place) {
        *cell = service;
    }
    *shard = copy.into();
}

/// Counters and ports of the previous snapshot by instance.
struct Known<'a> {
    service: Option<&'a Service>,
    /// Only for many endpoints; a scan is faster for few.
    index: HashMap<&'a InstanceId, (&'a Endpoint, &'a Candidate)>,
}

impl<'a> Known<'a> {
    fn new(service: Option<&'a Service>) -> Self {
        let large = service.filter(|s| s.endpoints.len() + s.draining.len() > 16);
        let index = large.map(|s| all(s).map(|(e, c)| (&e.id, (e, c))).collect()).unwrap_or_default();
        Self { service, index }
    }

    fn find(&self, id: &InstanceId) -> Option<(&'a Endpoint, &'a Candidate)> {
        if self.index.is_empty() {
            return all(self.service?).find(|(endpoint, _)| endpoint.id == *id);
        }
        self.index.get(id).copied()
    }
}

/// Returns whether answers name the same endpoints with the same weights before and after.
fn same_endpoints(a: &Service, b: &Service) -> bool {
    let same = |(a, b): (&Endpoint, &Endpoint)| a.id == b.id && a.address == b.address && a.ports == b.ports;
    let alike = |(a, b): (&Candidate, &Candidate)| a.healthy == b.healthy && a.weight == b.weight;
    a.endpoints.len() == b.endpoints.len()
        && a.endpoints.iter().zip(&b.endpoints).all(same)
        && a.candidates.iter().zip(&b.candidates).all(alike)
}

fn all(service: &Service) -> impl Iterator<Item = (&Endpoint, &Candidate)> {
    let ready = service.endpoints.iter().zip(service.candidates.iter());
    ready.chain(service.draining.iter().map(|(endpoint, candidate)| (endpoint, candidate)))
}

fn service(slot: usize, spec: Arc<ServiceSpec>, instances: &[Instance], old: Option<&Service>, zone: &[u8]) -> Service {
    let known = Known::new(old);
    let stats = old.map_or_else(|| Arc::new(ServiceStats::default()), |s| s.stats.clone());
    let fresh = || Arc::new(EndpointStats::of(stats.marks().clone()));
    let (mut endpoints, mut candidates, mut draining) = (Vec::new(), Vec::new(), Vec::new());
    for instance in instances {
        let before = known.find(&instance.id);
        let endpoint = match before {
            Some((e, _))
                if e.address == instance.address && *e.ports == *instance.ports && e.traits == instance.traits =>
            {
                e.clone()
            }
            _ => Endpoint {
                id: instance.id.clone(),
                address: instance.address,
                ports: instance.ports.clone().into(),
                traits: instance.traits.clone(),
            },
        };
        let candidate = Candidate {
            stats: before.map_or_else(fresh, |(_, c)| c.stats.clone()),
            weight: instance.weight,
            healthy: instance.verdict != Verdict::Unhealthy,
            ready_ms: instance.ready_ms,
        };
        match instance.state {
            InstanceState::Ready => {
                endpoints.push(endpoint);
                candidates.push(candidate);
            }
            InstanceState::Draining => draining.push((endpoint, candidate)),
            InstanceState::Starting | InstanceState::Gone => {}
        }
    }
    // What is wanted in the end only the scheduler knows; until it says so, the definition does.
    let off = spec.replicas == 0 && spec.scale.is_none();
    let wake = old.map_or_else(|| Arc::new(Wake::new(off)), |s| s.wake.clone());
    let picker = Picker::new(spec.policy, spec.slow_start, spec.limits.concurrency);
    let records = Records::encode(zone, &spec, &endpoints, &candidates);
    Service {
        slot,
        spec,
        address: None,
        is_direct: false,
        is_plain: false,
        front: Front::default(),
        endpoints: endpoints.into(),
        candidates: candidates.into(),
        draining: draining.into(),
        records,
        stats,
        wake,
        picker,
        changed_ms: 0,
        told: Told::default(),
    }
}
