//! Descriptors: accepting leaves some for what accepted connections need themselves, for files and the admin API, and pauses
//! instead of spinning where there are none.
//!
//! The kernel gives out the lowest number that is free, so the number of what was accepted says how many are in use. Nothing is
//! asked before that is close to the limit.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};
use std::cell::Cell;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// One in so many is left: a connection to an endpoint for some of the clients, where few share one.
const SHARE: u64 = 16;
/// Bounds on how many are left. Eight: admin connections, files of the log and the store.
const LEFT: std::ops::RangeInclusive<u64> = 8..=1024;
/// The first pause; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause: so long a client waits at most once there are descriptors again.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What one accept loop knows.
#[derive(Debug)]
pub(crate) struct Shortage {
    /// From this number on too few are left.
    first_kept: Cell<u64>,
    pause: Cell<Duration>,
    since: Cell<Option<Instant>>,
}

impl Shortage {
    pub(crate) fn new() -> Self {
        Self { first_kept: Cell::new(kept_of(limit())), pause: Cell::new(FIRST_PAUSE), since: Cell::new(None) }
    }

    /// Returns whether what was accepted has one of the last numbers.
    pub(crate) fn is_near(&self, accepted: &impl AsRawFd) -> bool {
        u64::try_from(accepted.as_raw_fd()).is_ok_and(|number| number >= self.first_kept.get())
    }

    /// Returns whether so many are free again that accepting may go on: half as many more than are left, so that it does not
    /// begin and end with each one that is closed. The limit may have been changed meanwhile.
    pub(crate) fn has_passed(&self, any: BorrowedFd<'_>) -> bool {
        let limit = limit();
        self.first_kept.set(kept_of(limit));
        let free = |number: u64| number < resumed_below(limit);
        fcntl_dupfd_cloexec(any, 0).is_ok_and(|probe| u64::try_from(probe.as_raw_fd()).is_ok_and(free))
    }

    /// Returns how long to pause now; `true`: it is the first pause of this shortage.
    pub(crate) fn begin(&self, now: Instant) -> (Duration, bool) {
        let pause = self.pause.get();
        self.pause.set((pause * 2).min(LAST_PAUSE));
        let first = self.since.get().is_none();
        if first {
            self.since.set(Some(now));
        }
        (pause, first)
    }

    /// Accepting goes on as ever; returns how long that was not so, where the time is told.
    pub(crate) fn end(&self, now: Option<Instant>) -> Option<Duration> {
        let since = self.since.take()?;
        self.pause.set(FIRST_PAUSE);
        now.map(|now| now.saturating_duration_since(since))
    }
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns how many flows of datagrams one of so many workers may have: half of the process's descriptors are for everything else,
/// as anybody can make flows in any number of names.
pub(crate) fn for_flows(workers: usize) -> usize {
    let half = usize::try_from(limit() / 2).unwrap_or(usize::MAX);
    half.div_ceil(workers.max(1))
}

fn left_of(limit: u64) -> u64 {
    (limit / SHARE).clamp(*LEFT.start(), *LEFT.end())
}

/// Returns the first number that is kept, of a limit.
fn kept_of(limit: u64) -> u64 {
    limit.saturating_sub(left_of(limit))
}

/// Returns the number that says, where a lower one is free, that a shortage is over.
fn resumed_below(limit: u64) -> u64 {
    kept_of(limit).saturating_sub(left_of(limit) / 2)
}

#[cfg(test)]
mod tests {
    use super::{Shortage, kept_of, resumed_below};
    use crate::clock;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn some_are_left_of_any_limit() {
        assert_eq!([0, 8, 64, 256, 1024, 1 << 20].map(kept_of), [0, 0, 56, 240, 960, (1 << 20) - 1024]);
        assert_eq!([64, 256, 1024, 1 << 20].map(resumed_below), [52, 232, 928, (1 << 20) - 1536]);
    }

    #[test]
    fn pauses_grow_to_a_second_and_begin_anew() {
        let (shortage, now) = (Shortage::new(), clock::now());
        let pauses: Vec<_> = (0..9).map(|_| shortage.begin(now)).map(|(pause, _)| pause.as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(shortage.end(Some(now + Duration::from_secs(3))), Some(Duration::from_secs(3)));
        assert_eq!(shortage.end(Some(now)), None);
        assert_eq!(shortage.begin(now), (Duration::from_millis(10), true));
        assert!(!shortage.begin(now).1);
    }

    #[test]
    fn numbers_say_what_is_left() {
        let (shortage, file) = (Shortage::new(), std::fs::File::open("/dev/null").unwrap());
        assert!(!shortage.is_near(&file));
        shortage.first_kept.set(3);
        assert!(shortage.is_near(&file));
        assert!(shortage.has_passed(file.as_fd()), "the limit is read again");
    }
}
