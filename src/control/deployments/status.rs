//! What people see of revisions and rollouts.

use crate::control::rollout;
use crate::control::store::{ChangeSource, Outcome, Revision};
use crate::model::ServiceName;
use crate::spec;

/// A kept revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionStatus {
    /// Its number.
    pub number: u64,
    /// Where it came from.
    pub source: ChangeSource,
    /// When it was made, in milliseconds since the epoch.
    pub created_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it failed.
    pub cause: Option<String>,
    /// What people should know of it.
    pub note: Option<String>,
    /// Whether it is the wanted one.
    pub is_wanted: bool,
    /// Whether it is the last one that worked.
    pub is_stable: bool,
    /// The definition, with every default.
    pub definition: spec::Service,
}

/// Where the rollout of one revision stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutPhase {
    /// Replicas are being replaced.
    Progressing,
    /// All are replaced and watched for a while.
    Monitoring,
    /// The revision works.
    Completed,
    /// It failed; the last revision that worked is on its way back.
    RollingBack,
    /// It failed, and the last revision that worked serves again.
    RolledBack,
    /// It failed, and nothing was rolled back, or the rollback failed too.
    Failed,
    /// A later revision took its place before it was over.
    Superseded,
}

impl RolloutPhase {
    /// Returns the name as the API and the CLI show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Monitoring => "monitoring",
            Self::Completed => "completed",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
            Self::Superseded => "superseded",
        }
    }
}

/// The rollout of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutStatus {
    /// The service.
    pub service: ServiceName,
    /// The revision.
    pub revision: u64,
    /// Where it stands.
    pub phase: RolloutPhase,
    /// Replicas that are wanted; zero of numbers that are no longer known.
    pub wanted: u32,
    /// Replicas of this revision that run.
    pub updated: u32,
    /// Of these, those that have proved themselves.
    pub healthy: u32,
    /// Replicas of other revisions that are still to go.
    pub old: u32,
    /// Why it failed.
    pub cause: Option<String>,
    /// The revision that took its place, by a rollback or a later change.
    pub next: Option<u64>,
}

/// What a configuration file would change of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectionChange {
    /// It is new.
    Added(ServiceName),
    /// Its section was edited.
    Changed {
        /// The service.
        service: ServiceName,
        /// Whether running replicas are replaced.
        replaces: bool,
        /// Whether a number of replicas set by hand is dropped.
        unpins: bool,
    },
    /// It is no longer there, so it ends.
    Removed(ServiceName),
}

/// Puts together what is stored of a revision and what is seen of it.
pub(super) fn rollout_status(
    service: &ServiceName,
    revision: &Revision,
    next: Option<&Revision>,
    progress: Option<&rollout::Progress>,
) -> RolloutStatus {
    let is_rollback = next.is_some_and(|next| next.undoes == Some(revision.number));
    let phase = match (revision.outcome, progress.map(|progress| &progress.phase)) {
        (Outcome::Progressing, Some(rollout::Phase::Monitoring { .. })) => RolloutPhase::Monitoring,
        (Outcome::Progressing, _) => RolloutPhase::Progressing,
        (Outcome::Completed, _) => RolloutPhase::Completed,
        (Outcome::Failed, _) => RolloutPhase::Failed,
        (Outcome::Superseded, _) => RolloutPhase::Superseded,
        (Outcome::RolledBack, _) => match next.filter(|_| is_rollback).map(|next| next.outcome) {
            Some(Outcome::Progressing) => RolloutPhase::RollingBack,
            Some(Outcome::Failed) => RolloutPhase::Failed,
            Some(Outcome::Completed | Outcome::RolledBack | Outcome::Superseded) | None => RolloutPhase::RolledBack,
        },
    };
    RolloutStatus {
        service: service.clone(),
        revision: revision.number,
        phase,
        wanted: progress.map_or(0, |progress| progress.wanted),
        updated: progress.map_or(0, |progress| progress.updated),
        healthy: progress.map_or(0, |progress| progress.healthy),
        old: progress.map_or(0, |progress| progress.old),
        cause: revision.cause.clone(),
        next: next.map(|next| next.number),
    }
}
