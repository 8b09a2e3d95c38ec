//! When: pure functions of times. Renewal, back-off after failures, and how many orders an hour.
//!
//! All times are milliseconds since the Unix epoch, because certificates speak of the calendar.

use std::collections::VecDeque;

/// A minute.
const MINUTE_MS: u64 = 60_000;
/// An hour.
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// First wait after a failure; doubles with each further one. Let's Encrypt allows 5 failures an hour for a name.
const FIRST_WAIT_MS: u64 = MINUTE_MS;
/// Longest wait between two attempts.
const LONGEST_WAIT_MS: u64 = 6 * HOUR_MS;
/// Shortest wait when the authority said that there were too many orders.
const LIMITED_WAIT_MS: u64 = HOUR_MS;

/// When the authority wants a certificate to be renewed, RFC 9773 §4.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// It begins.
    pub start_ms: u64,
    /// It ends.
    pub end_ms: u64,
}

/// Returns when to renew a certificate: at its own point of the authority's window, else at 2/3 of its lifetime, spread
/// over the 2 % before that. `fingerprint` chooses the point, so that it is the same after a restart.
pub(crate) fn renew_at(not_before_ms: u64, not_after_ms: u64, window: Option<Window>, fingerprint: u64) -> u64 {
    match window {
        // RFC 9773 §4.2: a uniformly random time within the window.
        Some(Window { start_ms, end_ms }) => start_ms + part(end_ms.saturating_sub(start_ms), fingerprint),
        None => {
            let lifetime = not_after_ms.saturating_sub(not_before_ms);
            (not_before_ms + lifetime / 3 * 2).saturating_sub(part(lifetime / 50, fingerprint))
        }
    }
}

/// Returns the share of a span that a fingerprint chooses, from 0 up to the span.
fn part(span: u64, fingerprint: u64) -> u64 {
    u64::try_from((u128::from(span) * u128::from(fingerprint)) >> 64).unwrap_or(span)
}

/// Returns the wait after this many failures in a row: a minute, doubling to six hours, ± 20 %; `unit` is a random number
/// from 0 to 1.
pub(crate) fn back_off_ms(failures: u32, is_limited: bool, unit: f64) -> u64 {
    let doubled = FIRST_WAIT_MS.saturating_mul(1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
    let base = doubled.min(LONGEST_WAIT_MS).max(if is_limited { LIMITED_WAIT_MS } else { 0 });
    let share = (unit.clamp(0.0, 1.0) * 400.0) as u64;
    base / 1000 * (800 + share)
}

/// How many orders for unexpected names there may be within any hour.
#[derive(Debug, Clone)]
pub(crate) struct Rate {
    per_hour: usize,
    begun_ms: VecDeque<u64>,
}

impl Rate {
    /// Makes a cap that has already counted the given times.
    pub(crate) fn new(per_hour: usize, begun_ms: impl IntoIterator<Item = u64>) -> Self {
        let mut begun: Vec<u64> = begun_ms.into_iter().collect();
        begun.sort_unstable();
        let skip = begun.len().saturating_sub(per_hour);
        Self { per_hour, begun_ms: begun.into_iter().skip(skip).collect() }
    }

    /// Counts one more, or refuses it.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        // What lies in the future was counted before the clock was set back.
        self.begun_ms.retain(|at| *at <= now_ms && now_ms - at < HOUR_MS);
        let is_free = self.begun_ms.len() < self.per_hour;
        if is_free {
            self.begun_ms.push_back(now_ms);
        }
        is_free
    }
}

#[cfg(test)]
mod tests {
    use super::{HOUR_MS, LONGEST_WAIT_MS, Rate, Window, back_off_ms, renew_at};
    use proptest::prelude::{any, prop_assert, proptest};

    #[test]
    fn without_a_window_it_is_renewed_just_before_two_thirds() {
        assert_eq!(renew_at(1_000, 91_000, None, 0), 61_000);
        assert_eq!(renew_at(1_000, 91_000, None, u64::MAX), 61_000 - 1_799);
    }

    #[test]
    fn a_failure_waits_twice_as_long_as_the_one_before() {
        let middle: Vec<u64> = (1..=10).map(|n| back_off_ms(n, false, 0.5) / 60_000).collect();
        assert_eq!(middle, [1, 2, 4, 8, 16, 32, 64, 128, 256, 360]);
        assert_eq!(back_off_ms(u32::MAX, false, 0.5), LONGEST_WAIT_MS);
        assert_eq!((back_off_ms(1, false, 0.0), back_off_ms(1, false, 1.0)), (48_000, 72_000));
        assert_eq!(back_off_ms(1, true, 0.5), HOUR_MS);
        // Five failures an hour are allowed: the sixth attempt comes later than half an hour, also without luck.
        assert!((1..=5).map(|n| back_off_ms(n, false, 0.0)).sum::<u64>() > HOUR_MS / 3);
    }

    #[test]
    fn an_hour_has_room_for_so_many_and_no_more() {
        let mut rate = Rate::new(2, [5_000]);
        assert!(rate.take(6_000));
        assert!(!rate.take(7_000));
        assert!(!rate.take(4_999 + HOUR_MS));
        assert!(rate.take(5_000 + HOUR_MS));
        assert!(!rate.take(5_001 + HOUR_MS));
        assert!(!Rate::new(0, []).take(1));
        // A clock that was set back does not lock it.
        assert!(rate.take(1_000));
    }

    proptest! {
        #[test]
        fn a_renewal_lies_in_the_window_and_in_the_lifetime(
            begin in 0..2_000_000_000_000_u64, lifetime in 0..400 * 24 * HOUR_MS, start in 0..2_000_000_000_000_u64,
            length in 0..30 * 24 * HOUR_MS, fingerprint in any::<u64>()
        ) {
            let window = Window { start_ms: start, end_ms: start + length };
            let inside = renew_at(begin, begin + lifetime, Some(window), fingerprint);
            prop_assert!((window.start_ms..=window.end_ms).contains(&inside));
            let plain = renew_at(begin, begin + lifetime, None, fingerprint);
            prop_assert!((begin..=begin + lifetime).contains(&plain));
        }

        #[test]
        fn a_rate_is_never_exceeded(cap in 0..6_usize, steps in proptest::collection::vec(0..30 * 60_000_u64, 1..60)) {
            let (mut rate, mut now, mut taken) = (Rate::new(cap, []), 1, Vec::new());
            for step in steps {
                now += step;
                if rate.take(now) {
                    taken.push(now);
                }
                prop_assert!(taken.iter().filter(|at| now - **at < HOUR_MS).count() <= cap);
            }
        }
    }
}
