//! When the registry must next look at an instance: a heap with one valid record for each instance.
//!
//! A renewal moves a deadline back without touching the heap: the record is looked at when it is due and put back. Cost
//! of a renewal: none; of a record: O(log n), once in a lease.

use crate::model::InstanceId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The due time of an instance's valid record; 0 when it has none. Lives beside the instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// The heap, by due time in `clock::now_ms` milliseconds.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, InstanceId)>>,
}

impl Timers {
    /// Makes sure that the instance is looked at no later than `due_ms`.
    pub(super) fn schedule(&mut self, id: &InstanceId, mark: &mut Mark, due_ms: u64) {
        if mark.0 == 0 || due_ms < mark.0 {
            mark.0 = due_ms;
            self.heap.push(Reverse((due_ms, id.clone())));
        }
    }

    /// Returns the next record that is due, with the mark it belongs to.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<(InstanceId, Mark)> {
        let due = self.heap.peek().is_some_and(|Reverse((due_ms, _))| *due_ms <= now_ms);
        let Reverse((due_ms, id)) = if due { self.heap.pop()? } else { return None };
        Some((id, Mark(due_ms)))
    }

    /// Returns when to look next.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((due_ms, _))| *due_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark, Timers};
    use crate::model::InstanceId;

    #[test]
    fn a_later_deadline_adds_no_record_and_an_earlier_one_replaces_it() {
        let (mut timers, mut mark) = (Timers::default(), Mark::default());
        let id = InstanceId::parse("a").unwrap();
        timers.schedule(&id, &mut mark, 100);
        timers.schedule(&id, &mut mark, 200);
        assert_eq!(timers.heap.len(), 1);
        timers.schedule(&id, &mut mark, 50);
        assert_eq!(timers.next_ms(), Some(50));
        assert_eq!(timers.pop_due(49), None);
        assert_eq!(timers.pop_due(50), Some((id.clone(), mark)));
        let (_, stale) = timers.pop_due(100).unwrap();
        assert_ne!(stale, mark);
        assert_eq!(timers.next_ms(), None);
    }
}
