//! The stabilization window: the highest recommendation of the last seconds holds, so that replicas are not taken away
//! between two peaks.
//!
//! Up at once, down by the window. A fixed number of buckets covers the longest window, whatever it is.

/// Buckets of the longest window.
const BUCKETS: usize = 128;

/// The recommendations of the longest window.
#[derive(Debug, Clone)]
pub(super) struct Stabilizer {
    /// Width of a bucket in milliseconds.
    width_ms: u64,
    /// Highest recommendation of each bucket, by its number modulo the length.
    highest: [u32; BUCKETS],
    /// The newest bucket's number.
    newest: u64,
}

impl Stabilizer {
    /// Makes the state for windows up to `longest_ms`.
    pub(super) fn new(longest_ms: u64) -> Self {
        // One bucket more than the window spans: the oldest is cut only when all of it is older.
        Self { width_ms: longest_ms.div_ceil(BUCKETS as u64 - 2).max(1000), highest: [0; BUCKETS], newest: 0 }
    }

    /// Notes a recommendation and returns the highest of the last `window_ms`.
    pub(super) fn settle(&mut self, recommended: u32, window_ms: u64, now_ms: u64) -> u32 {
        let bucket = now_ms / self.width_ms;
        let skipped = bucket.saturating_sub(self.newest).min(BUCKETS as u64);
        for passed in 0..skipped {
            if let Some(highest) = self.highest.get_mut(Self::place(bucket - passed)) {
                *highest = 0;
            }
        }
        self.newest = self.newest.max(bucket);
        if let Some(highest) = self.highest.get_mut(Self::place(self.newest)) {
            *highest = (*highest).max(recommended);
        }
        let oldest = now_ms.saturating_sub(window_ms) / self.width_ms;
        let within = (oldest..=self.newest).rev().take(BUCKETS);
        within.filter_map(|bucket| self.highest.get(Self::place(bucket))).copied().max().unwrap_or(recommended)
    }

    fn place(bucket: u64) -> usize {
        (bucket % BUCKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Stabilizer;

    #[test]
    fn rises_at_once_and_falls_when_the_window_has_passed() {
        let mut stabilizer = Stabilizer::new(60_000);
        assert_eq!(stabilizer.settle(2, 20_000, 1_000_000), 2);
        assert_eq!(stabilizer.settle(9, 20_000, 1_001_000), 9);
        for second in 2..=20 {
            assert_eq!(stabilizer.settle(3, 20_000, 1_000_000 + second * 1000), 9, "{second}");
        }
        assert_eq!(stabilizer.settle(3, 20_000, 1_023_000), 3);
    }

    #[test]
    fn a_longer_window_remembers_what_a_shorter_one_no_longer_counts() {
        let mut stabilizer = Stabilizer::new(300_000);
        stabilizer.settle(7, 20_000, 5_000);
        assert_eq!(stabilizer.settle(1, 20_000, 100_000), 1);
        assert_eq!(stabilizer.settle(1, 200_000, 100_000), 7);
        assert_eq!(stabilizer.settle(1, 300_000, 304_000), 7);
        assert_eq!(stabilizer.settle(1, 300_000, 311_000), 1);
    }

    #[test]
    fn a_long_pause_forgets_everything() {
        let mut stabilizer = Stabilizer::new(300_000);
        stabilizer.settle(7, 300_000, 5_000);
        assert_eq!(stabilizer.settle(2, 300_000, 50_000_000), 2);
    }

    #[test]
    fn any_longest_window_is_covered() {
        for longest_ms in [1, 999, 20_000, 86_400_000] {
            let mut stabilizer = Stabilizer::new(longest_ms);
            stabilizer.settle(5, longest_ms, 1_000_000_000);
            assert_eq!(stabilizer.settle(1, longest_ms, 1_000_000_000 + longest_ms), 5, "{longest_ms}");
            assert_eq!(stabilizer.settle(1, longest_ms, 1_000_000_000 + 3 * longest_ms + 5_000), 1, "{longest_ms}");
        }
    }
}
