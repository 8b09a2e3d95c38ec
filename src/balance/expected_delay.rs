//! Fresh-token expected delay, the black-box form: the default policy.
//!
//! An endpoint that has just answered is a one-shot candidate ("token") for a second: it is alive and its latency is
//! fresh. A pick takes the best of the tokens and two random candidates by `(own outstanding + 1) x latency average x
//! (1 + 20 x error average)`, and consumes the token. Latency averages fade towards the mean of all with 2 s, so one slow
//! answer does not banish an endpoint, and nobody starves for lack of news.
//!
//! The outstanding count is the endpoint's shared one: on one machine every worker is the same balancer.

use crate::balance::Candidate;
use crate::balance::picker::Round;
use crate::rng::Rng;

/// Tokens kept; a pick looks at each of them.
const MAX_TOKENS: usize = 16;
/// A token older than this says nothing.
const TOKEN_AGE_MS: u64 = 1000;
/// Weight of a new sample in the latency average.
const ALPHA: f64 = 0.1;
/// Weight of a new outcome in the error average.
const ERROR_ALPHA: f64 = 0.2;
/// Time in which an average without news fades to the mean of all.
const FADE_MS: f64 = 2000.0;
/// Factor of the error average in the score.
const ERROR_PENALTY: f64 = 20.0;
/// Scores up to this factor of the least, or this much above it, count as equal: differences that are noise.
const NEAR_FACTOR: f64 = 1.25;
const NEAR_US: f64 = 500.0;

#[derive(Debug, Clone, Copy)]
struct Average {
    latency_us: f64,
    error: f64,
    at_ms: u64,
}

/// The token pool and the averages of one worker for one service.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    /// Index of the candidate and when it answered; oldest first.
    pool: Vec<(usize, u64)>,
    averages: Vec<Option<Average>>,
    mean_us: f64,
}

impl Tokens {
    /// Follows a change of the candidates; `map[new] = old`.
    pub(crate) fn follow(&mut self, map: &[Option<usize>]) {
        self.averages = map.iter().map(|m| m.and_then(|i| self.averages.get(i).copied().flatten())).collect();
        self.pool.retain_mut(|(index, _)| match map.iter().position(|m| *m == Some(*index)) {
            Some(new) => {
                *index = new;
                true
            }
            None => false,
        });
        self.pool.reserve(MAX_TOKENS);
    }

    /// Feeds one answer and adds its token; returns the latency average in microseconds.
    pub(crate) fn observe(&mut self, index: usize, latency_us: u64, failed: bool, now_ms: u64) -> u32 {
        let sample = latency_us as f64;
        self.mean_us = if self.mean_us == 0.0 { sample } else { self.mean_us + 0.02 * (sample - self.mean_us) };
        let mean = self.mean_us;
        let Some(slot) = self.averages.get_mut(index) else { return 0 };
        let average = slot.get_or_insert(Average { latency_us: sample, error: 0.0, at_ms: now_ms });
        let faded = fade(average, mean, now_ms);
        // A fast failure must not look like a fast answer: its latency counts only upwards.
        let sample = if failed { sample.max(faded) } else { sample };
        average.latency_us = faded + ALPHA * (sample - faded);
        average.error += ERROR_ALPHA * (f64::from(u8::from(failed)) - average.error);
        average.at_ms = now_ms;
        if !failed {
            if self.pool.len() >= MAX_TOKENS {
                self.pool.remove(0);
            }
            self.pool.push((index, now_ms));
        }
        average.latency_us as u32
    }

    /// Picks the best of the fresh tokens and two random candidates; `None` when none of them is admitted.
    ///
    /// Scores that hardly differ count as equal; among equals the one with the fewest requests in flight wins, then the
    /// one that answered longest ago: so an idle service's replicas take turns.
    pub(crate) fn pick(&mut self, round: &Round<'_>, rng: &mut Rng) -> Option<usize> {
        let stale = self.pool.iter().take_while(|(_, at)| at + TOKEN_AGE_MS < round.now_ms).count();
        self.pool.drain(..stale);
        let n = round.candidates.len();
        let drawn = [(None, rng.below(n)), (None, rng.below(n))];
        let mut offers = [Offer::NONE; MAX_TOKENS + 2];
        let mut least = f64::INFINITY;
        let tokens = self.pool.iter().enumerate().map(|(place, &(index, _))| (Some(place), index));
        for ((place, index), offer) in tokens.chain(drawn).zip(&mut offers) {
            if round.admits(index) && !round.warms(index, rng) {
                *offer = self.offer(round, index, place);
                least = least.min(offer.score);
            }
        }
        let bound = (least * NEAR_FACTOR).max(least + NEAR_US);
        let near = offers.iter().filter(|offer| offer.score <= bound);
        let best =
            near.min_by_key(|offer| (offer.in_flight, offer.answered_ms)).filter(|offer| offer.score.is_finite())?;
        if let Some(place) = best.place {
            self.pool.remove(place);
        }
        Some(best.index)
    }

