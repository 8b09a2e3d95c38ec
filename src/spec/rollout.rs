//! `[service.rollout]`: how a changed definition replaces what runs, as written, and its conversion.

use crate::model;
use crate::spec::bounds::{bounded, positive};
use crate::spec::{Duration, Problems, Run, Service};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use utoipa::ToSchema;

/// Bound of `rollout.batch`: as many as there may be replicas.
const BATCH: RangeInclusive<u32> = 1..=10_000;

/// How a changed definition replaces what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RolloutDefinition)]
pub struct Rollout {
    /// In which order replicas are replaced; default `start-first`, but `stop-first` with a writable volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// Replicas that are replaced at a time, 1 to 10000; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub batch: Option<u32>,
    /// A new replica counts after it has been ready for so long; default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_healthy: Option<Duration>,
    /// A rollout that gets no further for so long has failed; above `min_healthy`; default `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<Duration>,
    /// How long replicas are watched after the last one was replaced, before the revision is trusted; default `0s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Duration>,
    /// What follows a rollout that fails; default `rollback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Whether two replicas may use a writable volume at a time; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_volume: Option<bool>,
}

/// In which order replicas are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A new replica serves before an old one stops.
    StartFirst,
    /// An old replica has stopped before a new one starts.
    StopFirst,
}

/// What follows a rollout that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The last revision that worked is wanted again.
    Rollback,
    /// Nothing more is replaced until somebody decides.
    Pause,
}

impl Service {
    /// Reads the section, or its defaults.
    pub(super) fn read_rollout(&self, p: &mut Problems) -> model::RolloutSpec {
        if self.run.is_none() && self.rollout.is_some() {
            p.add("rollout", "needs [service.run]", "add how replicas are run, or remove the section");
        }
        let exclusive = self.run.as_ref().is_some_and(Run::has_writable_volume);
        self.rollout.clone().unwrap_or_default().read(p, exclusive)
    }
}

impl Rollout {
    /// Converts, with every default filled in; `exclusive`: what runs has a writable volume.
    pub(super) fn read(&self, p: &mut Problems, exclusive: bool) -> model::RolloutSpec {
        let defaults = model::RolloutSpec::default();
        let shared_volume = self.shared_volume.unwrap_or(defaults.shared_volume);
        let stop_first = exclusive && !shared_volume;
        if stop_first && self.strategy == Some(Strategy::StartFirst) {
            p.add(
                "rollout.strategy",
                "start-first would run two replicas on one writable volume",
                "write \"stop-first\", or shared_volume = true if the program allows it",
            );
        }
        let min_healthy = self.min_healthy.map_or(defaults.min_healthy, Duration::get);
        let progress_deadline =
            positive(p, "rollout.progress_deadline", self.progress_deadline, defaults.progress_deadline);
        if progress_deadline <= min_healthy && !progress_deadline.is_zero() {
            let key =
                if self.progress_deadline.is_some() { "rollout.progress_deadline" } else { "rollout.min_healthy" };
            let [deadline, healthy] = [progress_deadline, min_healthy].map(Duration::new);
            p.add(
                key,
                format!("progress_deadline {deadline} is not above min_healthy {healthy}"),
                "no replica could count before the rollout fails: raise progress_deadline or lower min_healthy",
            );
        }
        model::RolloutSpec {
            strategy: match self.strategy {
                Some(Strategy::StopFirst) => model::Strategy::StopFirst,
                Some(Strategy::StartFirst) => model::Strategy::StartFirst,
                None if stop_first => model::Strategy::StopFirst,
                None => defaults.strategy,
            },
            batch: bounded(p, "rollout.batch", self.batch, defaults.batch, &BATCH),
            min_healthy,
            progress_deadline,
            monitor: self.monitor.map_or(defaults.monitor, Duration::get),
            on_failure: match self.on_failure {
                Some(OnFailure::Pause) => model::OnFailure::Pause,
                Some(OnFailure::Rollback) => model::OnFailure::Rollback,
                None => defaults.on_failure,
            },
            shared_volume,
        }
    }

    /// Writes the section with every default.
    pub(super) fn write(model: &model::RolloutSpec) -> Self {
        Self {
            strategy: Some(match model.strategy {
                model::Strategy::StartFirst => Strategy::StartFirst,
                model::Strategy::StopFirst => Strategy::StopFirst,
            }),
            batch: Some(model.batch),
            min_healthy: Some(model.min_healthy.into()),
            progress_deadline: Some(model.progress_deadline.into()),
            monitor: Some(model.monitor.into()),
            on_failure: Some(match model.on_failure {
                model::OnFailure::Rollback => OnFailure::Rollback,
                model::OnFailure::Pause => OnFailure::Pause,
            }),
            shared_volume: Some(model.shared_volume),
        }
    }
}
