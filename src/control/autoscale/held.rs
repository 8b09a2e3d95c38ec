//! A load that is held: its counts scatter no more than chance makes them. Then the mean of all of them says more than a
//! forecast from the newest, and a fall that had to be undone is not tried again until the load is lower, or long after.
//!
//! Counts of bins that scatter like Poisson's have a variance of their mean (the index of dispersion; Cox and Lewis, "The
//! Statistical Analysis of Series of Events", 1966). Pure: rates come in, numbers go out.

/// Bins that are remembered, and the fewest that tell.
const BINS: usize = 24;
const FEWEST: usize = 8;
/// Variance that passes for chance, as a multiple of the mean count.
const DISPERSION: f64 = 2.0;
/// How far a forecast may be from the mean of a held load, in standard deviations of a bin.
const CLOSE: f64 = 1.0;
/// Standard errors of the mean by which a load is lower.
const LOWER: f64 = 2.0;
/// ... and the most that they may be, as a part of what a replica carries: else chance hides the need for one.
const TELLING: f64 = 0.7;
/// A rise so soon after a fall undoes it, milliseconds.
const UNDONE_MS: u64 = 120_000;
/// So long a fall that was undone is not tried again, milliseconds.
const PATIENCE_MS: u64 = 600_000;

/// The rates of the last bins.
#[derive(Debug, Clone)]
pub(super) struct Bins {
    rates: [f64; BINS],
    count: usize,
}

/// A load that is held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Held {
    /// Mean arrivals per second since it is held.
    pub(super) mean: f64,
    /// Standard error of that mean, and standard deviation of a bin, by chance alone.
    error: f64,
    scatter: f64,
}

impl Bins {
    pub(super) fn new() -> Self {
        Self { rates: [0.0; BINS], count: 0 }
    }

    /// Notes the rate of a bin, per second.
    pub(super) fn note(&mut self, rate: f64) {
        self.rates.rotate_right(1);
        if let Some(newest) = self.rates.first_mut() {
            *newest = rate;
        }
        self.count = (self.count + 1).min(BINS);
    }

    /// Returns what is held over as many of the newest bins, of `bin_s` seconds each, as can be; `None` when it changes.
    pub(super) fn held(&self, bin_s: f64) -> Option<Held> {
        let (mut held, mut count, mut sum, mut squares) = (None, 0.0, 0.0, 0.0);
        for rate in self.rates.iter().take(self.count) {
            count += 1.0;
            sum += rate;
            squares += rate * rate;
            if count < FEWEST as f64 {
                continue;
            }
            let mean = sum / count;
            let variance = (squares - sum * mean) / (count - 1.0);
            if variance <= DISPERSION * mean / bin_s {
                held = Some(Held { mean, error: (mean / (count * bin_s)).sqrt(), scatter: (mean / bin_s).sqrt() });
            }
        }
        held
    }
}

impl Held {
    /// Returns whether a forecast, per second, is what is held but for chance.
    pub(super) fn explains(&self, forecast: f64) -> bool {
        (forecast - self.mean).abs() < CLOSE * self.scatter
    }

    /// Returns whether it is known well enough to tell one of so many replicas more or fewer.
    fn tells(&self, replicas: u32) -> bool {
        LOWER * self.error <= TELLING * self.mean / f64::from(replicas.max(1))
    }
}

/// What became of the last fall.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Falls {
    /// When the number last fell, and when it last had to be what it is, at which mean rate.
    fell_ms: Option<u64>,
    needed_ms: u64,
    needed_at: f64,
    /// Whether the last fall had to be undone under a load that was held.
    was_undone: bool,
}

