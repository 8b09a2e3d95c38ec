//! When a replica that ended is started again: at once, later, or not for a while.
//!
//! Counted for each slot, that is for each wanted copy with its successors, so that one bad copy does not hold back the
//! others. The first restart is immediate, then 1 s · 2ⁿ up to 60 s; five exits in 60 s are a quarantine. A quarantine
//! lasts 60 s and ends in one try, whose exit begins the next one; so a service that was broken for a night heals by
//! itself, at the price of one start a minute. Scaling or changing the definition forgets everything at once.
//!
//! A replica that was ready and is killed from outside (SIGKILL, SIGTERM, SIGINT, SIGHUP) has not failed by itself: it is
//! replaced at once and not counted, up to a bound, because the kernel out of memory kills the same way.

use std::collections::VecDeque;

/// Exits are counted over this time, and a replica ready for so long has proved itself.
const WINDOW_MS: u64 = 60_000;
/// Exits within [`WINDOW_MS`] that begin a quarantine.
const QUARANTINE_EXITS: usize = 5;
/// First delay after the immediate restart.
const FIRST_DELAY_MS: u64 = 1_000;
/// Longest delay, and the length of a quarantine.
const MAX_DELAY_MS: u64 = 60_000;
/// Kills from outside within [`WINDOW_MS`] that are not counted as exits.
const MAX_FORGIVEN: usize = 30;

/// How a replica ended, as far as it matters for its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It could not be started because what starts it is away: its own doing in no way.
    Away,
    /// It could not be started, and trying again is of no use before something changes.
    Unstartable,
    /// It ended by itself, ready or not; since when it was ready, in milliseconds of `clock::now_ms`.
    ByItself {
        /// `None`: it was never ready.
        ready_ms: Option<u64>,
    },
    /// Somebody killed it while it was ready.
    Killed {
        /// Since when it was ready.
        ready_ms: u64,
    },
}

/// When the successor may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// After so many milliseconds.
    After(u64),
    /// After the quarantine, in so many milliseconds.
    Quarantined(u64),
}

/// The exits of one slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Times of counted exits within the window, oldest first; at most [`QUARANTINE_EXITS`].
    exits: VecDeque<u64>,
    /// Times of forgiven kills within the window, oldest first; at most [`MAX_FORGIVEN`].
    forgiven: VecDeque<u64>,
    /// Counted exits since the last time that a replica proved itself.
    failures: u32,
    /// Set by a quarantine until a replica has proved itself.
    on_probation: bool,
    blocked_until_ms: u64,
}

impl Restarts {
    /// Notes an end and returns when the successor may start.
    pub fn ended(&mut self, ending: Ending, now_ms: u64) -> Next {
        let ready_ms = match ending {
            Ending::Away => {
                self.blocked_until_ms = now_ms.saturating_add(FIRST_DELAY_MS);
                return Next::After(FIRST_DELAY_MS);
            }
            Ending::Unstartable => return self.quarantine(now_ms),
            Ending::ByItself { ready_ms } => ready_ms,
            Ending::Killed { ready_ms } => Some(ready_ms),
        };
        if ready_ms.is_some_and(|ready_ms| now_ms.saturating_sub(ready_ms) >= WINDOW_MS) {
            *self = Self::default();
        }
        if matches!(ending, Ending::Killed { .. }) && note(&mut self.forgiven, MAX_FORGIVEN, now_ms) <= MAX_FORGIVEN {
            return Next::Now;
        }
        self.failures = self.failures.saturating_add(1);
        if note(&mut self.exits, QUARANTINE_EXITS, now_ms) >= QUARANTINE_EXITS || self.on_probation {
            return self.quarantine(now_ms);
        }
        match self.failures.checked_sub(2) {
            None => Next::Now,
            Some(exponent) => {
                let delay_ms = FIRST_DELAY_MS.saturating_mul(1 << exponent.min(16)).min(MAX_DELAY_MS);
                self.blocked_until_ms = now_ms.saturating_add(delay_ms);
                Next::After(delay_ms)
            }
        }
    }

