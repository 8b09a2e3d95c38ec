//! Descriptors: accepting leaves some for what accepted connections need themselves, for files and the admin API, and pauses
//! instead of spinning where there are none.
//!
//! The kernel gives out the lowest number that is free, so the number of what was accepted says how many are in use. Nothing is
//! asked before that is close to the limit.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit};
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
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
        Self { first_kept: Cell::new(first_kept()), pause: Cell::new(FIRST_PAUSE), since: Cell::new(None) }
    }

    /// Returns whether what was accepted has one of the last numbers.
    pub(crate) fn is_near(&self, accepted: &impl AsRawFd) -> bool {
        u64::try_from(accepted.as_raw_fd()).is_ok_and(|number| number >= self.first_kept.get())
    }

    /// Returns whether so many are free again that accepting may go on. The limit may have been changed meanwhile.
    pub(crate) fn has_passed(&self, any: BorrowedFd<'_>) -> bool {
        self.first_kept.set(first_kept());
        fcntl_dupfd_cloexec(any, 0).is_ok_and(|probe| !self.is_near(&probe.as_fd()))
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

fn first_kept() -> u64 {
    getrlimit(Resource::Nofile).current.map_or(u64::MAX, kept_of)
}

/// Returns the first number that is kept, of a limit.
fn kept_of(limit: u64) -> u64 {
    limit.saturating_sub((limit / SHARE).clamp(*LEFT.start(), *LEFT.end()))
}

#[cfg(test)]
mod tests {
    use super::{Shortage, kept_of};
    use crate::clock;
    use std::os::fd::AsFd;
    use std::time::Duration;

    #[test]
    fn some_are_left_of_any_limit() {
        assert_eq!([0, 8, 64, 256, 1024, 1 << 20].map(kept_of), [0, 0, 56, 240, 960, (1 << 20) - 1024]);
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
