//! What to start and what to stop, for one service on one node: a pure function.
//!
//! Replicas that are to leave (drained by hand, run in an old way, unhealthy or starting for too long) are replaced
//! start-first, one above the wanted number at a time; stop-first where a service must not be run twice. Whom to stop when fewer are wanted follows algorithms of the
//! product's design as far as they apply on one node: who does not serve first, then the youngest, which has the coldest
//! caches and the least proof of being well. Next on the path: `reconcile.rs`, which calls it after each event.

use crate::control::scheduler::Restarts;
use crate::model::InstanceId;
use std::collections::{BTreeMap, BTreeSet};

/// Replicas above the wanted number while some are being replaced.
const SURGE: usize = 1;

/// What is wanted of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Replicas that are to serve.
    pub replicas: u32,
    /// The fingerprint of how they are to run.
    pub fingerprint: u64,
    /// A replica that has not served for so many milliseconds is replaced.
    pub replace_after_ms: u64,
    /// Never more replicas than are wanted, those that are being stopped included: who is replaced stops first.
    pub is_exclusive: bool,
}

/// Where a replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being started; cannot be stopped yet.
    Launching,
    /// Runs, has not passed a check.
    Starting,
    /// Serves.
    Ready,
    /// Was ready, fails its checks.
    Unhealthy,
    /// Being stopped.
    Stopping,
}

/// One copy as it is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its instance.
    pub id: InstanceId,
    /// Which of the wanted copies it is; counts exits across successors.
    pub slot: u32,
    /// The fingerprint of how it runs.
    pub fingerprint: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Since when, in milliseconds of `clock::now_ms`.
    pub since_ms: u64,
    /// Somebody asked for it to be drained.
    pub drain: bool,
}

/// Why a replica is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Fewer run than are wanted.
    Missing,
    /// Another one is to leave once this one serves.
    Replaces,
}

/// Why a replica is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Fewer are wanted.
    ScaledDown,
    /// Asked for by hand; its replacement serves.
    Drained,
    /// It runs an old definition; its replacement serves.
    Outdated,
    /// It did not serve for too long.
    NotServing,
}

impl Stop {
    /// Returns the text that people see as the instance's reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScaledDown => "scaled down",
            Self::Drained => "drained by hand",
            Self::Outdated => "replaced: the definition changed",
            Self::NotServing => "replaced: it did not serve for too long",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a replica in this slot.
    Start {
        /// The slot.
        slot: u32,
        /// The reason.
        why: Start,
    },
    /// Stop this replica.
    Stop {
        /// Its instance.
        id: InstanceId,
        /// The reason.
        why: Stop,
    },
}

/// What to do now, and when to look again if nothing happens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Steps, stops first.
    pub actions: Vec<Action>,
    /// When time alone changes the plan, in milliseconds of `clock::now_ms`.
    pub wake_ms: Option<u64>,
}

impl Replica {
    /// Returns why the replica is to leave although replicas are wanted.
    fn leaves(&self, desired: &Desired, now_ms: u64) -> Option<Stop> {
        if self.drain {
            return Some(Stop::Drained);
        }
        if self.fingerprint != desired.fingerprint {
            return Some(Stop::Outdated);
        }
        self.overdue_ms(desired).is_some_and(|overdue_ms| overdue_ms <= now_ms).then_some(Stop::NotServing)
    }

    /// Returns when it is to be replaced if it goes on not serving.
    fn overdue_ms(&self, desired: &Desired) -> Option<u64> {
        let waits = matches!(self.phase, Phase::Starting | Phase::Unhealthy);
        waits.then(|| self.since_ms.saturating_add(desired.replace_after_ms))
    }
}

/// Decides for one service; `slots` has the exits of each slot.
pub fn plan(desired: &Desired, replicas: &[Replica], slots: &BTreeMap<u32, Restarts>, now_ms: u64) -> Plan {
    let mut seen = Seen::new(desired, replicas, now_ms);
    let mut actions = seen.stops();
    let (starts, blocked_ms) = seen.starts(slots, now_ms);
    actions.extend(starts);
    let overdue_ms = seen.keep.iter().filter_map(|replica| replica.overdue_ms(desired)).min();
    Plan { actions, wake_ms: [blocked_ms, overdue_ms].into_iter().flatten().min() }
}

