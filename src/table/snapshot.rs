//! The immutable value in the table.

use crate::balance::{Candidate, Local, Picker, ServiceStats, Tried, usable};
use crate::model::{InstanceId, ListenerSpec, ServiceName, ServiceSpec, Traits};
use crate::rng::Rng;
use crate::table::names::Names;
use crate::table::{Front, Records, Routes, Told, Wake};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Services are spread over this many shards by slot, so that a change copies one shard and this list.
pub(crate) const SHARDS: usize = 128;

/// Services of one shard by slot; `None` where a slot is free.
pub(crate) type Shard = Arc<[Option<Arc<Service>>]>;

/// One routable address of a service: an instance that is ready.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The instance behind it.
    pub id: InstanceId,
    /// Its address.
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports; 0 where it does not offer one.
    pub ports: Arc<[u16]>,
    /// What is said about it; `None`: nothing.
    pub traits: Option<Arc<Traits>>,
}

impl Endpoint {
    /// Returns the zone that it is in.
    pub fn zone(&self) -> Option<&str> {
        self.traits.as_ref()?.zone.as_deref()
    }

    /// Returns whether it has this tag, written in lower case.
    pub fn has_tag(&self, tag: &[u8]) -> bool {
        self.traits.as_ref().is_some_and(|traits| traits.tags.iter().any(|own| own.as_bytes() == tag))
    }

    /// Returns the address of one of the service's ports; `None` where the endpoint does not offer it.
    pub fn socket(&self, port: usize) -> Option<SocketAddr> {
        self.ports.get(port).filter(|&&number| number != 0).map(|&number| SocketAddr::new(self.address, number))
    }
}

/// A service in a snapshot: its definition and its endpoints.
///
/// What nearly every answer of DNS reads stands first, on two neighbouring lines of the cache.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct Service {
    /// What the usual question for its addresses is answered from.
    pub(crate) front: Front,
    /// DNS records of the endpoints, encoded once, in the same order.
    pub records: Records,
    /// Where it stands in the snapshot; stable while the service exists, reused after it is gone.
    pub slot: usize,
    /// Its definition.
    pub spec: Arc<ServiceSpec>,
    /// Its own address, where Weir serves its declared ports; `None` where services have none.
    pub address: Option<IpAddr>,
    /// Whether every endpoint listens on each port that the service declares.
    pub(crate) is_direct: bool,
    /// Whether its endpoints are told to everybody, or, with an address of its own, to whoever reaches them all.
    pub(crate) is_plain: bool,
    /// Endpoints that may be picked; ready instances whatever their verdict.
    pub endpoints: Box<[Endpoint]>,
    /// What policies see of them, in the same order.
    pub candidates: Box<[Candidate]>,
    /// Withdrawn endpoints that still finish requests; never picked, never named.
    pub draining: Box<[(Endpoint, Candidate)]>,
    /// Shared counters and wait queue.
    pub stats: Arc<ServiceStats>,
    /// Where a first replica is asked for.
    pub wake: Arc<Wake>,
    /// The policy.
    pub picker: Picker,
    /// When its endpoints last changed, in milliseconds of the publisher's clock; 0: not since it is in the table.
    pub changed_ms: u64,
    /// What other Weirs are told of it.
    pub told: Told,
}

impl Service {
    /// Returns the indices of the endpoints that may be used now, fail-open included: the one predicate of proxy, DNS and API.
    pub fn candidates(&self, now_ms: u64) -> impl Iterator<Item = usize> + '_ {
        usable(&self.candidates, self.front.every(now_ms), now_ms).0
    }

    /// Returns whether no endpoint is usable, so that all of them are used.
    pub fn fails_open(&self, now_ms: u64) -> bool {
        !self.endpoints.is_empty() && usable(&self.candidates, self.front.every(now_ms), now_ms).1
    }

    /// Picks one endpoint by the service's policy; see [`Picker::pick`].
    pub fn pick(&self, local: &mut Local, tried: &Tried, now_ms: u64, rng: &mut Rng) -> Option<usize> {
        self.picker.pick(&self.candidates, local, tried, now_ms, rng)
    }

    /// Returns whether it is worth waiting for a first replica: Weir runs them, and some are wanted or would be at once.
    pub fn may_wake(&self) -> bool {
        match self.spec.told {
            Some(told) => told.wakes,
            None => self.spec.run.is_some() && !self.wake.is_off(),
        }
    }

    /// Returns the service's name.
    pub fn name(&self) -> &ServiceName {
        &self.spec.name
    }
}

/// The services of a snapshot by slot and by name; unchanged shards are shared between snapshots.
#[derive(Debug, Clone)]
pub struct Services {
    pub(crate) shards: Box<[Shard]>,
    pub(crate) slots: Arc<HashMap<ServiceName, usize>>,
}

impl Services {
    /// Returns no services.
    pub fn empty() -> Self {
        let none: Shard = Arc::new([]);
        Self { shards: vec![none; SHARDS].into(), slots: Arc::default() }
    }

    /// Returns the service in a slot; O(1).
    pub fn at(&self, slot: usize) -> Option<&Arc<Service>> {
        self.shards.get(slot % SHARDS)?.get(slot / SHARDS)?.as_ref()
    }

    /// Returns the service of a name; one hash.
    pub fn get(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.at(*self.slots.get(name)?)
    }

    /// Returns all services, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.shards.iter().flat_map(|shard| shard.iter()).flatten()
    }

    /// Returns what differs from `before`: services that are new or changed, and names of those that are gone. Shards that
    /// did not change cost one comparison each.
    pub fn since(&self, before: &Self) -> (Vec<Arc<Service>>, Vec<ServiceName>) {
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for (new, old) in self.shards.iter().zip(&before.shards) {
            if Arc::ptr_eq(new, old) {
                continue;
            }
            for place in 0..new.len().max(old.len()) {
                let at = |shard: &Shard| shard.get(place).cloned().flatten();
                match (at(new), at(old)) {
                    (Some(new), Some(old)) if Arc::ptr_eq(&new, &old) => {}
                    (Some(new), old) => {
                        gone.extend(old.filter(|old| old.name() != new.name()).map(|old| old.name().clone()));
                        changed.push(new);
                    }
                    (None, old) => gone.extend(old.map(|old| old.name().clone())),
                }
            }
        }
        // A name may have moved to another slot.
        gone.retain(|name| !self.slots.contains_key(name));
        (changed, gone)
    }

    /// Returns the number of services.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// What every reader sees at one moment; immutable, swapped whole.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its number, rising by one; 0 before the first publish: nothing is known yet.
    pub generation: u64,
    /// The services.
    pub services: Services,
    /// The compiled routes.
    pub routes: Arc<Routes>,
    /// The sharded DNS name table.
    pub names: Names,
    /// The listeners that are wanted; `app` holds their sockets.
    pub listeners: Arc<[ListenerSpec]>,
    /// The services' own addresses, also of services that are gone and may come back.
    pub addresses: Arc<HashMap<ServiceName, IpAddr>>,
}

impl Snapshot {
    /// Returns the snapshot before the first publish.
    pub fn empty(names: Names) -> Self {
        Self {
            generation: 0,
            services: Services::empty(),
            routes: Arc::new(Routes::empty()),
            names,
            listeners: Arc::new([]),
            addresses: Arc::default(),
        }
    }
}
