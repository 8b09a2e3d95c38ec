//! The name table: wire name → which service or port; address → instances.
//!
//! Names are stored once, without any zone, as `<service>.<namespace>` and `_<port>._<protocol>.<service>.<namespace>`:
//! every schema of `dns` maps what is asked to that form first. They point to the stable slots of services, so that a
//! changed endpoint touches no forward name at all: its records are in [`crate::table::Records`] of its service, and
//! instance names are found through the name of their service. What changes with endpoints are only the reverse names.
//! Follows RFC 8020 and RFC 4592 §2.2.2 for empty non-terminals; the next file on a query's path is `dns/locate/mod.rs`.

use crate::dnswire::parse_name;
use crate::model::{InstanceId, PortSpec, Protocol};
use crate::table::shards::Shards;
use crate::table::{Endpoint, Service, ServiceChange};
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The name table of a snapshot; unchanged shards are shared.
#[derive(Debug, Clone)]
pub struct Names {
    /// Wire name of the zone, lower case; empty when it is no name: then nothing is in it.
    zone: Arc<[u8]>,
    forward: Shards<Key, Node>,
    reverse: Shards<IpAddr, Arc<[Owner]>>,
}

/// A name as it is looked up. Short ones, which most are, stand in the entry itself: one line of the cache less to read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Short(u8, [u8; SHORT_BYTES]),
    Long(Arc<[u8]>),
}

/// Octets of a short name: with its length and the mark of its kind half a line of the cache.
const SHORT_BYTES: usize = 30;

impl Key {
    fn new(name: &[u8]) -> Self {
        let mut octets = [0; SHORT_BYTES];
        match (octets.get_mut(..name.len()), u8::try_from(name.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(name);
                Self::Short(length, octets)
            }
            _ => Self::Long(name.into()),
        }
    }

    fn name(&self) -> &[u8] {
        match self {
            Self::Short(length, octets) => octets.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(octets) => octets,
        }
    }
}

/// Who is behind an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Slot of the service.
    pub slot: usize,
    /// The instance; `None`: the service itself, whose own address it is.
    pub id: Option<InstanceId>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The service in this slot.
    Service(usize),
    /// A port of the service in the slot, by its index.
    Port(usize, usize),
    /// Nothing itself, but a name below it exists.
    Empty,
    /// Not in the table.
    Missing,
}

/// Slots and ports in as few octets as they need: entries lie side by side, and neighbours are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Service(u32),
    Port(u32, u16),
}

/// One name: what it stands for and how many names need it as an empty non-terminal.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    target: Option<Target>,
    below: u32,
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    Set(Target),
    Clear(Target),
    Hold,
    Release,
}

#[derive(Debug)]
enum ReverseEdit {
    Add(Owner),
    Remove(Owner),
}

impl Default for Names {
    fn default() -> Self {
        Self::new("weir.internal")
    }
}

impl Names {
    /// Returns an empty table for a zone, written with dots. A text that is no name makes a table without any name;
    /// `dns::bind` refuses such a zone.
    pub fn new(zone: &str) -> Self {
        let zone = parse_name(zone).unwrap_or_default();
        Self { zone: zone.into(), forward: Shards::new(), reverse: Shards::new() }
    }

    /// Returns the wire name of the zone, lower case, with the root.
    pub fn zone(&self) -> &[u8] {
        &self.zone
    }

    /// Returns the table after some services changed: pairs of the service before and after.
    pub fn apply(&self, changes: &[ServiceChange]) -> Self {
        let mut next = self.clone();
        let (mut forward, mut reverse) = (Vec::new(), Vec::new());
        for (before, after) in changes {
            let (before, after) = (before.as_deref(), after.as_deref());
            if !same_names(before, after) {
                forward.extend(before.map(|service| edits(service, Step::Remove)).unwrap_or_default());
                forward.extend(after.map(|service| edits(service, Step::Add)).unwrap_or_default());
            }
            reverse_edits(before, after, &mut reverse);
        }
        if !forward.is_empty() {
            next.forward.edit(forward, change_node);
        }
        if !reverse.is_empty() {
            next.reverse.edit(reverse, change_owners);
        }
        next
    }

    /// Finds a lower-case wire name without zone and root, such as `web.default`; about 30 ns.
    pub fn find(&self, key: &[u8]) -> Found {
        let node = self.forward.find(xxh3_64(key), |known| known.name() == key);
        match node.map(|node| node.target) {
            Some(Some(Target::Service(slot))) => Found::Service(slot as usize),
            Some(Some(Target::Port(slot, port))) => Found::Port(slot as usize, usize::from(port)),
            Some(None) => Found::Empty,
            None => Found::Missing,
        }
    }

    /// Returns the instances that have this address and are ready, or the service whose own it is; loopback addresses have
    /// none.
    pub fn owners(&self, address: IpAddr) -> Option<&[Owner]> {
        self.reverse.find(hash_address(address), |key| *key == address).map(|owners| &**owners)
    }
}

/// Cuts a zone off a lower-case wire name at a label boundary; with the number of labels that are left. `None` when the
/// name is not in the zone, or the zone is none.
pub fn below<'n>(name: &'n [u8], zone: &[u8]) -> Option<(&'n [u8], usize)> {
    let relative = name.strip_suffix(zone).filter(|_| !zone.is_empty())?;
    let (mut at, mut depth) = (0, 0);
    while at < relative.len() {
        at += 1 + usize::from(*relative.get(at)?);
        depth += 1;
    }
    (at == relative.len()).then_some((relative, depth))
}

