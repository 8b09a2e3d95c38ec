//! What a policy may know of an endpoint, and the one rule of who is usable.

use crate::balance::EndpointStats;
use std::sync::Arc;

/// An endpoint as a policy sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its shared counters.
    pub stats: Arc<EndpointStats>,
    /// Relative share, 1..=1000.
    pub weight: u32,
    /// False while the verdict of its active checks is unhealthy.
    pub healthy: bool,
    /// When it became ready, in milliseconds of the process's clock: start of slow start.
    pub ready_ms: u64,
}

impl Candidate {
    /// Returns true unless an active verdict or a passive ejection speaks against it.
    pub fn is_usable(&self, now_ms: u64) -> bool {
        self.healthy && !self.stats.is_ejected(now_ms)
    }
}

/// Returns who may be used now: the usable ones, or all when none is (fail open, details 5). The flag says which.
///
/// The fail-open rule ignores only the verdict and the ejection; what is starting, draining or gone is no candidate.
/// `every` says that all are known to be usable: then nothing of them is read.
pub fn usable(candidates: &[Candidate], every: bool, now_ms: u64) -> (impl Iterator<Item = usize> + '_, bool) {
    let fail_open = !every && !candidates.iter().any(|c| c.is_usable(now_ms));
    let is_chosen = move |&index: &usize| {
        every || fail_open || candidates.get(index).is_some_and(|candidate| candidate.is_usable(now_ms))
    };
    ((0..candidates.len()).filter(is_chosen), fail_open)
}

#[cfg(test)]
mod tests {
    use super::{Candidate, usable};
    use crate::balance::EndpointStats;
    use std::sync::Arc;

    fn candidate(healthy: bool, ejected_until_ms: u64) -> Candidate {
        let stats = EndpointStats::new();
        stats.eject_until(ejected_until_ms);
        Candidate { stats: Arc::new(stats), weight: 1, healthy, ready_ms: 0 }
    }

    #[test]
    fn leaves_out_unhealthy_and_ejected_ones() {
        let all = [candidate(true, 0), candidate(false, 0), candidate(true, 100), candidate(true, 50)];
        let (indices, open) = usable(&all, false, 50);
        assert_eq!((indices.collect::<Vec<_>>(), open), (vec![0, 3], false));
    }

    #[test]
    fn fails_open_when_none_is_left() {
        let all = [candidate(false, 0), candidate(true, 100)];
        let (indices, open) = usable(&all, false, 50);
        assert_eq!((indices.collect::<Vec<_>>(), open), (vec![0, 1], true));
        assert_eq!(usable(&[], false, 0).0.count(), 0);
    }
}
