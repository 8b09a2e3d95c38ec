//! Kept answers, bounded by octets: read by every DNS thread, written by `dns-slow`.
//!
//! Whoever was used since it was last looked at gets a second round before it is given up (CLOCK): a flood of names that are
//! asked once does not push out those that are asked often.

use crate::dns::forward::entry::{Entry, Key};
use arc_swap::ArcSwap;
use dashmap::DashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Answers by name and type.
#[derive(Debug)]
pub(crate) struct Cache {
    max_bytes: usize,
    bytes: AtomicUsize,
    evicted: AtomicU64,
    map: DashMap<Key, Arc<Slot>>,
    /// In the order in which they are looked at when room is needed; each slot of the map once.
    queue: Mutex<VecDeque<Arc<Slot>>>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Octets, with those of the structures around answers.
    pub(crate) bytes: usize,
    /// Answers.
    pub(crate) entries: usize,
    /// Answers that were given up for room, ever.
    pub(crate) evicted: u64,
}

/// The place of a name: what it holds changes when it is asked for anew.
#[derive(Debug)]
struct Slot {
    key: Key,
    entry: ArcSwap<Entry>,
    used: AtomicBool,
}

impl Cache {
    /// Makes an empty one; one of 0 octets keeps nothing.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let (bytes, evicted) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { max_bytes, bytes, evicted, map: DashMap::new(), queue: Mutex::new(VecDeque::new()) }
    }

    /// Returns what is kept under a key, however old it is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Entry>> {
        let slot = self.map.get(key)?;
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(slot.entry.load_full())
    }

    /// Keeps an answer, and gives up others where there is no room for it.
    pub(crate) fn put(&self, key: &[u8], entry: Arc<Entry>) {
        let bytes = entry.bytes(key);
        // A single answer that takes an eighth of the room is not worth what it would push out.
        if bytes > self.max_bytes / 8 || !entry.lasts() {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.map.get(key).map(|slot| slot.clone());
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        match known {
            Some(slot) => {
                let before = slot.entry.swap(entry);
                self.bytes.fetch_sub(before.bytes(key), Ordering::Relaxed);
            }
            None => {
                let slot = Slot { key: key.into(), entry: ArcSwap::new(entry), used: AtomicBool::new(false) };
                let slot = Arc::new(slot);
                self.map.insert(slot.key.clone(), slot.clone());
                queue.push_back(slot);
            }
        }
        // Each slot is looked at twice at most: the first time it may have been used.
        for _ in 0..2 * queue.len() {
            if self.bytes.load(Ordering::Relaxed) <= self.max_bytes {
                break;
            }
            let Some(slot) = queue.pop_front() else { break };
            if slot.used.swap(false, Ordering::Relaxed) {
                queue.push_back(slot);
                continue;
            }
            self.map.remove(&slot.key);
            self.bytes.fetch_sub(slot.entry.load().bytes(&slot.key), Ordering::Relaxed);
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns what is kept.
    pub(crate) fn kept(&self) -> Kept {
        let (bytes, evicted) = (self.bytes.load(Ordering::Relaxed), self.evicted.load(Ordering::Relaxed));
        Kept { bytes, entries: self.map.len(), evicted }
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Kept};
    use crate::dns::counters::Forwarded;
    use crate::dns::forward::entry::{Entry, Outcome};
    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::{Name, RecordType};
    use std::sync::Arc;

    fn entry(ttl_seconds: u32) -> Arc<Entry> {
        let outcome = Outcome::bare(ResponseCode::NXDomain, Forwarded::NxDomain, ttl_seconds);
        Arc::new(Entry::new(&Name::root(), RecordType::A, outcome, 1000).unwrap())
    }

    #[test]
    fn it_stays_within_its_octets_and_keeps_what_is_used() {
        let cache = Cache::new(100_000);
        cache.put(b"popular", entry(60));
        for n in 0..100_000u32 {
            cache.put(&n.to_be_bytes(), entry(60));
            assert!(cache.get(b"popular").is_some(), "{n}");
            assert!(cache.kept().bytes <= 100_000);
        }
        let Kept { bytes, entries: kept, evicted } = cache.kept();
        assert!(kept > 200 && bytes > 99_000, "{kept} answers in {bytes} octets");
        assert_eq!(evicted, 100_001 - kept as u64);
        assert_eq!(cache.queue.lock().unwrap().len(), kept);
    }

    #[test]
    fn an_answer_takes_the_place_of_the_one_before() {
        let cache = Cache::new(100_000);
        for _ in 0..1000 {
            cache.put(b"name", entry(60));
        }
        assert_eq!(cache.kept(), Kept { bytes: entry(60).bytes(b"name"), entries: 1, evicted: 0 });
        assert_eq!(cache.queue.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_must_not_be_kept_is_not_and_nothing_is_where_there_is_no_room() {
        let cache = Cache::new(100_000);
        cache.put(b"zero", entry(0));
        assert_eq!(cache.kept(), Kept { bytes: 0, entries: 0, evicted: 0 });
        let none = Cache::new(0);
        none.put(b"name", entry(60));
        assert!(none.get(b"name").is_none());
    }
}
