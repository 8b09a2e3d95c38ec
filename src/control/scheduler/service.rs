//! What the scheduler knows of one service: its definition, its replicas, their exits, its rollout. Values only; no I/O.
//!
//! Replicas are told apart by the fingerprint of how they run: those that run as is wanted, those that run as the stable
//! revision says, and others. Each group is planned for itself, with the number that `control/rollout` gives it.

use crate::control::registry::Listing;
use crate::control::rollout::{Counts, Phase as RolloutPhase, Progress, Rollout, Targets, View, held, targets};
use crate::control::runtime::Exit;
use crate::control::scheduler::{
    Action, Desired, Ending, Kept, Next, Phase, Plan, Replica, Restarts, Resume, ServiceStatus, Stop, plan,
};
use crate::model::{InstanceId, InstanceState, RunSpec, ServiceName, ServiceSpec, Strategy, Verdict};
use crate::spec::fingerprint;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Signals by which people and the system end a process that is well: HUP, INT, KILL, TERM.
const OUTSIDE_SIGNALS: [i32; 4] = [1, 2, 9, 15];

/// A definition that can be run.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// The definition.
    pub(super) spec: Arc<ServiceSpec>,
    /// How it is run; kept when the definition no longer says, to stop what runs.
    pub(super) run: RunSpec,
    /// The fingerprint of that.
    pub(super) fingerprint: u64,
}

impl Base {
    /// Returns `None` where Weir runs nothing.
    fn new(spec: Arc<ServiceSpec>) -> Option<Self> {
        let run = spec.run.clone()?;
        let fingerprint = fingerprint(&spec);
        Some(Self { spec, run, fingerprint })
    }
}

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    /// What is wanted.
    base: Base,
    /// What worked last; replicas of it are kept and started until what is wanted has proved itself.
    stable: Option<Base>,
    rollout: Rollout,
    /// Replicas wanted by the definition, or by the autoscaler after it.
    target: u32,
    /// The target when the rollout began; it counts until the rollout is over.
    frozen: u32,
    /// Replicas wanted by hand.
    pin: Option<u32>,
    replicas: BTreeMap<InstanceId, Replica>,
    /// What the last check of a replica that does not serve found.
    answers: BTreeMap<InstanceId, Arc<str>>,
    /// Exits by fingerprint and slot.
    slots: BTreeMap<u64, BTreeMap<u32, Restarts>>,
    /// When time alone changes the plan.
    wake_ms: Option<u64>,
    is_removed: bool,
}

/// How a replica's end changes things, for an event.
#[derive(Debug)]
pub(super) struct Ended {
    /// When its successor starts.
    pub(super) next: Next,
    /// How long it was in its last phase.
    pub(super) ran: Duration,
}

/// What to do now.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Steps for replicas that run as is wanted, and stops of others.
    pub(super) wanted: Vec<Action>,
    /// Steps for replicas that run as the stable revision says.
    pub(super) stable: Vec<Action>,
}

impl Service {
    /// Takes up a service whose replicas are to be run; `None` when it is none.
    pub(super) fn new(spec: Arc<ServiceSpec>, resume: Resume, now_ms: u64) -> Option<Self> {
        let (revision, policy, target) = (spec.revision, spec.rollout, spec.replicas);
        let base = Base::new(spec)?;
        let stable = resume.stable.and_then(Base::new);
        let rollout = match &stable {
            Some(stable) if stable.spec.revision == revision => Rollout::completed(revision, policy),
            _ => Rollout::new(revision, policy, false, now_ms),
        };
        Some(Self {
            base,
            stable,
            rollout,
            target,
            frozen: target,
            pin: resume.pin,
            replicas: BTreeMap::new(),
            answers: BTreeMap::new(),
            slots: BTreeMap::new(),
            wake_ms: None,
            is_removed: false,
        })
    }

