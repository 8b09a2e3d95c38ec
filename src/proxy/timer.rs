//! Deadlines without a timer per wait: each connection has one cell, a worker sweeps them on its coarse clock.
//!
//! Granularity is the sweep, 100 ms. Setting a deadline is one store. Invariant: a timer's task is polled within one
//! sweep after its deadline passed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Whole milliseconds of a duration, as the worker's clock counts.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The deadline of one connection's task.
#[derive(Debug)]
pub(crate) struct Timer {
    /// 0: none.
    at_ms: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    index: Cell<usize>,
}

/// All deadlines of a worker and its coarse clock.
#[derive(Debug)]
pub(crate) struct Timers {
    list: RefCell<Vec<Rc<Timer>>>,
    now_ms: Cell<u64>,
}

/// A registered timer; leaves the list when dropped.
#[derive(Debug)]
pub(crate) struct Deadline {
    timer: Rc<Timer>,
    timers: Rc<Timers>,
}

impl Timers {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { list: RefCell::default(), now_ms: Cell::new(now_ms) }
    }

    /// Returns the coarse time: exact at the last sweep or request.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Moves the coarse clock.
    pub(crate) fn set_now(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
    }

    /// Registers a timer for a task.
    pub(crate) fn register(self: &Rc<Self>) -> Deadline {
        let mut list = self.list.borrow_mut();
        let timer = Rc::new(Timer { at_ms: Cell::new(0), waker: RefCell::default(), index: Cell::new(list.len()) });
        list.push(timer.clone());
        Deadline { timer, timers: self.clone() }
    }

    /// Wakes every task whose deadline passed.
    pub(crate) fn sweep(&self) {
        let now = self.now_ms.get();
        for timer in self.list.borrow().iter() {
            if timer.at_ms.get() != 0 && timer.at_ms.get() <= now {
                timer.wake();
            }
        }
    }

    /// Wakes every task, to look at something that changed.
    pub(crate) fn wake_all(&self) {
        for timer in self.list.borrow().iter() {
            timer.wake();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }
}

impl Timer {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Deadline {
    /// Sets the deadline `after_ms` from the coarse time; replaces an earlier one.
    pub(crate) fn set(&self, after_ms: u64) {
        self.timer.at_ms.set(self.timers.now_ms().saturating_add(after_ms.max(1)));
    }

    /// Sets the deadline at a time of the worker's clock.
    pub(crate) fn set_at(&self, at_ms: u64) {
        self.timer.at_ms.set(at_ms.max(1));
    }

    /// Returns the time until then, by the coarse time.
    pub(crate) fn left_ms(&self) -> u64 {
        self.timer.at_ms.get().saturating_sub(self.timers.now_ms())
    }

    /// Returns whether the deadline passed; registers the task for the sweep when it did not.
    pub(crate) fn poll_expired(&self, cx: &Context<'_>) -> bool {
        let at = self.timer.at_ms.get();
        if at != 0 && at <= self.timers.now_ms() {
            return true;
        }
        let mut waker = self.timer.waker.borrow_mut();
        match &*waker {
            Some(known) if known.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        false
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut list = self.timers.list.borrow_mut();
        let index = self.timer.index.get();
        if index < list.len() {
            list.swap_remove(index);
            if let Some(moved) = list.get(index) {
                moved.index.set(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Timers;
    use std::rc::Rc;
    use std::task::{Context, Waker};

    #[test]
    fn expires_after_its_deadline_and_leaves_the_list_when_dropped() {
        let timers = Rc::new(Timers::new(1000));
        let (a, b) = (timers.register(), timers.register());
        let cx = Context::from_waker(Waker::noop());
        a.set(50);
        assert!(!a.poll_expired(&cx) && !b.poll_expired(&cx));
        timers.set_now(1050);
        timers.sweep();
        assert!(a.poll_expired(&cx) && !b.poll_expired(&cx));
        drop(a);
        b.set(1);
        timers.set_now(2000);
        assert!(b.poll_expired(&cx));
        drop(b);
        assert!(timers.is_empty());
    }
}
