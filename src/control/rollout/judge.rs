//! The state machine of one rollout: when it has succeeded, when it has failed, and why.

use crate::model::{InstanceId, RolloutSpec};
use std::fmt;
use std::time::Duration;

/// Exits of new replicas that fail a rollout: the first is forgiven, because a port may have been taken in between, and
/// the second, because what it depends on may have been a moment late.
const MAX_EXITS: u32 = 3;

/// Why a rollout failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A replica cannot be started, and trying again is of no use.
    CannotStart {
        /// What the runtime said.
        message: String,
    },
    /// New replicas end by themselves.
    Exits {
        /// The last one.
        instance: InstanceId,
        /// How it ended, for people.
        how: String,
    },
    /// A new replica did not pass its check before the deadline.
    NeverHealthy {
        /// The one that waited longest.
        instance: InstanceId,
        /// What its last check found.
        answer: String,
    },
    /// A replica that had proved itself failed its check while the new revision was watched.
    Unhealthy {
        /// Which.
        instance: InstanceId,
        /// What its last check found.
        answer: String,
    },
    /// The rollout got no further.
    Deadline {
        /// For how long.
        waited: Duration,
        /// New replicas that have proved themselves.
        healthy: u32,
        /// Replicas that are wanted.
        wanted: u32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotStart { message } => write!(f, "cannot start: {message}"),
            Self::Exits { instance, how } => write!(f, "{instance} {how}"),
            Self::NeverHealthy { instance, answer } => {
                write!(f, "{instance} never got healthy; its last check: {answer}")
            }
            Self::Unhealthy { instance, answer } => {
                write!(f, "{instance} got unhealthy while it was watched; its last check: {answer}")
            }
            Self::Deadline { waited, healthy, wanted } => {
                write!(f, "no progress for {waited:?}: {healthy} of {wanted} replicas are healthy")
            }
        }
    }
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Replicas are being replaced.
    Progressing,
    /// All are replaced; they are watched until then, in milliseconds of `clock::now_ms`.
    Monitoring {
        /// When the watch ends.
        until_ms: u64,
    },
    /// The revision works.
    Completed,
    /// The revision does not work.
    Failed(Cause),
}

/// What is seen at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Replicas that are wanted.
    pub wanted: u32,
    /// New replicas that have proved themselves.
    pub healthy: u32,
    /// New replicas that run.
    pub updated: u32,
    /// Replicas that run in another way and are not being stopped.
    pub old: u32,
    /// When the next new replica will have proved itself, in milliseconds of `clock::now_ms`.
    pub proof_ms: Option<u64>,
    /// The new replica that has waited longest for its first passed check, and what the last one found.
    pub waiting: Option<(InstanceId, String)>,
    /// A new replica that was ready and fails its check, and what the last one found.
    pub unhealthy: Option<(InstanceId, String)>,
}

/// What people see of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The revision that is rolled out.
    pub revision: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// New replicas that run.
    pub updated: u32,
    /// New replicas that have proved themselves.
    pub healthy: u32,
    /// Replicas that run in another way and are not being stopped.
    pub old: u32,
}

/// One rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    revision: u64,
    policy: RolloutSpec,
    /// A new replica's time counts from here at the earliest, in milliseconds of `clock::now_ms`.
    from_ms: u64,
    phase: Phase,
    /// When it got further last.
    progress_ms: u64,
    /// Most new replicas that had proved themselves at a time.
    best: u32,
    /// Fewest old replicas at a time.
    least_old: u32,
    exits: u32,
    last: View,
}

impl Rollout {
    /// Begins one; with `is_trusted` (what is wanted ran before) replicas that are ready already have proved themselves.
    pub fn new(revision: u64, policy: RolloutSpec, is_trusted: bool, now_ms: u64) -> Self {
        Self {
            revision,
            policy,
            from_ms: if is_trusted { 0 } else { now_ms },
            phase: Phase::Progressing,
            progress_ms: now_ms,
            best: 0,
            least_old: u32::MAX,
            exits: 0,
            last: View::default(),
        }
    }

    /// Makes one that is over: what is wanted ran before.
    pub fn completed(revision: u64, policy: RolloutSpec) -> Self {
        Self { phase: Phase::Completed, ..Self::new(revision, policy, true, 0) }
    }

    /// Returns how it goes.
    pub fn policy(&self) -> &RolloutSpec {
        &self.policy
    }

    /// Returns when a replica that has been ready since then has proved itself; only a rollout that goes on asks for proof.
    pub fn proof_ms(&self, ready_ms: u64) -> u64 {
        if matches!(self.phase, Phase::Completed) {
            return 0;
        }
        ready_ms.max(self.from_ms).saturating_add(millis(self.policy.min_healthy))
    }