    /// Takes a new definition; another revision or another way to run begins a rollout.
    pub(super) fn define(&mut self, spec: Arc<ServiceSpec>, now_ms: u64) {
        if Arc::ptr_eq(&spec, &self.base.spec) && !self.is_removed {
            return;
        }
        let (before, frozen) = (self.base.clone(), self.target());
        let was_removed = std::mem::take(&mut self.is_removed);
        let is_run = spec.run.is_some();
        if was_removed
            || before.spec.replicas != spec.replicas
            || before.spec.scale != spec.scale
            || before.spec.run.is_some() != is_run
        {
            self.target = if was_removed { spec.replicas } else { self.begin_with(&spec) };
            self.slots.clear();
        }
        self.base = Base::new(spec.clone()).unwrap_or_else(|| Base { spec: spec.clone(), ..before.clone() });
        if !was_removed && before.spec.revision == spec.revision && before.fingerprint == self.base.fingerprint {
            return;
        }
        let is_trusted = self.stable.as_ref().is_some_and(|stable| same_but_revision(&stable.spec, &spec));
        self.rollout = Rollout::new(spec.revision, spec.rollout, is_trusted, now_ms);
        let is_resized = before.spec.replicas != spec.replicas || before.spec.scale != spec.scale;
        self.frozen = if is_resized { self.target } else { frozen };
        // What rests must prove itself all the same; afterwards it rests again.
        self.frozen = self.frozen.max(u32::from(spec.scales_to_zero()));
        self.slots.remove(&self.base.fingerprint);
        let stable = self.stable.as_ref().map(|stable| stable.fingerprint);
        self.slots.retain(|fingerprint, _| Some(*fingerprint) == stable);
    }

    /// Sets the wanted number by hand, or gives it back to the definition and the autoscaler, and forgets exits, so that a
    /// quarantined service is tried again; returns the wanted numbers before and after.
    pub(super) fn pin(&mut self, pin: Option<u32>) -> (u32, u32) {
        let before = self.wanted();
        self.slots.clear();
        self.pin = pin;
        if pin.is_none() {
            // A scaled service goes on from there, others want what is defined.
            let scale = self.base.spec.scale.as_ref();
            self.target = scale.map_or(self.base.spec.replicas, |scale| before.clamp(scale.min, scale.max));
            self.frozen = self.target;
        }
        (before, self.wanted())
    }

    /// Takes the autoscaler's number, unless one was set by hand; it counts once no rollout goes on. Returns whether that
    /// changes anything.
    pub(super) fn set_target(&mut self, target: u32) -> bool {
        let takes = self.pin.is_none() && self.base.spec.scale.is_some() && self.target != target && !self.is_removed;
        if takes {
            self.target = target;
            // What rests is woken whatever goes on.
            self.frozen = if self.frozen == 0 { target } else { self.frozen };
        }
        takes
    }

    /// Returns what a changed definition wants: of a scaled service what it has now, within the new bounds.
    fn begin_with(&self, spec: &ServiceSpec) -> u32 {
        match &spec.scale {
            Some(scale) if self.base.spec.replicas == spec.replicas && self.target() > 0 => {
                self.target().clamp(scale.min, scale.max)
            }
            _ => spec.replicas,
        }
    }

    /// Wants nothing any more: the service was removed.
    pub(super) fn remove(&mut self) {
        self.is_removed = true;
    }

    /// Returns true when the service was removed; it is dropped once its last replica is stopped.
    pub(super) fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// Returns true when it can be scaled.
    pub(super) fn is_run(&self) -> bool {
        self.base.spec.run.is_some()
    }

    /// Takes over what the registry says of the replicas.
    pub(super) fn observe(&mut self, listing: &Listing, now_ms: u64) {
        for instance in &listing.instances {
            let Some(replica) = self.replicas.get_mut(&instance.id) else { continue };
            if matches!(replica.phase, Phase::Launching | Phase::Stopping) {
                continue;
            }
            let (phase, since_ms) = match (instance.state, instance.verdict) {
                (InstanceState::Ready, Verdict::Unhealthy) => (Phase::Unhealthy, now_ms),
                (InstanceState::Ready, _) => (Phase::Ready, instance.ready_ms),
                (InstanceState::Starting, _) => (Phase::Starting, now_ms),
                (InstanceState::Draining | InstanceState::Gone, _) => continue,
            };
            if instance.verdict == Verdict::Unhealthy {
                self.answers.insert(instance.id.clone(), instance.reason.as_ref().into());
            }
            if replica.phase != phase {
                // Well again after it was unhealthy: what it proves counts from now.
                let again = replica.phase == Phase::Unhealthy && phase == Phase::Ready;
                replica.phase = phase;
                replica.since_ms = if again { now_ms } else { since_ms };
            }
        }
    }

