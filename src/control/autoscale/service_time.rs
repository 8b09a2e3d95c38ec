//! The time in service: mean and variability, over the last minute of work.

use crate::control::autoscale::load::Load;

/// Time after which a sample counts a third, seconds.
const MEMORY_S: f64 = 60.0;
/// Requests before the variability is believed; below that it is taken for exponential.
const FEW: f64 = 20.0;

/// Sums that fade while new ones come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ServiceTime {
    count: f64,
    sum_s: f64,
    sum_s2: f64,
}

impl ServiceTime {
    /// Feeds a sample. While nothing is served nothing fades: the last that is known stays.
    pub(super) fn observe(&mut self, load: &Load) {
        if load.served <= 0.0 {
            return;
        }
        let kept = (-load.elapsed_s / MEMORY_S).exp();
        self.count = self.count * kept + load.served;
        self.sum_s = self.sum_s * kept + load.service_s;
        self.sum_s2 = self.sum_s2 * kept + load.service_s2;
    }

    /// Returns the mean in seconds; `None` before anything was served.
    pub(super) fn mean_s(&self) -> Option<f64> {
        (self.count > 0.0 && self.sum_s > 0.0).then(|| self.sum_s / self.count)
    }

    /// Returns the coefficient of variation; 1 while little is known.
    pub(super) fn cv(&self) -> f64 {
        let Some(mean) = self.mean_s().filter(|_| self.count >= FEW) else { return 1.0 };
        let variance = (self.sum_s2 / self.count - mean * mean).max(0.0);
        (variance.sqrt() / mean).min(10.0)
    }
}
