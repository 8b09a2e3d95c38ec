//! Fresh-token expected delay, the black-box form: the default policy.
//!
//! An endpoint that has just answered is a one-shot candidate ("token") for a second: it is alive and its latency is
//! fresh. A pick takes the best of the tokens and two random candidates by `(own outstanding + 1) x latency average x
//! (1 + 20 x error average)`, and consumes the token. Latency averages fade towards the mean of all with 2 s, so one slow
//! answer does not banish an endpoint, and nobody starves for lack of news.
//!
//! The outstanding count is the endpoint's shared one: on one machine every worker is the same balancer.

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
    pub(crate) fn pick(&mut self, round: &Round<'_>, rng: &mut Rng) -> Option<usize> {
        let fresh = |at: u64| at + TOKEN_AGE_MS >= round.now_ms;
        let stale = self.pool.iter().take_while(|(_, at)| !fresh(*at)).count();
        self.pool.drain(..stale);
        let mut best: Option<(usize, f64, Option<usize>)> = None;
        let n = round.candidates.len();
        for (place, index) in self
            .pool
            .iter()
            .map(|&(index, _)| index)
            .enumerate()
            .map(|(p, i)| (Some(p), i))
            .chain([(None, rng.below(n)), (None, rng.below(n))])
        {
            if !round.admits(index) || round.warms(index, rng) {
                continue;
            }
            let score = self.score(round, index);
            if best.is_none_or(|(_, least, _)| score < least) {
                best = Some((index, score, place));
            }
        }
        let (index, _, place) = best?;
        if let Some(place) = place {
            self.pool.remove(place);
        }
        Some(index)
    }

    fn score(&self, round: &Round<'_>, index: usize) -> f64 {
        let Some(candidate) = round.candidates.get(index) else { return f64::INFINITY };
        let outstanding = f64::from(candidate.stats.in_flight()) + 1.0;
        let (latency, error) = match self.averages.get(index).copied().flatten() {
            Some(average) => (fade(&average, self.mean_us, round.now_ms), average.error),
            None => (self.mean_us, 0.0),
        };
        outstanding * latency.max(1.0) * (1.0 + ERROR_PENALTY * error) / f64::from(candidate.weight.max(1))
    }
}

fn fade(average: &Average, mean_us: f64, now_ms: u64) -> f64 {
    let age = now_ms.saturating_sub(average.at_ms) as f64;
    if age < 1.0 { average.latency_us } else { mean_us + (average.latency_us - mean_us) * (-age / FADE_MS).exp() }
}
