//! Streams by endpoint: what becomes of those whose endpoint was withdrawn.
//!
//! A stream may outlive its endpoint's place in the table by the service's drain time; then it is reset and counted
//! (details: a drain has an end). The watch costs a stream one pointer: the deadline is the endpoint's, not its own.

use crate::table::Snapshot;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// The streams of one worker.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// By the endpoint's serial.
    endpoints: RefCell<HashMap<u64, Rc<Watched>>>,
}

/// An endpoint with streams.
#[derive(Debug)]
struct Watched {
    slot: usize,
    serial: u64,
    drain_ms: u64,
    streams: Cell<usize>,
    /// When its streams are reset; 0: it is in the table.
    cut_at_ms: Cell<u64>,
    /// Whether they were woken for that.
    woken: Cell<bool>,
}

/// A stream's place among those of its endpoint; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    watched: Rc<Watched>,
    streams: Rc<Streams>,
}

impl Streams {
    /// Enters a stream to the endpoint with this serial, of the service in this slot with this drain time.
    pub(crate) fn enter(self: &Rc<Self>, slot: usize, serial: u64, drain_ms: u64) -> Place {
        let fresh = || {
            let (streams, cut_at_ms, woken) = (Cell::new(0), Cell::new(0), Cell::new(false));
            Rc::new(Watched { slot, serial, drain_ms, streams, cut_at_ms, woken })
        };
        let watched = self.endpoints.borrow_mut().entry(serial).or_insert_with(fresh).clone();
        watched.streams.set(watched.streams.get() + 1);
        Place { watched, streams: self.clone() }
    }

    /// Follows the table: the time runs for an endpoint that is not a candidate any more, and stops when it is again.
    pub(crate) fn follow(&self, snapshot: &Snapshot, now_ms: u64) {
        for watched in self.endpoints.borrow().values() {
            watched.follow(snapshot, now_ms);
        }
    }

    /// Returns whether streams are due to be reset that were not told yet: they must be woken to look.
    pub(crate) fn sweep(&self, now_ms: u64) -> bool {
        let mut due = false;
        for watched in self.endpoints.borrow().values() {
            if (1..=now_ms).contains(&watched.cut_at_ms.get()) && !watched.woken.replace(true) {
                due = true;
            }
        }
        due
    }
}

impl Watched {
    fn follow(&self, snapshot: &Snapshot, now_ms: u64) {
        let service = snapshot.services.at(self.slot);
        if service.is_some_and(|s| s.candidates.iter().any(|c| c.stats.serial() == self.serial)) {
            self.cut_at_ms.set(0);
            self.woken.set(false);
        } else if self.cut_at_ms.get() == 0 {
            self.cut_at_ms.set(now_ms + self.drain_ms.max(1));
        }
    }
}

impl Place {
    /// Looks whether the endpoint was withdrawn between its pick and its first stream, when nobody followed the table for it.
    pub(crate) fn begin<'a>(&self, snapshot: impl FnOnce() -> &'a Snapshot, now_ms: u64) {
        if self.watched.streams.get() == 1 {
            self.watched.follow(snapshot(), now_ms);
        }
    }

    /// Returns whether the drain time of the withdrawn endpoint is over.
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        (1..=now_ms).contains(&self.watched.cut_at_ms.get())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.watched.streams.get() - 1;
        self.watched.streams.set(left);
        if left == 0 {
            self.streams.endpoints.borrow_mut().remove(&self.watched.serial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Streams;
    use crate::table::{Snapshot, names::Names};
    use std::rc::Rc;

    #[test]
    fn streams_of_an_endpoint_that_left_the_table_are_due_after_the_drain_time() {
        let streams = Rc::new(Streams::default());
        let empty = Snapshot::empty(Names::default());
        let first = streams.enter(0, 7, 100);
        let second = streams.enter(0, 7, 100);
        assert!(!streams.sweep(1000) && !first.is_due(1000));
        streams.follow(&empty, 1000);
        streams.follow(&empty, 1050);
        assert!(!streams.sweep(1099) && !first.is_due(1099));
        assert!(streams.sweep(1100) && first.is_due(1100) && second.is_due(1100));
        assert!(!streams.sweep(1200), "told once");
        drop((first, second));
        assert!(streams.endpoints.borrow().is_empty());
        // Withdrawn before the first stream began: no later table says so again.
        let late = streams.enter(0, 8, 100);
        late.begin(|| &empty, 2000);
        let second = streams.enter(0, 8, 100);
        second.begin(|| panic!("the first has looked"), 2050);
        assert!(!second.is_due(2099) && streams.sweep(2100) && late.is_due(2100) && second.is_due(2100));
    }
}