fn hash_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => xxh3_64(&v4.octets()),
        IpAddr::V6(v6) => xxh3_64(&v6.octets()),
    }
}

fn change_node(before: Option<Node>, edit: Edit) -> Option<Node> {
    let mut node = before.unwrap_or_default();
    match edit {
        Edit::Set(target) => node.target = Some(target),
        Edit::Clear(target) => node.target = node.target.filter(|current| *current != target),
        Edit::Hold => node.below += 1,
        Edit::Release => node.below = node.below.saturating_sub(1),
    }
    (node.target.is_some() || node.below > 0).then_some(node)
}

fn change_owners(before: Option<Arc<[Owner]>>, edit: ReverseEdit) -> Option<Arc<[Owner]>> {
    let mut owners = before.map_or_else(Vec::new, |owners| owners.to_vec());
    match edit {
        ReverseEdit::Add(owner) => owners.push(owner),
        ReverseEdit::Remove(owner) => owners.retain(|other| *other != owner),
    }
    (!owners.is_empty()).then(|| owners.into())
}

fn same_names(before: Option<&Service>, after: Option<&Service>) -> bool {
    match (before, after) {
        (Some(a), Some(b)) => a.slot == b.slot && a.spec.name == b.spec.name && a.spec.ports == b.spec.ports,
        (None, None) => true,
        _ => false,
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add,
    Remove,
}

/// Returns the edits that add or remove a service's names.
fn edits(service: &Service, step: Step) -> Vec<(u64, Key, Edit)> {
    let (target, hold): (fn(Target) -> Edit, Edit) = match step {
        Step::Add => (Edit::Set, Edit::Hold),
        Step::Remove => (Edit::Clear, Edit::Release),
    };
    let mut out = Vec::new();
    let mut put = |name: String, edit: Edit| {
        // A port whose label would be longer than 63 octets has no name.
        if let Some(mut wire) = parse_name(&name) {
            wire.pop();
            out.push((xxh3_64(&wire), Key::new(&wire), edit));
        }
    };
    let (name, namespace) = (service.spec.name.name(), service.spec.name.namespace());
    put(namespace.to_owned(), hold);
    let base = format!("{name}.{namespace}");
    // There are fewer services than 2^32, and fewer ports than 2^16 (`config`).
    let slot = u32::try_from(service.slot).unwrap_or(u32::MAX);
    put(base.clone(), target(Target::Service(slot)));
    for (index, PortSpec { name, protocol, .. }) in service.spec.ports.iter().enumerate() {
        let transport = match protocol {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
        };
        put(format!("{transport}.{base}"), hold);
        put(
            format!("_{name}.{transport}.{base}"),
            target(Target::Port(slot, u16::try_from(index).unwrap_or(u16::MAX))),
        );
    }
    out
}

/// Adds the edits of reverse names between two states of a service; linear, and short when few endpoints differ.
fn reverse_edits(before: Option<&Service>, after: Option<&Service>, out: &mut Vec<(u64, IpAddr, ReverseEdit)>) {
    let same_slot = before.zip(after).is_some_and(|(a, b)| a.slot == b.slot);
    let (mut old, mut new) = (before.map_or(&[][..], |s| &s.endpoints), after.map_or(&[][..], |s| &s.endpoints));
    let equal = |a: &Endpoint, b: &Endpoint| same_slot && a.address == b.address && a.id == b.id;
    let head = old.iter().zip(new).take_while(|(a, b)| equal(a, b)).count();
    (old, new) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| equal(a, b)).count();
    old = old.get(..old.len() - tail).unwrap_or_default();
    new = new.get(..new.len() - tail).unwrap_or_default();
    let kept: HashSet<(&InstanceId, IpAddr)> = if same_slot && !old.is_empty() && !new.is_empty() {
        let old: HashSet<_> = old.iter().map(|e| (&e.id, e.address)).collect();
        new.iter().map(|e| (&e.id, e.address)).filter(|key| old.contains(key)).collect()
    } else {
        HashSet::new()
    };
    let mut put = |service: Option<&Service>, list: &[Endpoint], edit: fn(Owner) -> ReverseEdit| {
        let Some(slot) = service.map(|s| s.slot) else { return };
        for endpoint in list.iter().filter(|e| !kept.contains(&(&e.id, e.address))) {
            let address = endpoint.address.to_canonical();
            if !address.is_loopback() {
                out.push((hash_address(address), address, edit(Owner { slot, id: Some(endpoint.id.clone()) })));
            }
        }
    };
    put(before, old, ReverseEdit::Remove);
    put(after, new, ReverseEdit::Add);
    let own = |service: Option<&Service>| service.and_then(|service| Some((service.slot, service.address?)));
    if own(before) != own(after) {
        let sides = [(own(before), ReverseEdit::Remove as fn(Owner) -> ReverseEdit), (own(after), ReverseEdit::Add)];
        for ((slot, address), edit) in sides.into_iter().filter_map(|(own, edit)| Some((own?, edit))) {
            out.push((hash_address(address), address, edit(Owner { slot, id: None })));
        }
    }
}