    /// Decides what to do now.
    pub(super) fn plan(&mut self, now_ms: u64) -> Steps {
        let judged_ms = self.judge(now_ms);
        let counts = self.counts(now_ms);
        let has_stable = self.other_stable().is_some();
        let policy = *self.rollout.policy();
        let numbers = match self.rollout.phase() {
            _ if counts.wanted == 0 => Targets::default(),
            RolloutPhase::Failed(_) => held(&policy, &counts, has_stable),
            RolloutPhase::Progressing | RolloutPhase::Monitoring { .. } | RolloutPhase::Completed => {
                targets(&policy, &counts, has_stable)
            }
        };
        let wanted = self.plan_group(|is| is == Group::Wanted, &self.base, numbers.new, now_ms);
        let mut others = self.plan_group(|is| is == Group::Other, &self.base, numbers.others, now_ms);
        let mut stable = match self.other_stable() {
            Some(base) => self.plan_group(|is| is == Group::Stable, base, numbers.stable, now_ms),
            None => Plan::default(),
        };
        for action in others.actions.iter_mut().chain(&mut stable.actions) {
            if let Action::Stop { why, .. } = action
                && *why == Stop::ScaledDown
            {
                *why = Stop::Outdated;
            }
        }
        self.wake_ms = [judged_ms, wanted.wake_ms, others.wake_ms, stable.wake_ms].into_iter().flatten().min();
        others.actions.extend(wanted.actions);
        Steps { wanted: others.actions, stable: stable.actions }
    }

    /// Plans the replicas of one group as if they were a service of their own.
    fn plan_group(&self, is_in: impl Fn(Group) -> bool, base: &Base, number: u32, now_ms: u64) -> Plan {
        let replicas: Vec<Replica> = self
            .replicas
            .values()
            .filter(|replica| is_in(self.group(replica)))
            // Those of the third group differ among themselves; how does not matter.
            .map(|replica| Replica { fingerprint: base.fingerprint, ..replica.clone() })
            .collect();
        let desired = Desired {
            replicas: number,
            fingerprint: base.fingerprint,
            replace_after_ms: millis(base.run.replace_after),
            is_exclusive: self.rollout.policy().strategy == Strategy::StopFirst,
        };
        let none = BTreeMap::new();
        let is_other = is_in(Group::Other);
        let slots = self.slots.get(&base.fingerprint).filter(|_| !is_other).unwrap_or(&none);
        let mut plan = plan(&desired, &replicas, slots, now_ms);
        if is_other {
            // What runs in a way that nobody wants is never started again.
            plan.actions.retain(|action| matches!(action, Action::Stop { .. }));
        }
        plan
    }

    /// Shows the rollout what there is; returns when time alone changes its judgement.
    fn judge(&mut self, now_ms: u64) -> Option<u64> {
        if *self.rollout.phase() == RolloutPhase::Completed || self.is_removed {
            return None;
        }
        let counts = self.counts(now_ms);
        let new = || self.replicas.values().filter(|replica| self.group(replica) == Group::Wanted);
        let answer = |replica: &Replica| {
            let found = self.answers.get(&replica.id).map_or("none has ended yet", |answer| answer);
            (replica.id.clone(), found.to_owned())
        };
        let ready = new().filter(|replica| replica.phase == Phase::Ready);
        let proofs = ready.map(|replica| self.rollout.proof_ms(replica.since_ms)).filter(|proof_ms| *proof_ms > now_ms);
        let starting = new().filter(|replica| replica.phase == Phase::Starting).min_by_key(|replica| replica.since_ms);
        let view = View {
            wanted: counts.wanted,
            healthy: counts.proven,
            updated: counts.new,
            old: counts.stable + counts.others,
            proof_ms: proofs.min(),
            waiting: starting.map(answer),
            unhealthy: new().find(|replica| replica.phase == Phase::Unhealthy).map(answer),
        };
        let works = view.wanted > 0 && view.healthy >= view.wanted && view.old == 0;
        let proof_ms = view.proof_ms;
        let wake_ms = self.rollout.observe(view, now_ms);
        if matches!(self.rollout.phase(), RolloutPhase::Failed(_)) && self.other_stable().is_none() {
            // With nothing to go back to it was tried on.
            if !works {
                return proof_ms;
            }
            self.rollout.recovered();
        }
        if *self.rollout.phase() == RolloutPhase::Completed {
            self.stable = Some(self.base.clone());
        }
        wake_ms
    }