    fn offer(&self, round: &Round<'_>, index: usize, place: Option<usize>) -> Offer {
        let Some(candidate) = round.candidates.get(index) else { return Offer::NONE };
        let (score, in_flight, answered_ms) = self.score(index, candidate, round.now_ms);
        Offer { index, place, score, in_flight, answered_ms }
    }

    /// Returns the expected delay of a candidate in microseconds, its requests in flight, and when it last answered.
    pub(crate) fn score(&self, index: usize, candidate: &Candidate, now_ms: u64) -> (f64, u32, u64) {
        let in_flight = candidate.stats.in_flight();
        let (latency, error, answered_ms) = match self.averages.get(index).copied().flatten() {
            Some(average) => (fade(&average, self.mean_us, now_ms), average.error, average.at_ms),
            None => (self.mean_us, 0.0, 0),
        };
        let work = (f64::from(in_flight) + 1.0) / f64::from(candidate.weight.max(1));
        (work * latency.max(1.0) * (1.0 + ERROR_PENALTY * error), in_flight, answered_ms)
    }
}

/// A candidate under consideration.
#[derive(Debug, Clone, Copy)]
struct Offer {
    index: usize,
    /// Its token in the pool; `None`: drawn at random.
    place: Option<usize>,
    /// Expected delay in microseconds, weighted.
    score: f64,
    in_flight: u32,
    answered_ms: u64,
}

impl Offer {
    const NONE: Self = Self { index: 0, place: None, score: f64::INFINITY, in_flight: 0, answered_ms: 0 };
}

/// Moves an average without news towards the mean of all; `1/(1+x+x²/2)` stands for `exp(-x)`, at a tenth of its cost.
fn fade(average: &Average, mean_us: f64, now_ms: u64) -> f64 {
    let x = now_ms.saturating_sub(average.at_ms) as f64 / FADE_MS;
    mean_us + (average.latency_us - mean_us) / (1.0 + x + 0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use crate::balance::{Candidate, EndpointStats, Local, Picker, Tried};
    use crate::model::Policy;
    use crate::rng::Rng;
    use std::sync::Arc;
    use std::time::Duration;

    struct World {
        candidates: Vec<Candidate>,
        picker: Picker,
        local: Local,
        rng: Rng,
        now_ms: u64,
    }

    impl World {
        fn new(n: usize) -> Self {
            let candidate =
                || Candidate { stats: Arc::new(EndpointStats::new()), weight: 1, healthy: true, ready_ms: 0 };
            Self {
                candidates: (0..n).map(|_| candidate()).collect(),
                picker: Picker::new(Policy::ExpectedDelay, Duration::ZERO, None),
                local: Local::default(),
                rng: Rng::from_seed(7),
                now_ms: 1_000_000,
            }
        }

        /// Sends `requests` one after the other; `latency_us` says how long each endpoint takes. Returns their counts.
        fn run(
            &mut self,
            requests: usize,
            latency_us: impl Fn(usize) -> u64,
            fails: impl Fn(usize) -> bool,
        ) -> Vec<usize> {
            let mut counts = vec![0; self.candidates.len()];
            for _ in 0..requests {
                let tried = Tried::default();
                let index =
                    self.picker.pick(&self.candidates, &mut self.local, &tried, self.now_ms, &mut self.rng).unwrap();
                let in_flight = self.candidates[index].stats.begin();
                self.now_ms += latency_us(index).div_ceil(1000);
                let serial = in_flight.stats().serial();
                self.local.observe(serial, latency_us(index), fails(index), self.now_ms);
                counts[index] += 1;
            }
            counts
        }
    }

    #[test]
    fn replicas_of_an_idle_service_take_turns() {
        let counts = World::new(3).run(300, |_| 300, |_| false);
        assert!(counts.iter().all(|&n| n > 60), "{counts:?}");
    }

    #[test]
    fn a_slow_replica_gets_little_and_a_failing_one_next_to_nothing() {
        let counts = World::new(10).run(5000, |i| if i == 0 { 80_000 } else { 8_000 }, |_| false);
        assert!(counts[0] < 5000 / 10 / 4, "{counts:?}");
        let counts = World::new(10).run(5000, |i| if i == 0 { 100 } else { 8_000 }, |i| i == 0);
        assert!(counts[0] < 5000 / 10 / 2, "{counts:?}");
    }

    #[test]
    fn a_busy_replica_is_passed_over() {
        let mut world = World::new(2);
        world.run(50, |_| 5_000, |_| false);
        let _busy: Vec<_> = (0..8).map(|_| world.candidates[0].stats.begin()).collect();
        let counts = world.run(100, |_| 5_000, |_| false);
        assert!(counts[1] > 95, "{counts:?}");
    }
}
