//! The one atomic cell, and who has seen what.
//!
//! [`channel`] makes the only [`Publisher`] and a [`Table`] that hands out [`Reader`]s. A reader caches its snapshot: a
//! load without a change is one atomic read. Loading a new one acknowledges it. An acknowledger is a local worker now; a
//! remote Weir registers the same way and calls [`Acknowledger::acknowledge`] when its word arrives.

use crate::table::Snapshot;
use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::Notify;

#[derive(Debug)]
struct Cell {
    snapshot: ArcSwap<Snapshot>,
    /// Read by every load; written only by publish.
    generation: AtomicU64,
    /// Short lock: registering, publishing and asking who lags; never on the request path.
    acknowledgers: Mutex<Vec<Weak<Acknowledger>>>,
    /// Told when an acknowledger catches up.
    caught_up: Notify,
}

/// One party that must have a generation before an endpoint counts as withdrawn.
#[derive(Debug)]
#[repr(align(128))]
pub struct Acknowledger {
    generation: AtomicU64,
    /// True while the party surely loads before it next uses the table (a DNS thread blocked in receive).
    idle: AtomicBool,
    name: Arc<str>,
    wake: Notify,
    cell: Weak<Cell>,
}

/// What is known of one acknowledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcknowledgerStatus {
    /// Its name, such as `worker-0`.
    pub name: Arc<str>,
    /// The generation it last loaded.
    pub generation: u64,
    /// Whether it waits for work and will load before it uses the table.
    pub idle: bool,
}

/// Writes snapshots; there is one, by type.
#[derive(Debug)]
pub struct Publisher {
    cell: Arc<Cell>,
}

/// The shared handle: makes readers, loads for control and admin, tells who lags.
#[derive(Debug, Clone)]
pub struct Table {
    cell: Arc<Cell>,
}

/// One worker's view of the table.
#[derive(Debug)]
pub struct Reader {
    cached: Arc<Snapshot>,
    cell: Arc<Cell>,
    acknowledger: Arc<Acknowledger>,
}

/// Makes the cell with its first snapshot.
pub fn channel(initial: Snapshot) -> (Publisher, Table) {
    let cell = Arc::new(Cell {
        generation: AtomicU64::new(initial.generation),
        snapshot: ArcSwap::from_pointee(initial),
        acknowledgers: Mutex::default(),
        caught_up: Notify::new(),
    });
    (Publisher { cell: cell.clone() }, Table { cell })
}

impl Cell {
    fn parties(&self) -> Vec<Arc<Acknowledger>> {
        let mut list = self.acknowledgers.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|weak| weak.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Publisher {
    /// Publishes a snapshot and wakes those who lag; returns its generation, which must be above the last.
    pub fn publish(&mut self, snapshot: Snapshot) -> u64 {
        let generation = snapshot.generation;
        debug_assert!(generation > self.cell.generation.load(Ordering::Relaxed), "generations only rise");
        self.cell.snapshot.store(Arc::new(snapshot));
        // After the store: whoever sees the number finds at least this snapshot. SeqCst pairs with `Acknowledger::set_idle`.
        self.cell.generation.store(generation, Ordering::SeqCst);
        for party in self.cell.parties() {
            party.wake.notify_one();
        }
        generation
    }

    /// Returns the current snapshot, from which the next is built.
    pub fn current(&self) -> Arc<Snapshot> {
        self.cell.snapshot.load_full()
    }
}

impl Table {
    /// Registers an acknowledger and returns its reader.
    pub fn reader(&self, name: &str) -> Reader {
        let acknowledger = self.acknowledger(name);
        let cached = self.cell.snapshot.load_full();
        acknowledger.acknowledge(cached.generation);
        Reader { cached, cell: self.cell.clone(), acknowledger }
    }

    /// Registers a party that acknowledges by word of its own; it counts until dropped.
    pub fn acknowledger(&self, name: &str) -> Arc<Acknowledger> {
        let party = Arc::new(Acknowledger {
            generation: AtomicU64::new(0),
            idle: AtomicBool::new(false),
            name: name.into(),
            wake: Notify::new(),
            cell: Arc::downgrade(&self.cell),
        });
        self.cell.acknowledgers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&party));
        party
    }

    /// Returns the current snapshot; for control and admin, not for workers.
    pub fn load(&self) -> Arc<Snapshot> {
        self.cell.snapshot.load_full()
    }

    /// Returns what each acknowledger has.
    pub fn acknowledgers(&self) -> Vec<AcknowledgerStatus> {
        self.cell.parties().iter().map(|p| p.status()).collect()
    }

    /// Returns the names of those who do not have `generation` yet.
    pub fn lagging(&self, generation: u64) -> Vec<Arc<str>> {
        self.cell.parties().iter().filter(|p| !p.has(generation)).map(|p| p.name.clone()).collect()
    }

