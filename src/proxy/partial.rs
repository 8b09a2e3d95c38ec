//! The memory that heads which have not come whole, and requests that wait behind another, may hold: all connections of a
//! worker together.
//!
//! Each head has its own bounds in size and time; together they could still hold gigabytes. Beyond the budget those go that
//! hold more than their share, so that a client whose head merely came in two pieces is served on. Those that were there
//! before and send nothing more stay for their time, so that the sum may go beyond the budget, at most to twice as much.
//! Octets are counted, not what the allocator keeps for them.

use std::cell::Cell;
use std::rc::Rc;

/// What partial heads of one worker hold.
#[derive(Debug, Default)]
pub(crate) struct PartialHeads {
    bytes: Cell<usize>,
    count: Cell<usize>,
}

/// One partial head; given back when dropped.
#[derive(Debug)]
pub(crate) struct PartialHead {
    bytes: usize,
    heads: Rc<PartialHeads>,
}

impl PartialHeads {
    /// Counts a head.
    pub(crate) fn begin(self: &Rc<Self>) -> PartialHead {
        self.count.set(self.count.get() + 1);
        PartialHead { bytes: 0, heads: self.clone() }
    }

    /// Returns the octets that all of them hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

impl PartialHead {
    /// Says how many octets it holds now; returns false when that is too much: all together are above the budget, and it
    /// holds more than an equal share.
    pub(crate) fn holds(&mut self, bytes: usize, budget: usize) -> bool {
        let all = self.heads.bytes.get() - self.bytes + bytes;
        self.heads.bytes.set(all);
        self.bytes = bytes;
        all <= budget || (bytes <= budget / self.heads.count.get().max(1) && all <= budget.saturating_mul(2))
    }
}

impl Drop for PartialHead {
    fn drop(&mut self) {
        self.heads.bytes.set(self.heads.bytes.get() - self.bytes);
        self.heads.count.set(self.heads.count.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::PartialHeads;
    use std::rc::Rc;

    #[test]
    fn beyond_the_budget_the_large_ones_go() {
        let heads = Rc::new(PartialHeads::default());
        let mut small = heads.begin();
        assert!(small.holds(100, 1000));
        let mut large: Vec<_> = (0..3).map(|_| heads.begin()).collect();
        let kept: Vec<bool> = large.iter_mut().map(|head| head.holds(400, 1000)).collect();
        assert_eq!(kept, [true, true, false]);
        assert!(small.holds(200, 1000), "a small one may still grow to its share");
        large.pop();
        assert_eq!(heads.bytes(), 1000);
        assert!(small.holds(200, 1000));
        drop((small, large));
        assert_eq!(heads.bytes(), 0);
    }
}
