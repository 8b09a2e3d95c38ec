//! How the proxy asks for a first replica: the only word from the request path to the control plane.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The bell of one service; the same value in each snapshot that holds the service.
#[derive(Debug)]
pub struct Wake {
    bell: Arc<Notify>,
    /// Nobody wants replicas of it, so that none is on its way.
    off: AtomicBool,
}

impl Wake {
    /// Makes the bell of a service that is on or off until somebody says otherwise.
    pub fn new(off: bool) -> Self {
        Self { bell: Arc::default(), off: AtomicBool::new(off) }
    }

    /// Says that something waits for a replica while there is none. Costs some nanoseconds; many rings before somebody
    /// listens are one.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Waits for a ring; one that nobody heard counts.
    pub fn rung(&self) -> OwnedNotified {
        self.bell.clone().notified_owned()
    }

    /// Says whether replicas are wanted, or would be as soon as somebody asks; returns whether that changed.
    pub fn set_off(&self, off: bool) -> bool {
        self.off.swap(off, Ordering::AcqRel) != off
    }

    /// Returns whether nobody wants replicas of it: nothing is to wait for one.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::Wake;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_ring_that_nobody_heard_counts_once() {
        let wake = Wake::new(false);
        let mut cx = Context::from_waker(Waker::noop());
        let mut listens = || pin!(wake.rung()).poll(&mut cx);
        assert_eq!(listens(), Poll::Pending);
        wake.ring();
        wake.ring();
        assert_eq!(listens(), Poll::Ready(()));
        assert_eq!(listens(), Poll::Pending);
    }

    #[test]
    fn tells_when_it_was_switched() {
        let wake = Wake::new(true);
        assert!(wake.is_off() && !wake.set_off(true) && wake.set_off(false) && !wake.is_off());
    }
}
