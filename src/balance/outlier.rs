//! Passive ejection: what a worker learns from a request it made itself, applied on that very request.
//!
//! Rules: a refused or reset connection and a truncated answer eject at once; gateway errors (502-504) and other server
//! errors eject after a number in a row. The ejection doubles from `base` to `max`; at most half of the endpoints
//! (rounded down) are ejected at a time. A passing active check alone does not lift it.

use crate::balance::Candidate;
use crate::model::Outliers;
use std::sync::atomic::Ordering;

/// What went wrong at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Refused, reset or timed out while connecting; reset while waiting; truncated answer.
    Transport,
    /// An answer 502, 503 or 504.
    Gateway,
    /// Another answer above 499.
    Server,
}

/// An ejection that lasted this much longer than its end without a new failure starts over at `base`.
const FORGIVE_FACTOR: u64 = 10;

/// Feeds the outcome of a request: `None` for a success. Returns the length of an ejection in ms when it caused one.
pub fn observe(
    candidates: &[Candidate],
    index: usize,
    failure: Option<Failure>,
    rule: &Outliers,
    now_ms: u64,
) -> Option<u64> {
    let stats = &candidates.get(index)?.stats;
    let Some(failure) = failure else {
        stats.succeeded();
        return None;
    };
    stats.count_failure();
    let crossed = match failure {
        Failure::Transport => true,
        Failure::Gateway => stats.gateway_errors.fetch_add(1, Ordering::Relaxed) + 1 >= rule.gateway_errors,
        Failure::Server => stats.server_errors.fetch_add(1, Ordering::Relaxed) + 1 >= rule.server_errors,
    };
    if !rule.enabled || !crossed || stats.is_ejected(now_ms) {
        return None;
    }
    let ejected = candidates.iter().filter(|c| c.stats.is_ejected(now_ms)).count();
    if ejected + 1 > candidates.len() / 2 {
        return None;
    }
    Some(eject(stats, rule, now_ms))
}

fn eject(stats: &crate::balance::EndpointStats, rule: &Outliers, now_ms: u64) -> u64 {
    let base = u64::try_from(rule.base.as_millis()).unwrap_or(u64::MAX).max(1);
    let max = u64::try_from(rule.max.as_millis()).unwrap_or(u64::MAX).max(base);
    let last_end = stats.ejected_until_ms();
    let mut count = stats.ejections.load(Ordering::Relaxed);
    let last_length = base.saturating_mul(1u64 << count.saturating_sub(1).min(32)).min(max);
    if count > 0 && now_ms.saturating_sub(last_end) > last_length.saturating_mul(FORGIVE_FACTOR) {
        count = 0;
    }
    let length = base.saturating_mul(1u64 << count.min(32)).min(max);
    stats.ejections.store(count + 1, Ordering::Relaxed);
    stats.eject_until(now_ms + length);
    stats.gateway_errors.store(0, Ordering::Relaxed);
    stats.server_errors.store(0, Ordering::Relaxed);
    length
}

#[cfg(test)]
mod tests {
    use super::{Failure, observe};
    use crate::balance::{Candidate, EndpointStats};
    use crate::model::Outliers;
    use std::sync::Arc;
    use std::time::Duration;

    const RULE: Outliers = Outliers {
        enabled: true,
        gateway_errors: 3,
        server_errors: 5,
        base: Duration::from_secs(1),
        max: Duration::from_secs(30),
    };

    fn candidates(n: usize) -> Vec<Candidate> {
        (0..n)
            .map(|_| Candidate { stats: Arc::new(EndpointStats::new()), weight: 1, healthy: true, ready_ms: 0 })
            .collect()
    }

    #[test]
    fn ejects_at_once_on_a_transport_failure_and_doubles_up_to_the_maximum() {
        let all = candidates(4);
        let mut now = 1000;
        let mut lengths = Vec::new();
        for _ in 0..7 {
            let length = observe(&all, 0, Some(Failure::Transport), &RULE, now).unwrap();
            assert!(all[0].stats.is_ejected(now + length - 1) && !all[0].stats.is_ejected(now + length));
            lengths.push(length);
            now += length;
        }
        assert_eq!(lengths, [1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(observe(&all, 0, Some(Failure::Transport), &RULE, now + 400_000), Some(1000));
    }

    #[test]
    fn ejects_after_consecutive_errors_and_a_success_starts_the_count_again() {
        let all = candidates(2);
        for _ in 0..2 {
            assert_eq!(observe(&all, 0, Some(Failure::Gateway), &RULE, 10), None);
        }
        observe(&all, 0, None, &RULE, 10);
        for _ in 0..2 {
            assert_eq!(observe(&all, 0, Some(Failure::Gateway), &RULE, 10), None);
        }
        assert!(observe(&all, 0, Some(Failure::Gateway), &RULE, 10).is_some());
        for n in 1..=5 {
            assert_eq!(observe(&all, 1, Some(Failure::Server), &RULE, 5000).is_some(), n == 5);
        }
    }

    #[test]
    fn never_ejects_more_than_half() {
        let all = candidates(3);
        assert!(observe(&all, 0, Some(Failure::Transport), &RULE, 1).is_some());
        assert!(observe(&all, 1, Some(Failure::Transport), &RULE, 1).is_none());
        let one = candidates(1);
        assert!(observe(&one, 0, Some(Failure::Transport), &RULE, 1).is_none());
    }

    #[test]
    fn counts_but_does_not_eject_when_disabled() {
        let all = candidates(2);
        let off = Outliers { enabled: false, ..RULE };
        assert!(observe(&all, 0, Some(Failure::Transport), &off, 1).is_none());
        assert_eq!(all[0].stats.failures(), 1);
    }
}