    fn counts(&self, now_ms: u64) -> Counts {
        let mut counts = Counts { wanted: self.wanted(), ..Counts::default() };
        for replica in self.replicas.values() {
            match (self.group(replica), replica.phase) {
                (Group::Wanted, Phase::Stopping) => counts.stopping_new += 1,
                (_, Phase::Stopping) => counts.stopping += 1,
                (Group::Wanted, phase) => {
                    counts.new += 1;
                    let is_proven =
                        phase == Phase::Ready && !replica.drain && self.rollout.proof_ms(replica.since_ms) <= now_ms;
                    counts.proven += u32::from(is_proven);
                }
                (Group::Stable, phase) => {
                    counts.stable += 1;
                    counts.stable_ready += u32::from(phase == Phase::Ready);
                }
                (Group::Other, _) => counts.others += 1,
            }
        }
        counts
    }

    fn group(&self, replica: &Replica) -> Group {
        if replica.fingerprint == self.base.fingerprint {
            Group::Wanted
        } else if self.stable.as_ref().is_some_and(|stable| stable.fingerprint == replica.fingerprint) {
            Group::Stable
        } else {
            Group::Other
        }
    }

    /// Returns the stable revision when it runs in another way than the wanted one.
    pub(super) fn other_stable(&self) -> Option<&Base> {
        self.stable.as_ref().filter(|stable| stable.fingerprint != self.base.fingerprint)
    }

    /// Notes a replica that is being started as `base` says.
    pub(super) fn launch(&mut self, id: InstanceId, slot: u32, fingerprint: u64, now_ms: u64) {
        let phase = Phase::Launching;
        self.replicas.insert(id.clone(), Replica { id, slot, fingerprint, phase, since_ms: now_ms, drain: false });
    }

    /// Takes up a replica of an earlier Weir.
    pub(super) fn take_up(&mut self, kept: &Kept, now_ms: u64) {
        let phase = if kept.ready { Phase::Ready } else { Phase::Starting };
        let (id, slot, fingerprint) = (kept.running.id.clone(), kept.running.slot, kept.running.fingerprint);
        let replica = Replica { id: id.clone(), slot, fingerprint, phase, since_ms: now_ms, drain: kept.drained };
        self.replicas.insert(id, replica);
    }

    /// Moves a replica to another phase.
    pub(super) fn enter(&mut self, id: &InstanceId, phase: Phase, now_ms: u64) {
        if let Some(replica) = self.replicas.get_mut(id) {
            replica.phase = phase;
            replica.since_ms = now_ms;
        }
    }

    /// Forgets a replica that was stopped.
    pub(super) fn forget(&mut self, id: &InstanceId) {
        self.replicas.remove(id);
        self.answers.remove(id);
    }

    /// Forgets a replica that ended by itself and counts its exit.
    pub(super) fn ended(&mut self, id: &InstanceId, exit: Exit, now_ms: u64) -> Option<Ended> {
        let replica = self.replicas.remove(id)?;
        self.answers.remove(id);
        let ready_ms = (replica.phase == Phase::Ready).then_some(replica.since_ms);
        let ending = match (exit, ready_ms) {
            (Exit::Signal(signal), Some(ready_ms)) if OUTSIDE_SIGNALS.contains(&signal) => Ending::Killed { ready_ms },
            _ => Ending::ByItself { ready_ms },
        };
        if self.group(&replica) == Group::Wanted && matches!(ending, Ending::ByItself { .. }) {
            self.rollout.exited(id, &exit.to_string());
        }
        Some(self.count(&replica, ending, now_ms))
    }

