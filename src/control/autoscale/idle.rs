//! When a service that may have no replica is to have none: how long its pauses last.
//!
//! The pauses that outlasted the stabilization window are counted by their length, the newest most. The replica is kept for
//! as long as nineteen of twenty pauses lasted, at most ten minutes; where hardly any pause ends for long, it goes at once
//! and comes back before the next request is expected (Shahrad et al., "Serverless in the Wild", 2020). Pure: times come
//! in, a verdict goes out.

/// Lengths that are told apart: each so much longer than the one before, from a second to two hours and more.
const BUCKETS: usize = 50;
const GROWTH: f64 = 1.2;
/// What an older pause still counts when a new one ends, and how much must have been counted to tell: four pauses.
const KEPT: f32 = 0.95;
const FEWEST: f32 = 3.0;
/// The shares of pauses that end before and after.
const EARLY: f32 = 0.05;
const MOST: f32 = 0.95;
/// Longest time that a replica is kept for nobody, seconds.
const LONGEST_S: f64 = 600.0;
/// A rest shorter than that is not worth a start, seconds.
const SHORTEST_REST_S: f64 = 300.0;

/// The pauses of one service.
#[derive(Debug, Clone)]
pub(super) struct Idle {
    /// When it was used last.
    used_ms: u64,
    pauses: [f32; BUCKETS],
}

/// How long a replica is kept in a pause, and when it is to be there again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Keep {
    /// From the last use until it goes, seconds.
    pub(super) for_s: f64,
    /// From when until when it is there again, although nobody has come, seconds after the last use.
    pub(super) again_s: Option<(f64, f64)>,
}

impl Keep {
    /// Returns whether there is to be no replica so long after the last use.
    pub(super) fn rests(&self, idle_s: f64) -> bool {
        let is_expected = self.again_s.is_some_and(|(from, until)| idle_s >= from && idle_s < until);
        idle_s >= self.for_s && !is_expected
    }
}

impl Idle {
    /// Begins as if it were used now.
    pub(super) fn new(now_ms: u64) -> Self {
        Self { used_ms: now_ms, pauses: [0.0; BUCKETS] }
    }

    /// Says that it is used now; a pause that lasted at least `window_s` ends and is counted.
    pub(super) fn used(&mut self, window_s: f64, now_ms: u64) {
        let pause_s = self.idle_s(now_ms);
        self.used_ms = self.used_ms.max(now_ms);
        if pause_s >= window_s {
            self.pauses.iter_mut().for_each(|count| *count *= KEPT);
            if let Some(count) = self.pauses.get_mut(bucket(pause_s)) {
                *count += 1.0;
            }
        }
    }

    /// Returns for how long nobody has used it, seconds.
    pub(super) fn idle_s(&self, now_ms: u64) -> f64 {
        now_ms.saturating_sub(self.used_ms) as f64 / 1000.0
    }

    /// Returns what its pauses advise, with a stabilization window of `window_s` and replicas that are ready `ahead_s` after
    /// their order.
    pub(super) fn keep(&self, window_s: f64, ahead_s: f64) -> Keep {
        let (Some(early_s), Some(most_s)) = (self.quantile(EARLY, 0), self.quantile(MOST, 1)) else {
            return Keep { for_s: window_s, again_s: None };
        };
        let from_s = early_s - ahead_s;
        if from_s > window_s + SHORTEST_REST_S {
            let until_s = most_s.min(from_s + LONGEST_S);
            return Keep { for_s: window_s, again_s: Some((from_s, until_s)) };
        }
        Keep { for_s: most_s.min(LONGEST_S).max(window_s), again_s: None }
    }

    /// Returns the lower (0) or upper (1) bound of the lengths that hold a share of the pauses; `None` while too few are
    /// known.
    fn quantile(&self, share: f32, bound: u32) -> Option<f64> {
        let all: f32 = self.pauses.iter().sum();
        if all < FEWEST {
            return None;
        }
        let mut below = 0.0;
        let at = self.pauses.iter().position(|count| {
            below += count;
            // A hair: the sum of floats is not exact.
            below >= share * all - 1e-4 && *count > 0.0
        })?;
        Some(GROWTH.powi(i32::try_from(at as u32 + bound).unwrap_or(i32::MAX)))
    }
}