/// The replicas sorted by what is to become of them.
struct Seen<'a> {
    wanted: usize,
    is_exclusive: bool,
    /// How many are being stopped.
    stopping: usize,
    /// Those that stay.
    keep: Vec<&'a Replica>,
    /// Those that leave once others serve: ready, unhealthy or not yet to be stopped.
    leave: Vec<(&'a Replica, Stop)>,
    /// Those that leave at once, because they never served.
    useless: Vec<(&'a Replica, Stop)>,
}

impl<'a> Seen<'a> {
    fn new(desired: &Desired, replicas: &'a [Replica], now_ms: u64) -> Self {
        let wanted = usize::try_from(desired.replicas).unwrap_or(usize::MAX);
        let (keep, leave, useless) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = Self { wanted, is_exclusive: desired.is_exclusive, stopping: 0, keep, leave, useless };
        for replica in replicas {
            if replica.phase == Phase::Stopping {
                seen.stopping += 1;
                continue;
            }
            match replica.leaves(desired, now_ms) {
                None => seen.keep.push(replica),
                Some(why) if replica.phase == Phase::Starting => seen.useless.push((replica, why)),
                Some(why) => seen.leave.push((replica, why)),
            }
        }
        seen
    }

    /// Takes out and returns what is to be stopped now.
    fn stops(&mut self) -> Vec<Action> {
        let useless = std::mem::take(&mut self.useless).into_iter().map(|(replica, why)| stop(replica, why));
        let mut actions: Vec<Action> = useless.collect();
        let surplus = self.keep.len().saturating_sub(self.wanted);
        for replica in victims(&self.keep, surplus) {
            self.keep.retain(|kept| kept.id != replica.id);
            actions.push(stop(replica, Stop::ScaledDown));
        }
        let serving = self.keep.iter().filter(|replica| replica.phase == Phase::Ready).count();
        // Who does not serve goes first; at the end of the list because it is taken from there.
        self.leave.sort_by_key(|(replica, _)| (replica.phase != Phase::Ready, replica.since_ms));
        let (launching, mut stoppable): (Vec<_>, Vec<_>) =
            self.leave.drain(..).partition(|(replica, _)| replica.phase == Phase::Launching);
        // Where nothing may be started beside them, one goes as soon as all others serve.
        let spare = usize::from(self.is_exclusive && serving == self.keep.len() && self.stopping == 0);
        while serving + stoppable.len() + spare > self.wanted
            && let Some((replica, why)) = stoppable.pop()
        {
            actions.push(stop(replica, why));
        }
        self.leave = stoppable;
        self.leave.extend(launching);
        self.stopping += actions.len();
        actions
    }

    /// Returns what is to be started now, and when the earliest slot that must wait is due.
    fn starts(&self, slots: &BTreeMap<u32, Restarts>, now_ms: u64) -> (Vec<Action>, Option<u64>) {
        let missing = self.wanted.saturating_sub(self.keep.len());
        let surge = if self.leave.is_empty() || self.is_exclusive { 0 } else { SURGE };
        let stopping = if self.is_exclusive { self.stopping } else { 0 };
        let room = self.wanted.saturating_add(surge).saturating_sub(self.keep.len() + self.leave.len() + stopping);
        let used: BTreeSet<u32> = self.keep.iter().map(|replica| replica.slot).collect();
        let (mut actions, mut blocked_ms) = (Vec::new(), None);
        let wanted = u32::try_from(self.wanted).unwrap_or(u32::MAX);
        for slot in (0..wanted).filter(|slot| !used.contains(slot)) {
            if actions.len() >= missing.min(room) {
                break;
            }
            let until_ms = slots.get(&slot).map_or(0, Restarts::blocked_until_ms);
            if until_ms > now_ms {
                blocked_ms = Some(blocked_ms.map_or(until_ms, |earlier: u64| earlier.min(until_ms)));
                continue;
            }
            let replaces = self.keep.len() + self.leave.len() + actions.len() >= self.wanted;
            actions.push(Action::Start { slot, why: if replaces { Start::Replaces } else { Start::Missing } });
        }
        (actions, blocked_ms)
    }
}

fn stop(replica: &Replica, why: Stop) -> Action {
    Action::Stop { id: replica.id.clone(), why }
}

/// Returns whom to stop when fewer are wanted: who does not serve first, then the youngest. One that is being launched
/// cannot be stopped yet, but counts: its turn comes when it runs.
fn victims<'a>(keep: &[&'a Replica], surplus: usize) -> Vec<&'a Replica> {
    let mut order: Vec<&Replica> = keep.to_vec();
    order.sort_by_key(|replica| {
        let rank = match replica.phase {
            Phase::Launching => 0,
            Phase::Starting => 1,
            Phase::Unhealthy => 2,
            Phase::Ready | Phase::Stopping => 3,
        };
        (rank, std::cmp::Reverse(replica.since_ms), replica.id.clone())
    });
    order.into_iter().take(surplus).filter(|replica| replica.phase != Phase::Launching).collect()
}
