//! The picker: one closed enum of policies, a worker's own state beside it.
//!
//! [`Picker`] is immutable and part of the snapshot; what changes with each pick lives in [`Local`], one per worker and
//! service, so that workers share nothing but the in-flight counts. A pick costs O(1) for most policies and at most
//! O(n) for the scans; it never allocates.

use crate::balance::Candidate;
use crate::balance::expected_delay::Tokens;
use crate::model::Policy;
use crate::rng::Rng;
use std::time::Duration;

/// Endpoints that this request tried already; no request makes more attempts than this holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tried {
    serials: [u64; 6],
    len: u8,
}

impl Tried {
    /// Adds an endpoint by its serial; beyond six the oldest is overwritten.
    pub fn push(&mut self, serial: u64) {
        let slot = usize::from(self.len) % self.serials.len();
        if let Some(place) = self.serials.get_mut(slot) {
            *place = serial;
        }
        self.len = self.len.saturating_add(1);
    }

    /// Returns the number of endpoints that were tried.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Returns whether none was tried.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether the endpoint was tried.
    pub fn contains(&self, serial: u64) -> bool {
        self.serials.iter().take(usize::from(self.len)).any(|&s| s == serial)
    }
}

/// The policy of a service with what it precomputes; immutable.
#[derive(Debug, Clone, Copy)]
pub struct Picker {
    policy: Policy,
    slow_start_ms: u64,
    concurrency: Option<u32>,
}

/// A worker's own state for one service; follows the service's endpoints by serial number.
#[derive(Debug, Default)]
pub struct Local {
    position: usize,
    /// Smooth weighted round robin: the current weight of each candidate.
    credit: Vec<f64>,
    pub(crate) tokens: Tokens,
    serials: Vec<u64>,
}

impl Local {
    /// Follows a change of the candidates: what is known of those that stay is kept. O(n), once per change.
    pub fn follow(&mut self, candidates: &[Candidate], rng: &mut Rng) {
        let previous = std::mem::take(&mut self.serials);
        let old = |serial: u64| previous.iter().position(|&s| s == serial);
        let map: Vec<Option<usize>> = candidates.iter().map(|c| old(c.stats.serial())).collect();
        self.credit = map.iter().map(|m| m.and_then(|i| self.credit.get(i).copied()).unwrap_or(0.0)).collect();
        self.tokens.follow(&map);
        self.serials = candidates.iter().map(|c| c.stats.serial()).collect();
        if previous.is_empty() {
            // A random phase: workers that start together must not send their first cycle to the same endpoints.
            self.position = rng.below(candidates.len().max(1));
        }
    }

    /// Returns whether it has not followed any candidates yet.
    pub fn is_new(&self) -> bool {
        self.serials.is_empty()
    }

    /// Exports the expected delay of each candidate to its counters, for people; the candidates must be the ones that it
    /// followed last. O(n): for a coarse tick, not for a request.
    pub fn export(&self, candidates: &[Candidate], now_ms: u64) {
        if self.serials.len() != candidates.len() {
            return;
        }
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.stats.set_delay_us(self.tokens.score(index, candidate, now_ms).0 as u32);
        }
    }

    /// Feeds the latency of an answered request, in microseconds; returns the average now.
    pub fn observe(&mut self, serial: u64, latency_us: u64, failed: bool, now_ms: u64) -> Option<u32> {
        let index = self.serials.iter().position(|&s| s == serial)?;
        Some(self.tokens.observe(index, latency_us, failed, now_ms))
    }
}

impl Picker {
    /// Returns the picker of a policy.
    pub fn new(policy: Policy, slow_start: Duration, concurrency: Option<u32>) -> Self {
        Self { policy, slow_start_ms: u64::try_from(slow_start.as_millis()).unwrap_or(u64::MAX), concurrency }
    }

    /// Returns the index of the chosen candidate, or `None` when each usable one was tried or is at its limit.
    pub fn pick(
        &self,
        candidates: &[Candidate],
        local: &mut Local,
        tried: &Tried,
        now_ms: u64,
        rng: &mut Rng,
    ) -> Option<usize> {
        if local.serials.len() != candidates.len() {
            local.follow(candidates, rng);
        }
        if let [only] = candidates {
            return self.is_free(only, tried).then_some(0);
        }
        let round = Round { picker: self, candidates, tried, now_ms, fail_open: false };
        match round.pick(local, rng) {
            None if !candidates.iter().any(|c| c.is_usable(now_ms)) => {
                Round { fail_open: true, ..round }.pick(local, rng)
            }
            found => found,
        }
    }

    /// Returns what the policy compares a candidate by, least first: milliseconds of expected delay, as a worker last
    /// exported them, or requests per weight with the next one; `None` for policies that go in turn.
    pub fn score(&self, candidate: &Candidate) -> Option<f64> {
        match self.policy {
            Policy::ExpectedDelay => Some(f64::from(candidate.stats.delay_us()) / 1000.0),
            Policy::LeastRequest | Policy::PowerOfTwo => {
                Some((f64::from(candidate.stats.in_flight()) + 1.0) / f64::from(candidate.weight.max(1)))
            }
            Policy::RoundRobin | Policy::Weighted => None,
        }
    }

