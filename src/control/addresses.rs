//! The services' own addresses: which service has which.
//!
//! An address is found by the hash of the service's name, the next free one where two meet, so that it is the same after a
//! restart even where the store was lost; the store makes sure of it. A service that goes keeps its address for a day:
//! clients that resolved it once go on until it comes back, and reach no other service meanwhile.

use crate::control::store::{AddressRecord, Change, Contents, Store};
use crate::model::ServiceName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

/// An address of a service that is gone is given to no other for so long: a day.
const KEPT_MS: u64 = 24 * 3600 * 1000;

/// A range of addresses: network and prefix length.
pub type Range = (Ipv4Addr, u8);

/// Who has which address.
#[derive(Debug)]
pub struct Addresses {
    range: Range,
    held: HashMap<ServiceName, AddressRecord>,
    taken: HashMap<Ipv4Addr, ServiceName>,
    journal: Journal,
}

/// What is to be written down: the last word on each service; bounded by their number.
#[derive(Debug, Clone, Default)]
struct Journal {
    pending: Arc<Mutex<BTreeMap<ServiceName, AddressRecord>>>,
    told: Arc<Notify>,
}

impl Addresses {
    /// Takes up what a store holds; what was freed a day ago, or is of another range, is forgotten.
    pub fn new(range: Range, contents: &Contents, now_unix_ms: u64) -> Self {
        let mut addresses = Self { range, held: HashMap::new(), taken: HashMap::new(), journal: Journal::default() };
        for (name, record) in &contents.addresses {
            let is_over = record.freed_ms.is_some_and(|freed| now_unix_ms.saturating_sub(freed) > KEPT_MS);
            if !is_over && record.range() == range && !addresses.taken.contains_key(&record.address) {
                addresses.taken.insert(record.address, name.clone());
                addresses.held.insert(name.clone(), record.clone());
            }
        }
        addresses
    }

    /// Returns the address of each service that has one, also of those that are gone.
    pub fn all(&self) -> Arc<HashMap<ServiceName, IpAddr>> {
        Arc::new(self.held.iter().map(|(name, record)| (name.clone(), record.address.into())).collect())
    }

    /// Gives a service its address; returns whether that is news. None is given when the range is full.
    pub fn assign(&mut self, name: &ServiceName, now_unix_ms: u64) -> bool {
        if let Some(record) = self.held.get_mut(name) {
            if record.freed_ms.take().is_some() {
                self.journal.write(name, record.clone());
            }
            return false;
        }
        let Some(address) = self.free(name, now_unix_ms) else {
            let (network, prefix) = self.range;
            tracing::warn!(service = %name, "no address of {network}/{prefix} is free; widen dns.service_addresses");
            return false;
        };
        let record = AddressRecord { address, prefix: self.range.1, freed_ms: None };
        self.taken.insert(address, name.clone());
        self.journal.write(name, record.clone());
        self.held.insert(name.clone(), record);
        true
    }

    /// Says that a service is gone.
    pub(super) fn release(&mut self, name: &ServiceName, now_unix_ms: u64) {
        if let Some(record) = self.held.get_mut(name).filter(|record| record.freed_ms.is_none()) {
            record.freed_ms = Some(now_unix_ms);
            self.journal.write(name, record.clone());
        }
    }

    /// Finds an address: the first of its place that nobody has, or that somebody had longest ago.
    fn free(&mut self, name: &ServiceName, now_unix_ms: u64) -> Option<Ipv4Addr> {
        let (network, prefix) = self.range;
        // Neither the network's own address nor the last, which looks like a broadcast.
        let size = (u64::from(u32::MAX >> prefix)).checked_sub(1).filter(|size| *size > 0)?;
        let start = xxh3_64(name.to_string().as_bytes()) % size;
        let at = |step: u64| {
            let offset = u32::try_from(1 + (start + step) % size).unwrap_or(1);
            Ipv4Addr::from_bits(network.to_bits() | offset)
        };
        if let Some(address) = (0..size.min(self.taken.len() as u64 + 1)).map(at).find(|a| !self.taken.contains_key(a))
        {
            return Some(address);
        }
        let freed = self.held.iter().filter_map(|(name, record)| Some((record.freed_ms?, name.clone())));
        let (_, oldest) = freed.min().filter(|(freed, _)| now_unix_ms.saturating_sub(*freed) > KEPT_MS)?;
        let address = self.held.remove(&oldest)?.address;
        self.taken.remove(&address);
        Some(address)
    }

    /// Writes down what changes from now on; ends with the store.
    pub(super) fn keep(&self, store: Store) {
        tokio::spawn(self.journal.clone().run(store));
    }
}