    /// Returns until when no start is due, in milliseconds of `clock::now_ms`; a time that has passed blocks nothing.
    pub fn blocked_until_ms(&self) -> u64 {
        self.blocked_until_ms
    }

    /// Returns true while the slot is in quarantine.
    pub fn is_quarantined(&self, now_ms: u64) -> bool {
        self.on_probation && now_ms < self.blocked_until_ms
    }

    fn quarantine(&mut self, now_ms: u64) -> Next {
        self.on_probation = true;
        self.blocked_until_ms = now_ms.saturating_add(MAX_DELAY_MS);
        Next::Quarantined(MAX_DELAY_MS)
    }
}

/// Adds a time, forgets those before the window, and returns how many there are, counted up to one above `most`.
fn note(times: &mut VecDeque<u64>, most: usize, now_ms: u64) -> usize {
    while times.front().is_some_and(|at| now_ms.saturating_sub(*at) >= WINDOW_MS) {
        times.pop_front();
    }
    times.push_back(now_ms);
    let count = times.len();
    if count > most {
        times.pop_front();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::{Ending, Next, Restarts};

    const EARLY: Ending = Ending::ByItself { ready_ms: None };

    #[test]
    fn the_first_restart_is_immediate_then_delays_double_until_the_quarantine() {
        let mut restarts = Restarts::default();
        let mut now = 1_000;
        for expected in
            [Next::Now, Next::After(1_000), Next::After(2_000), Next::After(4_000), Next::Quarantined(60_000)]
        {
            assert_eq!(restarts.ended(EARLY, now), expected);
            now = now.max(restarts.blocked_until_ms()) + 10;
        }
        assert!(!restarts.is_quarantined(now));
    }

    #[test]
    fn slow_exits_reach_the_longest_delay_without_a_quarantine() {
        let mut restarts = Restarts::default();
        let mut now = 1_000;
        let mut delays = Vec::new();
        for _ in 0..10 {
            match restarts.ended(EARLY, now) {
                Next::Now => {}
                Next::After(delay) => delays.push(delay),
                Next::Quarantined(_) => panic!("{delays:?}"),
            }
            now = now.max(restarts.blocked_until_ms()) + 16_000;
        }
        assert_eq!(delays, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn a_quarantine_ends_in_one_try() {
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.ended(EARLY, 1_000);
        }
        assert!(restarts.is_quarantined(60_999) && !restarts.is_quarantined(61_000));
        assert_eq!(restarts.blocked_until_ms(), 61_000);
        assert_eq!(restarts.ended(EARLY, 200_000), Next::Quarantined(60_000));
        let proved = Ending::ByItself { ready_ms: Some(300_000) };
        assert_eq!(restarts.ended(proved, 360_000), Next::Now);
        assert_eq!(restarts.ended(EARLY, 360_100), Next::After(1_000));
    }

    #[test]
    fn what_cannot_be_started_is_quarantined_at_once() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.ended(Ending::Unstartable, 5), Next::Quarantined(60_000));
        assert!(restarts.is_quarantined(6));
    }

    #[test]
    fn a_ready_replica_that_was_killed_is_replaced_at_once_up_to_a_bound() {
        let mut restarts = Restarts::default();
        for kill in 0..30 {
            assert_eq!(restarts.ended(Ending::Killed { ready_ms: 1_000 + kill }, 1_500 + kill), Next::Now);
        }
        assert_eq!(restarts.ended(Ending::Killed { ready_ms: 2_000 }, 2_500), Next::Now);
        assert_eq!(restarts.ended(Ending::Killed { ready_ms: 2_000 }, 2_600), Next::After(1_000));
        assert_eq!(restarts.ended(Ending::Killed { ready_ms: 70_000 }, 70_001), Next::Now);
    }
}