    /// Looks at what there is now; returns when time alone changes the judgement.
    pub fn observe(&mut self, view: View, now_ms: u64) -> Option<u64> {
        let proof_ms = view.proof_ms;
        self.last = view;
        let view = &self.last;
        match self.phase {
            Phase::Progressing => {
                if view.healthy > self.best || view.old < self.least_old {
                    self.best = self.best.max(view.healthy);
                    self.least_old = self.least_old.min(view.old);
                    self.progress_ms = now_ms;
                }
                if view.healthy >= view.wanted && view.old == 0 {
                    return self.replaced(now_ms);
                }
                let deadline_ms = self.progress_ms.saturating_add(millis(self.policy.progress_deadline));
                if now_ms >= deadline_ms {
                    self.phase = Phase::Failed(self.overdue());
                    return None;
                }
                Some(proof_ms.map_or(deadline_ms, |proof_ms| proof_ms.min(deadline_ms)))
            }
            Phase::Monitoring { until_ms } => {
                if let Some((instance, answer)) = view.unhealthy.clone() {
                    self.phase = Phase::Failed(Cause::Unhealthy { instance, answer });
                    return None;
                }
                if now_ms >= until_ms {
                    self.phase = Phase::Completed;
                    return None;
                }
                Some(until_ms)
            }
            Phase::Completed | Phase::Failed(_) => None,
        }
    }

    /// Hears that a new replica ended by itself.
    pub fn exited(&mut self, instance: &InstanceId, how: &str) {
        self.exits = self.exits.saturating_add(1);
        let over = match self.phase {
            Phase::Progressing => self.exits >= MAX_EXITS,
            Phase::Monitoring { .. } => true,
            Phase::Completed | Phase::Failed(_) => false,
        };
        if over {
            self.phase = Phase::Failed(Cause::Exits { instance: instance.clone(), how: how.to_owned() });
        }
    }

    /// Hears that a new replica cannot be started.
    pub fn unstartable(&mut self, message: &str) {
        if self.goes_on() {
            self.phase = Phase::Failed(Cause::CannotStart { message: message.to_owned() });
        }
    }

    /// Ends in success after all: it had failed, there was nothing to go back to, and now it works.
    pub fn recovered(&mut self) {
        self.phase = Phase::Completed;
    }

    /// Returns true while it is neither won nor lost.
    pub fn goes_on(&self) -> bool {
        matches!(self.phase, Phase::Progressing | Phase::Monitoring { .. })
    }

    /// Returns where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Returns the revision that is rolled out.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns what people see.
    pub fn progress(&self) -> Progress {
        let View { wanted, healthy, updated, old, .. } = self.last;
        Progress { revision: self.revision, phase: self.phase.clone(), wanted, updated, healthy, old }
    }

    fn replaced(&mut self, now_ms: u64) -> Option<u64> {
        if self.policy.monitor.is_zero() {
            self.phase = Phase::Completed;
            return None;
        }
        let until_ms = now_ms.saturating_add(millis(self.policy.monitor));
        self.phase = Phase::Monitoring { until_ms };
        Some(until_ms)
    }

