//! The error budget: how many requests of the last half hour were late.

/// Minutes that count.
const MINUTES: usize = 30;

/// Requests by minute.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// (late, ended) of each minute, by its number modulo the length.
    minutes: [(f32, f32); MINUTES],
    newest: u64,
}

impl Budget {
    /// Counts requests that ended.
    pub(super) fn count(&mut self, late: f64, ended: f64, now_ms: u64) {
        let minute = now_ms / 60_000;
        let skipped = minute.saturating_sub(self.newest).min(MINUTES as u64);
        for passed in 0..skipped {
            if let Some(place) = self.minutes.get_mut(Self::place(minute - passed)) {
                *place = (0.0, 0.0);
            }
        }
        self.newest = self.newest.max(minute);
        if let Some(place) = self.minutes.get_mut(Self::place(self.newest)) {
            place.0 += late as f32;
            place.1 += ended as f32;
        }
    }

    /// Returns the share of requests that were late; 0 when none ended.
    pub(super) fn late_share(&self) -> f64 {
        let (late, ended) = self.minutes.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if ended > 0.0 { f64::from(late) / f64::from(ended) } else { 0.0 }
    }

    fn place(minute: u64) -> usize {
        (minute % MINUTES as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn counts_the_last_half_hour() {
        let mut budget = Budget::default();
        assert!(budget.late_share().abs() < 1e-9);
        for minute in 0..60_u64 {
            budget.count(if minute < 30 { 10.0 } else { 1.0 }, 100.0, minute * 60_000);
        }
        assert!((budget.late_share() - 0.01).abs() < 1e-6);
        budget.count(0.0, 50.0, 200 * 60_000);
        assert!(budget.late_share().abs() < 1e-9);
    }
}
