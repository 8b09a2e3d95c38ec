//! How long a replica takes from its start until it serves: nine of the last ten took no longer.

/// Starts that are remembered.
const STARTS: usize = 32;
/// What is reckoned with before the first is measured, seconds.
const UNMEASURED_S: f32 = 5.0;
/// Bounds of what is believed: nothing starts at once, and what takes longer than ten minutes is broken.
const BOUNDS_S: (f32, f32) = (0.1, 600.0);

/// The last starts of one service.
#[derive(Debug, Clone, Default)]
pub struct ColdStart {
    starts_s: [f32; STARTS],
    count: usize,
}

impl ColdStart {
    /// Notes a start that succeeded, in seconds.
    pub fn observe(&mut self, start_s: f64) {
        if let Some(place) = self.starts_s.get_mut(self.count % STARTS) {
            *place = (start_s as f32).clamp(BOUNDS_S.0, BOUNDS_S.1);
        }
        self.count += 1;
    }

    /// Returns what nine of ten take, in seconds; 5 before the first is measured.
    pub fn p90_s(&self) -> f64 {
        let known = self.count.min(STARTS);
        let mut sorted = self.starts_s;
        let Some(sorted) = sorted.get_mut(..known).filter(|known| !known.is_empty()) else {
            return f64::from(UNMEASURED_S);
        };
        sorted.sort_unstable_by(f32::total_cmp);
        let place = (sorted.len() * 9).div_ceil(10).saturating_sub(1);
        f64::from(sorted.get(place).copied().unwrap_or(UNMEASURED_S))
    }
}

#[cfg(test)]
mod tests {
    use super::ColdStart;

    #[test]
    fn five_seconds_until_measured_then_nine_of_ten() {
        let mut cold_start = ColdStart::default();
        assert!((cold_start.p90_s() - 5.0).abs() < 1e-6);
        cold_start.observe(1.5);
        assert!((cold_start.p90_s() - 1.5).abs() < 1e-6);
        for tenths in 0..100 {
            cold_start.observe(f64::from(tenths % 10) + 1.0);
        }
        assert!((9.0..=10.0).contains(&cold_start.p90_s()), "{}", cold_start.p90_s());
        for _ in 0..32 {
            cold_start.observe(2.0);
        }
        assert!((cold_start.p90_s() - 2.0).abs() < 1e-6, "old starts are forgotten");
        for _ in 0..32 {
            cold_start.observe(1e9);
        }
        assert!(cold_start.p90_s() <= 600.0);
    }
}
