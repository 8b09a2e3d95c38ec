//! What other Weirs carry for a service, as they say: sums for whoever sizes it, and a share for each that gives back what
//! it holds when it goes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What was carried for a service up to now; every number only grows, wrapping around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Requests that ended, however.
    pub ended: u64,
    /// Requests that an endpoint served well, tunnels left out.
    pub served: u64,
    /// Sum of their times in service, microseconds.
    pub service_us: u64,
    /// Sum of the squares of those.
    pub service_us2: u64,
    /// Requests that were late for want of replicas.
    pub late: u64,
    /// TCP streams and tunnels begun.
    pub streams: u64,
}

impl Carried {
    /// Returns what was added since an earlier count.
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::wrapping_sub)
    }

    /// Returns both together.
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::wrapping_add)
    }

    fn with(&self, other: &Self, both: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            ended: both(self.ended, other.ended),
            served: both(self.served, other.served),
            service_us: both(self.service_us, other.service_us),
            service_us2: both(self.service_us2, other.service_us2),
            late: both(self.late, other.late),
            streams: both(self.streams, other.streams),
        }
    }
}

/// What is there of a service at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Present {
    /// Requests in service, tunnels left out.
    pub in_service: u32,
    /// Requests and streams that wait for a replica.
    pub queued: u32,
    /// Open TCP streams and tunnels.
    pub streams_open: u64,
}

/// The sums of all shares.
#[derive(Debug, Default)]
struct Sums {
    carried: Carried,
    present: Present,
    /// Until when an answer of DNS that another Weir gave may be kept.
    named_until_ms: u64,
}

/// What all other Weirs together carry for a service. Short lock: some additions for each report of a Weir.
#[derive(Debug, Default)]
pub struct Others(Mutex<Sums>);

impl Others {
    /// Returns what they have carried, what is there, and until when answers of DNS that they gave may be kept.
    pub fn read(&self) -> (Carried, Present, u64) {
        let sums = self.lock();
        (sums.carried, sums.present, sums.named_until_ms)
    }

    /// Returns the requests that wait for a replica there.
    pub fn queued(&self) -> u32 {
        self.lock().present.queued
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one other Weir carries for a service. What it holds counts until this is dropped; what it carried stays counted.
#[derive(Debug)]
pub struct Share {
    of: Arc<Others>,
    present: Present,
}

impl Share {
    /// Begins with nothing.
    pub fn new(of: Arc<Others>) -> Self {
        Self { of, present: Present::default() }
    }

    /// Returns what it is a share of.
    pub fn of(&self) -> &Arc<Others> {
        &self.of
    }

    /// Returns what it holds.
    pub fn present(&self) -> Present {
        self.present
    }

    /// Takes what was carried since the last time, what is there now, and until when answers of DNS may be kept.
    pub fn report(&mut self, more: &Carried, present: Present, named_until_ms: u64) {
        let mut sums = self.of.lock();
        sums.carried = sums.carried.plus(more);
        let (now, own) = (sums.present, self.present);
        sums.present = Present {
            in_service: now.in_service.saturating_sub(own.in_service).saturating_add(present.in_service),
            queued: now.queued.saturating_sub(own.queued).saturating_add(present.queued),
            streams_open: now.streams_open.saturating_sub(own.streams_open).saturating_add(present.streams_open),
        };
        sums.named_until_ms = sums.named_until_ms.max(named_until_ms);
        drop(sums);
        self.present = present;
    }
}

impl Drop for Share {
    /// What it held has come, and nobody will say how it ended: else it would look as if that had never come.
    fn drop(&mut self) {
        let ended = u64::from(self.present.in_service) + u64::from(self.present.queued);
        self.report(&Carried { ended, ..Carried::default() }, Present::default(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Carried, Others, Present, Share};
    use std::sync::Arc;

    #[test]
    fn shares_add_up_and_give_back_what_they_hold() {
        let others = Arc::new(Others::default());
        let (mut one, mut two) = (Share::new(others.clone()), Share::new(others.clone()));
        let some = Carried { ended: 5, served: 4, service_us: 10, service_us2: u64::MAX, late: 1, streams: 2 };
        one.report(&some, Present { in_service: 3, queued: 2, streams_open: 1 }, 50);
        two.report(&some, Present { in_service: 1, queued: 0, streams_open: 0 }, 40);
        one.report(&Carried::default(), Present { in_service: 4, queued: 1, streams_open: 1 }, 30);
        let (carried, present, named) = others.read();
        assert_eq!((carried.ended, carried.service_us2, carried.since(&some)), (10, u64::MAX - 1, some));
        assert_eq!((present, named), (Present { in_service: 5, queued: 1, streams_open: 1 }, 50));
        drop(one);
        let (carried, present, named) = others.read();
        assert_eq!(present, Present { in_service: 1, queued: 0, streams_open: 0 });
        assert_eq!((carried.ended, named), (15, 50), "five were there and are not any more");
        two.report(&Carried::default(), Present::default(), 0);
        drop(two);
        assert_eq!(others.read().0.ended, 15);
    }
}