    /// Waits until every acknowledger has `generation`. Cancel-safe: put a deadline around it.
    ///
    /// Each that lags is woken once and looked at until it has it, one after another: a thousand cost a thousand looks and
    /// not the square of it.
    pub async fn acknowledged(&self, generation: u64) {
        let caught_up = self.cell.caught_up.notified();
        tokio::pin!(caught_up);
        loop {
            caught_up.as_mut().enable();
            let lagging = self.cell.parties().into_iter().filter(|party| !party.has(generation));
            // Held weakly: one that is dropped is not waited for.
            let mut lagging: Vec<_> =
                lagging.inspect(|party| party.wake.notify_one()).map(|p| Arc::downgrade(&p)).collect();
            if lagging.is_empty() {
                return;
            }
            while let Some(last) = lagging.last() {
                if last.upgrade().is_none_or(|party| party.has(generation)) {
                    lagging.pop();
                    continue;
                }
                caught_up.as_mut().await;
                caught_up.set(self.cell.caught_up.notified());
                caught_up.as_mut().enable();
            }
            // Who came meanwhile counts, too.
        }
    }
}

impl Acknowledger {
    /// Says that this party will not use anything older than `generation` any more.
    pub fn acknowledge(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::SeqCst);
        if let Some(cell) = self.cell.upgrade() {
            cell.caught_up.notify_waiters();
        }
    }

    /// Says whether the party waits for work and will load before it uses the table again.
    ///
    /// Clear it *before* the load that follows the wait: then a publisher that still sees it set is seen by that load.
    pub fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
        if idle && let Some(cell) = self.cell.upgrade() {
            cell.caught_up.notify_waiters();
        }
    }

    /// Waits until a publish asks this party to refresh.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    fn has(&self, generation: u64) -> bool {
        self.idle.load(Ordering::SeqCst) || self.generation.load(Ordering::SeqCst) >= generation
    }

    fn status(&self) -> AcknowledgerStatus {
        AcknowledgerStatus {
            name: self.name.clone(),
            generation: self.generation.load(Ordering::SeqCst),
            idle: self.idle.load(Ordering::SeqCst),
        }
    }
}

impl Drop for Acknowledger {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.upgrade() {
            cell.caught_up.notify_waiters();
        }
    }
}

impl Reader {
    /// Returns the current snapshot and acknowledges it; one atomic read when nothing changed.
    pub fn load(&mut self) -> &Arc<Snapshot> {
        if self.cell.generation.load(Ordering::SeqCst) != self.cached.generation {
            self.cached = self.cell.snapshot.load_full();
            self.acknowledger.acknowledge(self.cached.generation);
        }
        &self.cached
    }

    /// Returns this reader's acknowledger, to wait for its wake-up or to mark it idle.
    pub fn acknowledger(&self) -> &Arc<Acknowledger> {
        &self.acknowledger
    }
}

#[cfg(test)]
mod tests {
    use super::channel;
    use crate::table::names::Names;
    use crate::table::{Changes, Snapshot, build};
    use std::time::Duration;

    #[tokio::test]
    async fn a_generation_is_acknowledged_when_each_reader_loaded_it() {
        let (mut publisher, table) = channel(Snapshot::empty(Names::default()));
        let (mut a, mut b) = (table.reader("a"), table.reader("b"));
        let generation = publisher.publish(build(&publisher.current(), Changes::default()));
        assert_eq!(table.lagging(generation).len(), 2);
        a.load();
        assert_eq!(*table.lagging(generation), ["b".into()]);
        let waiting = tokio::spawn({
            let table = table.clone();
            async move { table.acknowledged(generation).await }
        });
        b.acknowledger().clone().woken().await;
        assert_eq!(b.load().generation, generation);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_idle_or_dropped_reader_is_not_waited_for() {
        let (mut publisher, table) = channel(Snapshot::empty(Names::default()));
        let (a, b) = (table.reader("a"), table.reader("b"));
        let generation = publisher.publish(build(&publisher.current(), Changes::default()));
        a.acknowledger().set_idle(true);
        drop(b);
        tokio::time::timeout(Duration::from_secs(5), table.acknowledged(generation)).await.unwrap();
        a.acknowledger().set_idle(false);
        assert_eq!(table.lagging(generation).len(), 1);
    }

    #[tokio::test]
    async fn who_lags_is_woken_once_however_many_catch_up_before_it() {
        let (mut publisher, table) = channel(Snapshot::empty(Names::default()));
        let slow = table.acknowledger("slow");
        let others: Vec<_> = (0..1000).map(|_| table.acknowledger("other")).collect();
        let generation = publisher.publish(build(&publisher.current(), Changes::default()));
        slow.woken().await;
        let waiting = tokio::spawn({
            let table = table.clone();
            async move { table.acknowledged(generation).await }
        });
        let mut wakes = 0;
        for other in &others {
            tokio::task::yield_now().await;
            wakes += usize::from(tokio::time::timeout(Duration::ZERO, slow.woken()).await.is_ok());
            other.acknowledge(generation);
        }
        assert_eq!(wakes, 1, "of {} that caught up", others.len());
        // One that joins before the last has it is waited for.
        let late = table.acknowledger("late");
        slow.acknowledge(generation);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(late);
        tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    }
}