    fn overdue(&self) -> Cause {
        match self.last.waiting.clone().or_else(|| self.last.unhealthy.clone()) {
            Some((instance, answer)) => Cause::NeverHealthy { instance, answer },
            None => Cause::Deadline {
                waited: self.policy.progress_deadline,
                healthy: self.last.healthy,
                wanted: self.last.wanted,
            },
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Cause, Phase, Rollout, View};
    use crate::model::{InstanceId, RolloutSpec};
    use std::time::Duration;

    const START: u64 = 1_000_000;

    fn policy() -> RolloutSpec {
        RolloutSpec {
            min_healthy: Duration::from_secs(1),
            progress_deadline: Duration::from_secs(60),
            ..RolloutSpec::default()
        }
    }

    fn view(healthy: u32, updated: u32, old: u32) -> View {
        View { wanted: 3, healthy, updated, old, ..View::default() }
    }

    fn id(name: &str) -> InstanceId {
        InstanceId::parse(name).unwrap()
    }

    fn rollout() -> Rollout {
        Rollout::new(7, policy(), false, START)
    }

    #[test]
    fn completes_when_all_have_proved_themselves_and_nothing_old_is_left() {
        let mut rollout = rollout();
        for (healthy, updated, old) in [(0, 1, 3), (1, 2, 2), (2, 3, 1), (3, 3, 1), (2, 3, 0)] {
            assert_eq!(rollout.observe(view(healthy, updated, old), START + 5), Some(START + 60_005));
            assert_eq!(*rollout.phase(), Phase::Progressing);
        }
        assert_eq!(rollout.observe(view(3, 3, 0), START + 9), None);
        assert_eq!(*rollout.phase(), Phase::Completed);
        let progress = rollout.progress();
        assert_eq!((progress.revision, progress.healthy, progress.updated, progress.old), (7, 3, 3, 0));
        rollout.exited(&id("web-a"), "exited");
        rollout.unstartable("no");
        rollout.observe(view(0, 0, 0), START + 900_000);
        assert_eq!(*rollout.phase(), Phase::Completed, "what is over stays so");
    }

    #[test]
    fn nothing_wanted_is_complete_once_nothing_old_is_left() {
        let mut rollout = rollout();
        rollout.observe(View::default(), START);
        assert_eq!(*rollout.phase(), Phase::Completed);
    }

    #[test]
    fn a_replica_proves_itself_after_min_healthy_under_this_revision() {
        assert_eq!(rollout().proof_ms(START + 500), START + 1_500);
        assert_eq!(rollout().proof_ms(5), START + 1_000, "ready before the change, judged under it");
        assert_eq!(Rollout::new(7, policy(), true, START).proof_ms(5), 1_005, "what ran before is trusted");
        assert_eq!(Rollout::completed(7, policy()).proof_ms(START), 0);
    }

    #[test]
    fn looks_again_when_the_next_one_has_proved_itself() {
        let mut rollout = rollout();
        let seen = View { proof_ms: Some(START + 1_000), ..view(0, 1, 3) };
        assert_eq!(rollout.observe(seen, START), Some(START + 1_000));
    }

    #[test]
    fn the_deadline_counts_from_the_last_progress() {
        let mut rollout = rollout();
        rollout.observe(view(0, 1, 3), START);
        rollout.observe(view(1, 2, 3), START + 59_000);
        rollout.observe(view(1, 2, 2), START + 60_000);
        rollout.observe(view(0, 2, 3), START + 100_000);
        rollout.observe(view(1, 2, 2), START + 110_000);
        assert_eq!(rollout.observe(view(1, 2, 2), START + 119_999), Some(START + 120_000), "going back is no progress");
        assert_eq!(rollout.observe(view(1, 2, 2), START + 120_000), None);
        let cause = Cause::Deadline { waited: Duration::from_secs(60), healthy: 1, wanted: 3 };
        assert_eq!(*rollout.phase(), Phase::Failed(cause.clone()));
        assert_eq!(cause.to_string(), "no progress for 60s: 1 of 3 replicas are healthy");
    }

    #[test]
    fn one_that_never_got_healthy_is_named_with_its_last_answer() {
        let mut rollout = rollout();
        rollout.observe(view(0, 1, 3), START);
        let waiting = Some((id("web-a"), "GET /health: 500".to_owned()));
        rollout.observe(View { waiting, ..view(0, 1, 3) }, START + 60_000);
        let Phase::Failed(cause) = rollout.phase() else { panic!("{rollout:?}") };
        assert_eq!(cause.to_string(), "web-a never got healthy; its last check: GET /health: 500");
    }

    #[test]
    fn the_third_exit_fails_it() {
        let mut rollout = rollout();
        for attempt in ["web-a", "web-b"] {
            rollout.exited(&id(attempt), "exited with status 3");
            assert!(rollout.goes_on());
        }
        rollout.exited(&id("web-c"), "exited with status 3");
        let Phase::Failed(cause) = rollout.phase() else { panic!("{rollout:?}") };
        assert_eq!(cause.to_string(), "web-c exited with status 3");
    }

    #[test]
    fn what_cannot_be_started_fails_it_at_once() {
        let mut rollout = rollout();
        rollout.unstartable("cannot run /nothing: no such file");
        let Phase::Failed(cause) = rollout.phase() else { panic!("{rollout:?}") };
        assert_eq!(cause.to_string(), "cannot start: cannot run /nothing: no such file");
    }

    #[test]
    fn watched_replicas_must_stay_well() {
        let watched = RolloutSpec { monitor: Duration::from_secs(30), ..policy() };
        let begin = || {
            let mut rollout = Rollout::new(7, watched, false, START);
            rollout.exited(&id("web-a"), "exited");
            assert_eq!(rollout.observe(view(3, 3, 0), START), Some(START + 30_000));
            assert_eq!(*rollout.phase(), Phase::Monitoring { until_ms: START + 30_000 });
            rollout
        };
        let mut well = begin();
        assert_eq!(well.observe(view(3, 3, 0), START + 29_999), Some(START + 30_000));
        well.observe(view(3, 3, 0), START + 30_000);
        assert_eq!(*well.phase(), Phase::Completed);
        let mut exits = begin();
        exits.exited(&id("web-b"), "exited with status 1");
        assert!(matches!(exits.phase(), Phase::Failed(Cause::Exits { .. })));
        let mut sick = begin();
        let unhealthy = Some((id("web-c"), "connect: refused".to_owned()));
        sick.observe(View { unhealthy, ..view(2, 3, 0) }, START + 10);
        let Phase::Failed(cause) = sick.phase() else { panic!("{sick:?}") };
        assert_eq!(cause.to_string(), "web-c got unhealthy while it was watched; its last check: connect: refused");
    }
}