impl Journal {
    fn write(&self, name: &ServiceName, record: AddressRecord) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), record);
        self.told.notify_one();
    }

    async fn run(self, store: Store) {
        loop {
            self.told.notified().await;
            let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
            let changes = pending.into_iter().map(|(name, record)| Change::PutAddress(name, record)).collect();
            if let Err(crate::control::store::StoreError::Closed) = store.note(changes).await {
                return;
            }
        }
    }
}

/// Returns the ranges that addresses in the store are from, but `range`: what an earlier Weir routed.
pub fn earlier_ranges(contents: &Contents, range: Option<Range>) -> Vec<Range> {
    let all: BTreeSet<Range> = contents.addresses.values().map(AddressRecord::range).collect();
    all.into_iter().filter(|one| Some(*one) != range).collect()
}

/// Returns what forgets the addresses in the store that are of no use any more.
pub(super) fn forgotten(contents: &Contents, addresses: Option<&Addresses>) -> Vec<Change> {
    let is_held = |name: &ServiceName| addresses.is_some_and(|addresses| addresses.held.contains_key(name));
    contents.addresses.keys().filter(|name| !is_held(name)).cloned().map(Change::DropAddress).collect()
}

#[cfg(test)]
mod tests {
    use super::{Addresses, KEPT_MS, earlier_ranges, forgotten};
    use crate::control::store::Contents;
    use crate::model::ServiceName;
    use std::collections::HashSet;
    use std::net::{IpAddr, Ipv4Addr};

    const RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    /// What a store holds after all was written.
    fn stored(addresses: &Addresses) -> Contents {
        let pending = addresses.journal.pending.lock().unwrap();
        Contents { addresses: pending.clone(), ..Contents::default() }
    }

    #[test]
    fn each_service_has_one_of_its_own_and_has_it_again_after_a_restart() {
        let mut addresses = Addresses::new(RANGE, &Contents::default(), 0);
        for n in 0..2000 {
            assert!(addresses.assign(&name(&format!("service-{n}")), 0));
            assert!(!addresses.assign(&name(&format!("service-{n}")), 0));
        }
        let all = addresses.all();
        assert_eq!(all.values().collect::<HashSet<_>>().len(), 2000);
        let is_in =
            |ip: &IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [198, 18] && ip.octets()[2..] != [0, 0]);
        assert!(all.values().all(is_in));
        let again = Addresses::new(RANGE, &stored(&addresses), 0);
        assert_eq!(*again.all(), *all);
        // Without the store those that met nobody have the same one.
        let mut lost = Addresses::new(RANGE, &Contents::default(), 0);
        lost.assign(&name("service-0"), 0);
        assert_eq!(lost.all().get(&name("service-0")), all.get(&name("service-0")));
    }

    #[test]
    fn an_address_is_given_to_another_only_when_the_range_is_full_and_a_day_has_passed() {
        let range = (Ipv4Addr::new(198, 18, 0, 0), 29);
        let mut addresses = Addresses::new(range, &Contents::default(), 0);
        for n in 0..6 {
            assert!(addresses.assign(&name(&format!("s{n}")), 0));
        }
        let before = addresses.all();
        assert!(!addresses.assign(&name("late"), 0), "the range is full");
        addresses.release(&name("s3"), 5);
        assert!(!addresses.assign(&name("late"), 5 + KEPT_MS));
        assert!(addresses.assign(&name("late"), 6 + KEPT_MS));
        assert_eq!(addresses.all().get(&name("late")), before.get(&name("s3")));
        assert!(!addresses.assign(&name("s3"), 6 + KEPT_MS), "its own is another's now");
    }

    #[test]
    fn a_service_that_comes_back_finds_its_own() {
        let mut addresses = Addresses::new(RANGE, &Contents::default(), 0);
        addresses.assign(&name("web"), 0);
        let before = addresses.all();
        addresses.release(&name("web"), 10);
        let contents = stored(&addresses);
        let mut again = Addresses::new(RANGE, &contents, 10 + KEPT_MS);
        assert_eq!(*again.all(), *before);
        assert!(!again.assign(&name("web"), 11 + KEPT_MS));
        assert!(Addresses::new(RANGE, &contents, 11 + KEPT_MS).all().is_empty());
    }

    #[test]
    fn another_range_forgets_what_was_of_the_one_before() {
        let mut addresses = Addresses::new(RANGE, &Contents::default(), 0);
        addresses.assign(&name("web"), 0);
        let contents = stored(&addresses);
        let other = (Ipv4Addr::new(198, 19, 0, 0), 16);
        let next = Addresses::new(other, &contents, 0);
        assert!(next.all().is_empty());
        assert_eq!(earlier_ranges(&contents, Some(other)), [RANGE]);
        assert_eq!(earlier_ranges(&contents, Some(RANGE)), []);
        assert_eq!((forgotten(&contents, Some(&next)).len(), forgotten(&contents, None).len()), (1, 1));
        assert_eq!(forgotten(&contents, Some(&addresses)).len(), 0);
    }
}