/// Returns where a pause is counted.
fn bucket(pause_s: f64) -> usize {
    let at = pause_s.max(1.0).ln() / GROWTH.ln();
    (at as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, GROWTH, Idle, Keep, bucket};

    const WINDOW_S: f64 = 20.0;
    const AHEAD_S: f64 = 7.5;

    /// Uses it after each of these pauses, in seconds.
    fn after(pauses: &[u64]) -> Idle {
        let mut now_ms = 1_000_000;
        let mut idle = Idle::new(now_ms);
        for pause in pauses {
            now_ms += pause * 1000;
            idle.used(WINDOW_S, now_ms);
            assert!(idle.idle_s(now_ms).abs() < 1e-9);
        }
        idle
    }

    fn keep(pauses: &[u64]) -> Keep {
        after(pauses).keep(WINDOW_S, AHEAD_S)
    }

    #[test]
    fn every_length_has_its_bucket() {
        for at in 0..BUCKETS {
            let from = GROWTH.powi(at as i32);
            assert_eq!(bucket(from * 1.01), at);
            assert_eq!(bucket(from * 1.19), at);
        }
        assert_eq!((bucket(0.0), bucket(1.0), bucket(1e9)), (0, 0, BUCKETS - 1));
    }

    #[test]
    fn without_experience_the_window_decides() {
        let window = Keep { for_s: WINDOW_S, again_s: None };
        assert_eq!(keep(&[]), window);
        assert_eq!(keep(&[60, 60, 60]), window, "three pauses are too few");
        assert_eq!(keep(&[5; 100]), window, "pauses within the window decide nothing");
        assert!(window.rests(20.0) && window.rests(1e9) && !window.rests(19.9));
    }

    #[test]
    fn pauses_that_mostly_end_soon_are_waited_out() {
        for (pause, slack) in [(21, 1.2), (60, 1.2), (150, 1.2), (300, 1.2)] {
            let kept = keep(&[pause; 4]);
            assert_eq!(kept.again_s, None, "{pause}");
            let pause = pause as f64;
            assert!(kept.for_s >= pause && kept.for_s <= pause * slack, "{pause} {kept:?}");
        }
        // One in ten is far longer: not waited out for more than ten minutes.
        let mixed: Vec<u64> = (0..40).map(|n| if n % 10 == 9 { 5000 } else { 45 }).collect();
        assert_eq!(keep(&mixed), Keep { for_s: 600.0, again_s: None });
    }

    #[test]
    fn long_pauses_are_slept_through_and_their_end_is_expected() {
        let kept = keep(&[1800; 10]);
        let Some((from, until)) = kept.again_s else { panic!("{kept:?}") };
        assert!(from <= 1800.0 - AHEAD_S && until > 1800.0 && until <= from + 600.0, "{kept:?}");
        assert!((kept.for_s - WINDOW_S).abs() < 1e-9);
        for (idle_s, rests) in [(0.0, false), (19.0, false), (20.0, true), (from - 1.0, true), (from, false)] {
            assert_eq!(kept.rests(idle_s), rests, "{idle_s}");
        }
        assert!(!kept.rests(1800.0) && kept.rests(until) && kept.rests(100_000.0), "{kept:?}");
    }

    #[test]
    fn what_changed_is_learned_anew() {
        let changed: Vec<u64> = std::iter::repeat_n(1800, 50).chain(std::iter::repeat_n(60, 70)).collect();
        let kept = keep(&changed);
        assert!(kept.for_s < 75.0 && kept.again_s.is_none(), "{kept:?}");
    }

    /// For all sorts of pauses: never gone within the window, gone in the end, and no rest that is not worth a start.
    #[test]
    fn bounds_hold_whatever_the_pauses_are() {
        let mut rng = crate::rng::Rng::from_seed(7);
        for round in 0..2000 {
            let count = rng.next_u64() % 30;
            let most = 1 + rng.next_u64() % 10_000;
            let pauses: Vec<u64> = (0..count).map(|_| 1 + rng.next_u64() % most).collect();
            let window_s = 1.0 + (rng.next_u64() % 300) as f64;
            let ahead_s = 2.0 + (rng.next_u64() % 60) as f64;
            let kept = after(&pauses).keep(window_s, ahead_s);
            assert!(kept.for_s >= window_s && kept.for_s <= window_s.max(600.0), "round {round}: {kept:?} {pauses:?}");
            if let Some((from, until)) = kept.again_s {
                assert!(from - kept.for_s >= 300.0 && until <= from + 600.0, "round {round}: {kept:?} {pauses:?}");
            }
            assert!(!kept.rests(0.0) && kept.rests(20_000.0), "round {round}: {kept:?} {pauses:?}");
        }
    }
}
