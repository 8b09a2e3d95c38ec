//! How a changed definition replaces what runs.

use std::time::Duration;

/// In which order replicas are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// A new replica serves before an old one stops.
    #[default]
    StartFirst,
    /// An old replica has stopped before a new one starts: the service is never run twice.
    StopFirst,
}

/// What follows a rollout that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFailure {
    /// The last revision that worked is wanted again.
    #[default]
    Rollback,
    /// Nothing more is replaced until somebody decides.
    Pause,
}

/// How a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutSpec {
    /// The order.
    pub strategy: Strategy,
    /// Replicas that are replaced at a time, from 1.
    pub batch: u32,
    /// A new replica counts after it has been ready for so long.
    pub min_healthy: Duration,
    /// A rollout that gets no further for so long has failed.
    pub progress_deadline: Duration,
    /// How long replicas are watched after the last one was replaced, before the revision is trusted.
    pub monitor: Duration,
    /// What follows a failure.
    pub on_failure: OnFailure,
    /// Whether replicas may share a writable volume, so that two of them may run at a time.
    pub shared_volume: bool,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self {
            strategy: Strategy::StartFirst,
            batch: 1,
            min_healthy: Duration::from_secs(10),
            progress_deadline: Duration::from_secs(300),
            monitor: Duration::ZERO,
            on_failure: OnFailure::Rollback,
            shared_volume: false,
        }
    }
}