    /// Returns the share of its weight that slow start grants: 0.1..=1.0, linear over the window.
    fn ramp(&self, candidate: &Candidate, now_ms: u64) -> f64 {
        let age = now_ms.saturating_sub(candidate.ready_ms);
        if age >= self.slow_start_ms { 1.0 } else { (age as f64 / self.slow_start_ms as f64).max(0.1) }
    }

    fn is_free(&self, candidate: &Candidate, tried: &Tried) -> bool {
        self.concurrency.is_none_or(|limit| candidate.stats.active() < limit)
            && !tried.contains(candidate.stats.serial())
    }

    /// Returns the same policy without a bound on requests in flight: for streams.
    pub fn without_limit(&self) -> Self {
        Self { concurrency: None, ..*self }
    }

    /// Returns the bound on requests in flight per endpoint.
    pub fn concurrency(&self) -> Option<u32> {
        self.concurrency
    }
}

/// One pick: the arguments that all policies share.
#[derive(Clone, Copy)]
pub(crate) struct Round<'a> {
    picker: &'a Picker,
    pub(crate) candidates: &'a [Candidate],
    tried: &'a Tried,
    pub(crate) now_ms: u64,
    fail_open: bool,
}

impl Round<'_> {
    fn pick(&self, local: &mut Local, rng: &mut Rng) -> Option<usize> {
        match self.picker.policy {
            Policy::RoundRobin => self.round_robin(local, rng),
            Policy::Weighted => self.weighted(local),
            Policy::LeastRequest => self.least_request(rng),
            Policy::PowerOfTwo => self.power_of_two(rng),
            Policy::ExpectedDelay => local.tokens.pick(self, rng).or_else(|| self.power_of_two(rng)),
        }
    }

    /// Returns whether the candidate may be picked in this round.
    pub(crate) fn admits(&self, index: usize) -> bool {
        self.candidates
            .get(index)
            .is_some_and(|c| (self.fail_open || c.is_usable(self.now_ms)) && self.picker.is_free(c, self.tried))
    }

    /// Slow start outside the weighted policies: a warming candidate is passed over with the probability it lacks.
    pub(crate) fn warms(&self, index: usize, rng: &mut Rng) -> bool {
        self.picker.slow_start_ms > 0
            && self.candidates.get(index).is_some_and(|c| {
                let share = self.picker.ramp(c, self.now_ms);
                share < 1.0 && rng.unit() >= share
            })
    }

    /// In turn; what is not admitted is skipped, what warms up is skipped by chance unless nothing else is there.
    fn round_robin(&self, local: &mut Local, rng: &mut Rng) -> Option<usize> {
        let n = self.candidates.len();
        let mut fallback = None;
        for step in 0..n {
            let index = (local.position + step) % n;
            if !self.admits(index) {
                continue;
            }
            if self.warms(index, rng) {
                fallback.get_or_insert(index);
                continue;
            }
            local.position = (index + 1) % n;
            return Some(index);
        }
        fallback
    }

    /// Smooth weighted round robin (nginx): raise each by its weight, take the highest, lower it by the total.
    fn weighted(&self, local: &mut Local) -> Option<usize> {
        let (mut total, mut best): (f64, Option<(usize, f64)>) = (0.0, None);
        for (index, candidate) in self.candidates.iter().enumerate() {
            if !self.admits(index) {
                continue;
            }
            let weight = f64::from(candidate.weight) * self.picker.ramp(candidate, self.now_ms);
            let credit = local.credit.get_mut(index)?;
            *credit += weight;
            total += weight;
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((index, *credit));
            }
        }
        let (index, _) = best?;
        *local.credit.get_mut(index)? -= total;
        Some(index)
    }

    /// Fewest in flight per weight; ties from a random start, so that equal ones share.
    fn least_request(&self, rng: &mut Rng) -> Option<usize> {
        let n = self.candidates.len();
        let start = rng.below(n);
        let (mut best, mut fallback): (Option<(usize, f64)>, Option<usize>) = (None, None);
        for step in 0..n {
            let index = (start + step) % n;
            if !self.admits(index) {
                continue;
            }
            if self.warms(index, rng) {
                fallback.get_or_insert(index);
                continue;
            }
            let load = self.load(index);
            if best.is_none_or(|(_, least)| load < least) {
                best = Some((index, load));
            }
        }
        best.map(|(index, _)| index).or(fallback)
    }

    /// Outstanding work relative to the candidate's weight.
    fn load(&self, index: usize) -> f64 {
        self.candidates
            .get(index)
            .map_or(f64::INFINITY, |c| (f64::from(c.stats.in_flight()) + 1.0) / f64::from(c.weight))
    }

    /// The less loaded of two random ones (Mitzenmacher 2001); a scan when chance finds no two admitted ones.
    fn power_of_two(&self, rng: &mut Rng) -> Option<usize> {
        let n = self.candidates.len();
        let mut first = None;
        for _ in 0..8 {
            let index = rng.below(n);
            if first == Some(index) || !self.admits(index) || self.warms(index, rng) {
                continue;
            }
            match first {
                None => first = Some(index),
                Some(other) => return Some(if self.load(index) < self.load(other) { index } else { other }),
            }
        }
        first.or_else(|| {
            let start = rng.below(n);
            (0..n).map(|step| (start + step) % n).find(|&index| self.admits(index))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Local, Picker, Tried};
    use crate::balance::{Candidate, EndpointStats};
    use crate::model::Policy;
    use crate::rng::Rng;
    use std::sync::Arc;
    use std::time::Duration;

    const ALL: [Policy; 5] =
        [Policy::RoundRobin, Policy::Weighted, Policy::LeastRequest, Policy::PowerOfTwo, Policy::ExpectedDelay];

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let one = |&weight| Candidate { stats: Arc::new(EndpointStats::new()), weight, healthy: true, ready_ms: 1 };
        weights.iter().map(one).collect()
    }

    fn counts(picker: &Picker, candidates: &[Candidate], now_ms: u64, picks: usize) -> Vec<usize> {
        let (mut local, mut rng, mut counts) = (Local::default(), Rng::from_seed(3), vec![0; candidates.len()]);
        for _ in 0..picks {
            let index = picker.pick(candidates, &mut local, &Tried::default(), now_ms, &mut rng).unwrap();
            local.observe(candidates[index].stats.serial(), 1000, false, now_ms);
            counts[index] += 1;
        }
        counts
    }

    fn plain(policy: Policy) -> Picker {
        Picker::new(policy, Duration::ZERO, None)
    }

    #[test]
    fn round_robin_is_exact_and_weighted_follows_the_weights() {
        assert_eq!(counts(&plain(Policy::RoundRobin), &candidates(&[1, 1, 1]), 10, 300), [100, 100, 100]);
        assert_eq!(counts(&plain(Policy::Weighted), &candidates(&[5, 1, 2]), 10, 800), [500, 100, 200]);
    }

    #[test]
    fn random_policies_spread_over_equal_endpoints() {
        for policy in [Policy::LeastRequest, Policy::PowerOfTwo, Policy::ExpectedDelay] {
            let counts = counts(&plain(policy), &candidates(&[1; 5]), 10, 5000);
            assert!(counts.iter().all(|&n| n > 500), "{policy:?} {counts:?}");
        }
    }

    #[test]
    fn load_aware_policies_avoid_the_loaded_endpoint() {
        for policy in [Policy::LeastRequest, Policy::PowerOfTwo, Policy::ExpectedDelay] {
            let all = candidates(&[1, 1]);
            let _load: Vec<_> = (0..50).map(|_| all[0].stats.begin()).collect();
            let counts = counts(&plain(policy), &all, 10, 1000);
            assert!(counts[0] < 20, "{policy:?} {counts:?}");
        }
    }

    #[test]
    fn no_policy_picks_what_is_unusable_tried_or_full() {
        for policy in ALL {
            let mut all = candidates(&[1; 4]);
            all[0].healthy = false;
            all[1].stats.eject_until(100);
            assert_eq!(counts(&plain(policy), &all, 50, 100)[..2], [0, 0], "{policy:?}");
            let picker = Picker::new(policy, Duration::ZERO, Some(1));
            let _full = all[2].stats.begin();
            assert_eq!(counts(&picker, &all, 50, 20), [0, 0, 0, 20], "{policy:?}");
            let (mut local, mut rng, mut tried) = (Local::default(), Rng::from_seed(1), Tried::default());
            tried.push(all[3].stats.serial());
            assert_eq!(picker.pick(&all, &mut local, &tried, 50, &mut rng), None, "{policy:?}");
        }
    }

    #[test]
    fn every_policy_fails_open_when_nothing_is_usable() {
        for policy in ALL {
            let mut all = candidates(&[1; 3]);
            all.iter_mut().for_each(|c| c.healthy = false);
            assert_eq!(counts(&plain(policy), &all, 50, 300).iter().sum::<usize>(), 300, "{policy:?}");
        }
    }

    #[test]
    fn slow_start_gives_a_new_endpoint_a_growing_share() {
        for policy in ALL {
            let picker = Picker::new(policy, Duration::from_secs(10), None);
            let mut all = candidates(&[1, 1]);
            all[1].ready_ms = 100_000;
            let early = counts(&picker, &all, 101_000, 2000)[1];
            let late = counts(&picker, &all, 120_000, 2000)[1];
            assert!(early < 450 && early > 20, "{policy:?} early {early}");
            assert!((800..1200).contains(&late), "{policy:?} late {late}");
        }
    }

    #[test]
    fn what_is_known_of_endpoints_that_stay_is_kept() {
        let mut all = candidates(&[3, 1, 1]);
        let (mut local, mut rng) = (Local::default(), Rng::from_seed(5));
        local.follow(&all, &mut rng);
        local.credit = vec![1.0, 2.0, 3.0];
        all.remove(0);
        local.follow(&all, &mut rng);
        assert_eq!(local.credit, [2.0, 3.0]);
    }
}