impl Falls {
    /// Returns what is to be wanted instead of `wanted` where `last` was; `asked` is what the load needs now.
    pub(super) fn settle(&mut self, (last, asked, wanted): (u32, u32, u32), held: Option<Held>, now_ms: u64) -> u32 {
        if asked >= last {
            (self.needed_ms, self.needed_at) = (now_ms, held.map_or(0.0, |held| held.mean));
        }
        let held = held.filter(|held| held.tells(last));
        if wanted < last {
            let is_same = |held: Held| held.mean + LOWER * held.error >= self.needed_at;
            if self.was_undone && now_ms.saturating_sub(self.needed_ms) < PATIENCE_MS && held.is_some_and(is_same) {
                return last;
            }
            (self.fell_ms, self.was_undone) = (Some(now_ms), false);
        } else if wanted > last && self.fell_ms.is_some_and(|at| now_ms.saturating_sub(at) < UNDONE_MS) {
            self.was_undone |= held.is_some();
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::{BINS, Bins, FEWEST, Falls, Held, PATIENCE_MS, UNDONE_MS};

    fn bins(rates: impl IntoIterator<Item = f64>) -> Bins {
        let mut bins = Bins::new();
        rates.into_iter().for_each(|rate| bins.note(rate));
        bins
    }

    /// Rates of bins of five seconds that scatter by about one standard deviation of chance.
    fn scattered(count: usize) -> impl Iterator<Item = f64> {
        (0..count).map(|at| if at % 2 == 0 { 104.0 } else { 96.0 })
    }

    #[test]
    fn what_scatters_by_chance_is_held_from_the_eighth_bin_on() {
        assert_eq!(bins(scattered(FEWEST - 1)).held(5.0), None);
        for count in [FEWEST, BINS, 2 * BINS] {
            let held = bins(scattered(count)).held(5.0).unwrap();
            assert!((held.mean - 100.0).abs() < 1e-9, "{held:?}");
            assert!(held.explains(103.0) && !held.explains(106.0) && !held.explains(94.0), "{held:?}");
        }
        assert_eq!(bins([0.0; BINS]).held(5.0).map(|held| held.mean), Some(0.0));
    }

    #[test]
    fn what_steps_ramps_or_bursts_is_not_held() {
        assert_eq!(bins(scattered(BINS).chain([130.0])).held(5.0), None, "a step");
        assert_eq!(bins((0..BINS).map(|at| 40.0 + 5.0 * at as f64)).held(5.0), None, "a ramp");
        assert_eq!(bins((0..BINS).map(|at| if at % 4 == 0 { 150.0 } else { 50.0 })).held(5.0), None, "bursts");
    }

    #[test]
    fn after_a_step_the_new_bins_alone_count() {
        let held = bins(std::iter::repeat_n(20.0, BINS).chain(scattered(10))).held(5.0).unwrap();
        assert!((held.mean - 100.0).abs() < 1e-9, "{held:?}");
    }

    /// Falls once and rises again at 100/s.
    fn undone(replicas: u32) -> Falls {
        let mut falls = Falls::default();
        let held = Some(at(100.0));
        assert_eq!(falls.settle((replicas, replicas, replicas), held, 1_000), replicas);
        assert_eq!(falls.settle((replicas, replicas - 1, replicas - 1), held, 30_000), replicas - 1, "the first time");
        assert_eq!(falls.settle((replicas - 1, replicas, replicas), held, 60_000), replicas);
        falls
    }

    fn at(mean: f64) -> Held {
        Held { mean, error: (mean / 120.0).sqrt(), scatter: (mean / 5.0).sqrt() }
    }

    #[test]
    fn a_fall_that_was_undone_is_not_tried_again_at_the_same_load() {
        let mut falls = undone(8);
        assert_eq!(falls.settle((8, 7, 7), Some(at(99.0)), 61_000), 8);
        assert_eq!(falls.settle((8, 7, 7), Some(at(99.0)), 59_000 + PATIENCE_MS), 8);
        assert_eq!(falls.settle((8, 7, 7), Some(at(99.0)), 60_000 + PATIENCE_MS), 7, "but long after");
    }

    #[test]
    fn it_falls_with_the_load_or_when_nothing_is_held_any_more() {
        assert_eq!(undone(8).settle((8, 7, 7), Some(at(97.0)), 61_000), 7);
        assert_eq!(undone(8).settle((8, 7, 7), None, 61_000), 7);
    }

    #[test]
    fn where_chance_hides_a_replica_falls_are_free() {
        assert_eq!(undone(60).settle((60, 59, 59), Some(at(100.0)), 61_000), 59);
    }

    #[test]
    fn a_rise_long_after_a_fall_does_not_undo_it() {
        let (mut falls, held) = (Falls::default(), Some(at(100.0)));
        falls.settle((8, 7, 7), held, 1_000);
        falls.settle((7, 8, 8), held, 1_000 + UNDONE_MS);
        assert_eq!(falls.settle((8, 7, 7), held, 2_000 + UNDONE_MS), 7);
    }
}
