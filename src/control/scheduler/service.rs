//! What the scheduler knows of one service: its definition, its replicas, their exits. Values only; no I/O.

use crate::control::registry::Listing;
use crate::control::runtime::Exit;
use crate::control::scheduler::{Desired, Ending, Next, Phase, Plan, Replica, Restarts, ServiceStatus, plan};
use crate::model::{InstanceId, InstanceState, RunSpec, ServiceName, ServiceSpec, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Signals by which people and the system end a process that is well: HUP, INT, KILL, TERM.
const OUTSIDE_SIGNALS: [i32; 4] = [1, 2, 9, 15];

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    spec: Arc<ServiceSpec>,
    /// What its replicas run; kept when the definition no longer says, to stop what runs.
    run: RunSpec,
    /// Replicas wanted now: the definition's number, the autoscaler's, or one by hand.
    wanted: u32,
    /// Whether the number was set by hand; then the autoscaler's does not count.
    pinned: bool,
    revision: u64,
    replicas: BTreeMap<InstanceId, Replica>,
    slots: BTreeMap<u32, Restarts>,
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

impl Service {
    /// Takes up a service whose replicas are to be run; `None` when it is none.
    pub(super) fn new(spec: Arc<ServiceSpec>) -> Option<Self> {
        let run = spec.run.clone()?;
        let wanted = spec.replicas;
        let (replicas, slots) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { spec, run, wanted, pinned: false, revision: 1, replicas, slots, wake_ms: None, is_removed: false })
    }

    /// Takes a new definition; a changed way to run raises the revision, so that every replica is replaced.
    pub(super) fn define(&mut self, spec: Arc<ServiceSpec>) {
        if Arc::ptr_eq(&spec, &self.spec) && !self.is_removed {
            return;
        }
        let run = spec.run.clone();
        if std::mem::take(&mut self.is_removed)
            || self.spec.replicas != spec.replicas
            || self.spec.scale != spec.scale
            || self.spec.run.is_some() != run.is_some()
        {
            self.wanted = self.begin_with(&spec);
            self.pinned = false;
            self.slots.clear();
        }
        let run = run.unwrap_or_else(|| self.run.clone());
        if differs(&self.run, &run) || self.spec.ports != spec.ports {
            self.revision += 1;
            self.slots.clear();
        }
        self.run = run;
        self.spec = spec;
    }

    /// Returns what a changed definition wants: of a scaled service what it has now, within the new bounds.
    fn begin_with(&self, spec: &ServiceSpec) -> u32 {
        match (&spec.run, &spec.scale) {
            (None, _) => 0,
            (Some(_), Some(scale)) if self.spec.replicas == spec.replicas && !self.pinned && self.wanted > 0 => {
                self.wanted.clamp(scale.min, scale.max)
            }
            (Some(_), _) => spec.replicas,
        }
    }

    /// Takes the autoscaler's number, unless one was set by hand; returns the number before if it was another.
    pub(super) fn set_target(&mut self, replicas: u32) -> Option<u32> {
        let takes = !self.pinned && self.spec.scale.is_some() && self.wanted != replicas && !self.is_removed;
        takes.then(|| std::mem::replace(&mut self.wanted, replicas))
    }

    /// Forgets the number that was set by hand: a scaled service goes on from there, others want what is defined.
    pub(super) fn unpin(&mut self) {
        self.pinned = false;
        self.wanted = match &self.spec.scale {
            Some(scale) => self.wanted.clamp(scale.min, scale.max),
            None => self.spec.replicas,
        };
        self.slots.clear();
    }

    /// Sets the wanted number by hand and forgets exits, so that a quarantined service is tried again; returns the number
    /// before.
    pub(super) fn scale(&mut self, replicas: u32) -> u32 {
        self.slots.clear();
        self.pinned = true;
        std::mem::replace(&mut self.wanted, replicas)
    }

    /// Wants nothing any more: the service was removed.
    pub(super) fn remove(&mut self) {
        self.wanted = 0;
        self.is_removed = true;
    }

    /// Returns true when the service was removed; it is dropped once its last replica is stopped.
    pub(super) fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// Returns true when it can be scaled.
    pub(super) fn is_run(&self) -> bool {
        self.spec.run.is_some()
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
            if replica.phase != phase {
                replica.phase = phase;
                replica.since_ms = since_ms;
            }
        }
    }

    /// Decides what to do now.
    pub(super) fn plan(&mut self, now_ms: u64) -> Plan {
        let desired = Desired {
            replicas: self.wanted,
            revision: self.revision,
            replace_after_ms: u64::try_from(self.run.replace_after.as_millis()).unwrap_or(u64::MAX),
        };
        let replicas: Vec<Replica> = self.replicas.values().cloned().collect();
        let plan = plan(&desired, &replicas, &self.slots, now_ms);
        self.wake_ms = plan.wake_ms;
        plan
    }

    /// Notes that a replica is being started.
    pub(super) fn launch(&mut self, id: InstanceId, slot: u32, now_ms: u64) {
        let (revision, phase, since_ms) = (self.revision, Phase::Launching, now_ms);
        let replica = Replica { id: id.clone(), slot, revision, phase, since_ms, drain: false };
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
    }

    /// Forgets a replica that ended by itself and counts its exit.
    pub(super) fn ended(&mut self, id: &InstanceId, exit: Exit, now_ms: u64) -> Option<Ended> {
        let replica = self.replicas.remove(id)?;
        let ready_ms = (replica.phase == Phase::Ready).then_some(replica.since_ms);
        let ending = match (exit, ready_ms) {
            (Exit::Signal(signal), Some(ready_ms)) if OUTSIDE_SIGNALS.contains(&signal) => Ending::Killed { ready_ms },
            _ => Ending::ByItself { ready_ms },
        };
        Some(self.count(&replica, ending, now_ms))
    }

    /// Forgets a replica that could not be started and counts that.
    pub(super) fn unstarted(&mut self, id: &InstanceId, can_retry: bool, now_ms: u64) -> Option<Ended> {
        let replica = self.replicas.remove(id)?;
        let ending = if can_retry { Ending::ByItself { ready_ms: None } } else { Ending::Unstartable };
        Some(self.count(&replica, ending, now_ms))
    }

    fn count(&mut self, replica: &Replica, ending: Ending, now_ms: u64) -> Ended {
        let next = self.slots.entry(replica.slot).or_default().ended(ending, now_ms);
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

    /// Returns the definition.
    pub(super) fn spec(&self) -> &Arc<ServiceSpec> {
        &self.spec
    }

    /// Returns how replicas are run.
    pub(super) fn run(&self) -> &RunSpec {
        &self.run
    }

    /// Returns the revision of the way to run.
    pub(super) fn revision(&self) -> u64 {
        self.revision
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
        let in_quarantine = self.slots.range(..self.wanted).filter(|(_, slot)| slot.is_quarantined(now_ms)).count();
        ServiceStatus {
            name: self.spec.name.clone(),
            wanted: self.wanted,
            pinned: self.pinned,
            running: count(&|phase| matches!(phase, Phase::Starting | Phase::Ready | Phase::Unhealthy)),
            ready: count(&|phase| phase == Phase::Ready),
            quarantined: u32::try_from(in_quarantine).unwrap_or(u32::MAX),
            revision: self.revision,
        }
    }

    /// Returns the name.
    pub(super) fn name(&self) -> &ServiceName {
        &self.spec.name
    }
}

/// Returns true when replicas of one must be replaced to run the other; how they are stopped does not matter.
fn differs(one: &RunSpec, other: &RunSpec) -> bool {
    one.command != other.command
        || one.env != other.env
        || one.directory != other.directory
        || one.container != other.container
}