    /// Forgets a replica that could not be started and counts that.
    pub(super) fn unstarted(&mut self, id: &InstanceId, why: &str, ending: Ending, now_ms: u64) -> Option<Ended> {
        let replica = self.replicas.remove(id)?;
        if self.group(&replica) == Group::Wanted {
            match ending {
                Ending::Unstartable => self.rollout.unstartable(why),
                // The rollout waits for the engine as long as its deadline lets it.
                Ending::Away => {}
                Ending::ByItself { .. } | Ending::Killed { .. } => {
                    self.rollout.exited(id, &format!("failed to start: {why}"));
                }
            }
        }
        Some(self.count(&replica, ending, now_ms))
    }

    fn count(&mut self, replica: &Replica, ending: Ending, now_ms: u64) -> Ended {
        let slots = self.slots.entry(replica.fingerprint).or_default();
        let next = slots.entry(replica.slot).or_default().ended(ending, now_ms);
        Ended { next, ran: Duration::from_millis(now_ms.saturating_sub(replica.since_ms)) }
    }

    /// Marks or unmarks a replica for being drained; false when it is not there or already stopped.
    pub(super) fn set_drain(&mut self, id: &InstanceId, drain: bool) -> bool {
        let replica = self.replicas.get_mut(id).filter(|replica| replica.phase != Phase::Stopping);
        replica.map(|replica| replica.drain = drain).is_some()
    }

    /// Returns one replica.
    pub(super) fn replica(&self, id: &InstanceId) -> Option<&Replica> {
        self.replicas.get(id)
    }

    /// Returns all replicas.
    pub(super) fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values()
    }

    /// Returns what is wanted.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// Returns what people see of its rollout.
    pub(super) fn progress(&self) -> Progress {
        self.rollout.progress()
    }

    /// Returns when time alone changes the plan.
    pub(super) fn wake_ms(&self) -> Option<u64> {
        self.wake_ms
    }

    /// Returns the numbers that people see.
    pub(super) fn status(&self, now_ms: u64) -> ServiceStatus {
        let count = |wanted: &dyn Fn(Phase) -> bool| {
            u32::try_from(self.replicas().filter(|replica| wanted(replica.phase)).count()).unwrap_or(u32::MAX)
        };
        let wanted = self.wanted();
        let slots = self.slots.get(&self.base.fingerprint);
        let blocked = slots.into_iter().flat_map(|slots| slots.range(..wanted));
        let in_quarantine = blocked.filter(|(_, slot)| slot.is_quarantined(now_ms)).count();
        ServiceStatus {
            name: self.base.spec.name.clone(),
            wanted,
            pinned: self.pin.is_some(),
            running: count(&|phase| matches!(phase, Phase::Starting | Phase::Ready | Phase::Unhealthy)),
            ready: count(&|phase| phase == Phase::Ready),
            quarantined: u32::try_from(in_quarantine).unwrap_or(u32::MAX),
            revision: self.base.spec.revision,
        }
    }

    /// Returns the name.
    pub(super) fn name(&self) -> &ServiceName {
        &self.base.spec.name
    }

    /// Returns how many replicas are wanted now.
    fn wanted(&self) -> u32 {
        if self.is_removed || !self.is_run() { 0 } else { self.pin.unwrap_or_else(|| self.target()) }
    }

    /// Returns whether no replica is wanted, and asking for one changes nothing.
    pub(super) fn is_off(&self) -> bool {
        self.wanted() == 0 && (self.pin.is_some() || !self.base.spec.scales_to_zero())
    }

    fn target(&self) -> u32 {
        if self.rollout.goes_on() { self.frozen } else { self.target }
    }
}

/// How a replica runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Wanted,
    Stable,
    Other,
}

fn same_but_revision(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    *one == ServiceSpec { revision: one.revision, ..other.clone() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
