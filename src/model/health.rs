//! Health thresholds as a pure state machine.

use crate::model::Verdict;

/// The outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It failed.
    Fail,
}

/// A change of verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The verdict before.
    pub from: Verdict,
    /// The verdict now.
    pub to: Verdict,
}

/// Counts outcomes in a row and derives the verdict from `rise` and `fall`.
///
/// The first pass of a new instance makes it healthy at once (`rise` counts only for recovery); the first `fall`
/// failures in a row make it unhealthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthState {
    rise: u32,
    fall: u32,
    verdict: Verdict,
    run: u32,
    last: Option<Outcome>,
}

impl HealthState {
    /// Starts with an unknown verdict; thresholds below 1 count as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), verdict: Verdict::Unknown, run: 0, last: None }
    }

    /// Returns the verdict now.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Returns true while the last outcome speaks against the verdict, or before the first verdict: time for fast checks.
    pub fn is_changing(&self) -> bool {
        match (self.verdict, self.last) {
            (Verdict::Unknown, _)
            | (Verdict::Healthy, Some(Outcome::Fail))
            | (Verdict::Unhealthy, Some(Outcome::Pass)) => true,
            (Verdict::Healthy | Verdict::Unhealthy, _) => false,
        }
    }

    /// Feeds one outcome; returns the change of verdict that it caused.
    pub fn observe(&mut self, outcome: Outcome) -> Option<Transition> {
        self.run = if self.last == Some(outcome) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(outcome);
        let to = match (self.verdict, outcome) {
            (Verdict::Unknown, Outcome::Pass) => Verdict::Healthy,
            (Verdict::Unhealthy, Outcome::Pass) if self.run >= self.rise => Verdict::Healthy,
            (Verdict::Unknown | Verdict::Healthy, Outcome::Fail) if self.run >= self.fall => Verdict::Unhealthy,
            (same, _) => same,
        };
        let from = std::mem::replace(&mut self.verdict, to);
        (from != to).then_some(Transition { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::{HealthState, Outcome, Transition};
    use crate::model::Verdict;

    fn feed(state: &mut HealthState, outcomes: &str) -> Vec<Verdict> {
        outcomes
            .chars()
            .map(|c| {
                state.observe(if c == '+' { Outcome::Pass } else { Outcome::Fail });
                state.verdict()
            })
            .collect()
    }

    #[test]
    fn the_first_pass_is_enough_and_rise_counts_only_for_recovery() {
        let mut state = HealthState::new(3, 2);
        assert_eq!(feed(&mut state, "+"), [Verdict::Healthy]);
        assert_eq!(feed(&mut state, "--"), [Verdict::Healthy, Verdict::Unhealthy]);
        assert_eq!(
            feed(&mut state, "++-+++"),
            [
                Verdict::Unhealthy,
                Verdict::Unhealthy,
                Verdict::Unhealthy,
                Verdict::Unhealthy,
                Verdict::Unhealthy,
                Verdict::Healthy
            ]
        );
    }

    #[test]
    fn a_pass_between_failures_starts_the_count_again() {
        let mut state = HealthState::new(2, 3);
        feed(&mut state, "+--+--");
        assert_eq!(state.verdict(), Verdict::Healthy);
        assert!(state.is_changing());
        assert_eq!(state.observe(Outcome::Fail), Some(Transition { from: Verdict::Healthy, to: Verdict::Unhealthy }));
        assert!(!state.is_changing());
    }

    #[test]
    fn failures_before_the_first_pass_end_in_unhealthy() {
        let mut state = HealthState::new(1, 3);
        assert_eq!(feed(&mut state, "--"), [Verdict::Unknown, Verdict::Unknown]);
        assert!(state.is_changing());
        assert_eq!(feed(&mut state, "-"), [Verdict::Unhealthy]);
    }
}
