//! Rendezvous hashing: a key finds the same endpoint as long as that one is usable, whoever asks and whatever else changes.
//!
//! Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998; weights by the logarithmic method
//! (Schindelhauer and Schomaker, 2005). An endpoint that goes moves its own keys and no others.

use crate::balance::{Candidate, Tried, usable};
use crate::rng::Rng;

/// Returns the candidate for a key among those that may be used now and were not tried; `identity` is a number that an endpoint
/// keeps wherever it is asked, such as its address.
pub fn rendezvous(
    candidates: &[Candidate],
    identity: impl Fn(usize) -> u64,
    key: u64,
    tried: &Tried,
    now_ms: u64,
) -> Option<usize> {
    let (chosen, _) = usable(candidates, false, now_ms);
    let mut best: Option<(f64, usize)> = None;
    for index in chosen {
        let Some(candidate) = candidates.get(index).filter(|c| !tried.contains(c.stats.serial())) else { continue };
        let place = Rng::from_seed(key ^ identity(index).rotate_left(17)).unit();
        // -w / ln(u): the greatest wins in proportion to the weights. Zero has no logarithm.
        let score = -f64::from(candidate.weight) / place.max(f64::MIN_POSITIVE).ln();
        if best.is_none_or(|(other, _)| score > other) {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::rendezvous;
    use crate::balance::{Candidate, EndpointStats, Tried};
    use crate::rng::Rng;
    use std::sync::Arc;

    const KEYS: usize = 20_000;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        let one =
            |&weight: &u32| Candidate { stats: Arc::new(EndpointStats::new()), weight, healthy: true, ready_ms: 0 };
        weights.iter().map(one).collect()
    }

    fn places(candidates: &[Candidate], tried: &Tried) -> Vec<usize> {
        let mut rng = Rng::from_seed(1);
        let identity = |index: usize| Rng::from_seed(index as u64).next_u64();
        (0..KEYS).map(|_| rendezvous(candidates, identity, rng.next_u64(), tried, 0).unwrap()).collect()
    }

    #[test]
    fn keys_are_spread_by_weight_and_only_those_of_the_gone_move() {
        let mut all = candidates(&[1, 1, 2]);
        let before = places(&all, &Tried::default());
        for (index, share) in [(0, 0.25), (1, 0.25), (2, 0.5)] {
            let found = before.iter().filter(|&&place| place == index).count() as f64 / KEYS as f64;
            assert!((found - share).abs() < 0.015, "{index}: {found}");
        }
        all[1].healthy = false;
        let after = places(&all, &Tried::default());
        assert!(before.iter().zip(&after).all(|(was, is)| if *was == 1 { *is != 1 } else { was == is }));
        all[1].healthy = true;
        assert_eq!(places(&all, &Tried::default()), before, "they come back");
        let mut tried = Tried::default();
        tried.push(all[2].stats.serial());
        assert!(places(&all, &tried).iter().all(|&place| place != 2));
    }

    #[test]
    fn without_candidates_there_is_none() {
        assert_eq!(rendezvous(&[], |_| 0, 1, &Tried::default(), 0), None);
    }
}
