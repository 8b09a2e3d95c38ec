//! Arrivals per second in the near future: Holt's linear trend, damped (Gardner and McKenzie, 1985), over bins of five
//! seconds, and how far such forecasts were off.
//!
//! The horizon is the time until a replica that is ordered now serves. Pure: samples come in, numbers go out.

use crate::control::autoscale::held::{Bins, Held};

/// Shortest length of a bin, seconds; the slack of the objective where that is longer.
const MIN_BIN_S: f64 = 5.0;
const MAX_BIN_S: f64 = 30.0;
/// Weight of a new bin in the level, and of a new slope in the trend; how much of the trend goes on each bin.
const LEVEL: f64 = 0.3;
const TREND: f64 = 0.15;
const DAMPING: f64 = 0.9;
/// Bins ahead at most: two minutes.
const MAX_STEPS: usize = 24;
/// Weights of a new squared error: what surprises counts at once and is forgotten slowly.
const ERROR_UP: f64 = 0.3;
const ERROR_DOWN: f64 = 0.02;
/// An arrival rate that came out lower than forecast costs money, not lateness: it counts this much.
const OVER: f64 = 0.5;
/// Standard deviations of a bin's count that pass for chance.
const CHANCE: f64 = 1.0;
/// Time after which the highest rate is remembered by a third only, seconds.
const HIGHEST_S: f64 = 7200.0;
/// Samples of the newest rate.
const RECENT: usize = 3;

/// The state for one service.
#[derive(Debug, Clone)]
pub(super) struct Forecast {
    level: f64,
    trend: f64,
    /// Bins that were closed.
    bins: u64,
    /// The open bin.
    arrivals: f64,
    filled_s: f64,
    /// The newest samples as (arrivals, seconds).
    recent: [(f64, f64); RECENT],
    /// What was forecast for the bins to come, by the bin's number modulo the length.
    made: [f64; MAX_STEPS + 1],
    /// Mean squared error of forecasts over the horizon.
    error: f64,
    /// The highest rate of a bin, fading.
    highest: f64,
    /// Bins that the horizon spans.
    steps: usize,
    /// Length of a bin, seconds.
    bin_s: f64,
    rates: Bins,
}

impl Forecast {
    /// Begins to know nothing.
    pub(super) fn new() -> Self {
        Self {
            level: 0.0,
            trend: 0.0,
            bins: 0,
            arrivals: 0.0,
            filled_s: 0.0,
            recent: [(0.0, 0.0); RECENT],
            made: [f64::NAN; MAX_STEPS + 1],
            error: 0.0,
            highest: 0.0,
            steps: 1,
            bin_s: MIN_BIN_S,
            rates: Bins::new(),
        }
    }

    /// Feeds a sample: arrivals in the last `elapsed_s` seconds; `horizon_s` is the time until an order takes effect.
    pub(super) fn observe(&mut self, arrivals: f64, elapsed_s: f64, horizon_s: f64, slack_s: f64) {
        self.bin_s = slack_s.clamp(MIN_BIN_S, MAX_BIN_S);
        self.recent.rotate_left(1);
        if let Some(newest) = self.recent.last_mut() {
            *newest = (arrivals, elapsed_s);
        }
        self.steps = ((horizon_s / self.bin_s).ceil() as usize).clamp(1, MAX_STEPS);
        self.arrivals += arrivals;
        self.filled_s += elapsed_s;
        if self.filled_s + 1e-6 >= self.bin_s {
            self.close(self.arrivals / self.filled_s);
            (self.arrivals, self.filled_s) = (0.0, 0.0);
        }
    }

    fn close(&mut self, rate: f64) {
        let place = |bin: u64| (bin % (MAX_STEPS as u64 + 1)) as usize;
        if let Some(made) = self.made.get_mut(place(self.bins)) {
            let forecast = std::mem::replace(made, f64::NAN);
            if forecast.is_finite() {
                // What chance alone does to a count is no error of the rate: staffing reckons with it.
                let chance = CHANCE * (forecast.max(0.0) / self.bin_s).sqrt();
                let off = rate - forecast;
                let off = if off < 0.0 { -OVER * (-off - chance).max(0.0) } else { (off - chance).max(0.0) };
                let weight = if off * off > self.error { ERROR_UP } else { ERROR_DOWN };
                self.error += weight * (off * off - self.error);
            }
        }
        self.rates.note(rate);
        self.highest = rate.max(self.highest * (-self.bin_s / HIGHEST_S).exp());
        if self.bins == 0 {
            self.level = rate;
        } else {
            let before = self.level;
            self.level = LEVEL * rate + (1.0 - LEVEL) * (before + DAMPING * self.trend);
            self.trend = TREND * (self.level - before) + (1.0 - TREND) * DAMPING * self.trend;
        }
        self.bins += 1;
        let ahead = self.ahead(self.steps);
        if let Some(made) = self.made.get_mut(place(self.bins + self.steps as u64 - 1)) {
            *made = ahead;
        }
    }

    /// Returns the forecast so many bins ahead, per second.
    fn ahead(&self, steps: usize) -> f64 {
        let sum = DAMPING * (1.0 - DAMPING.powi(steps as i32)) / (1.0 - DAMPING);
        (self.level + self.trend * sum).max(0.0)
    }

    /// Returns the highest rate that is forecast between now and the horizon, per second.
    ///
    /// A damped trend goes one way only, so that one of the ends of the path is its peak.
    pub(super) fn peak(&self) -> f64 {
        if self.bins == 0 { self.recent() } else { self.ahead(0).max(self.ahead(self.steps)) }
    }

    /// Returns the load that is held, if one is.
    pub(super) fn held(&self) -> Option<Held> {
        self.rates.held(self.bin_s)
    }

    /// Returns by how much the rate of the newest samples scatters around a mean rate by chance: standard deviation, per
    /// second.
    pub(super) fn recent_scatter(&self, mean: f64) -> f64 {
        let seconds: f64 = self.recent.iter().map(|(_, seconds)| seconds).sum();
        if seconds > 0.0 { (mean / seconds).sqrt() } else { 0.0 }
    }

    /// Returns the rate of the newest samples, per second.
    pub(super) fn recent(&self) -> f64 {
        let (arrivals, seconds) = self.recent.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if seconds > 0.0 { arrivals / seconds } else { 0.0 }
    }

    /// Returns the highest rate that was seen, fading over hours, per second.
    pub(super) fn highest(&self) -> f64 {
        self.highest
    }

    /// Returns by how much forecasts over the horizon were off: root of the mean square, per second.
    pub(super) fn sigma(&self) -> f64 {
        // Before the first error is known, chance alone: counts of a bin scatter by their root.
        self.error.sqrt()
    }
}

impl Default for Forecast {
    fn default() -> Self {
        Self::new()
    }
}
