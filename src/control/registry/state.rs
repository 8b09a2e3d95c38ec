//! The registry as a value: `apply(command, now)` → outcome and effects. No I/O, no clock, no task.
//!
//! Owns services, instances, leases and the list of who went away; does not own the table. Invariants: an instance of a
//! service sits in exactly one group and in the index; whoever is gone stays listed for `gone_listed`, and only an
//! expired lease can be revived. Next on the path: `actor.rs`.

use crate::control::events::EventKind;
use crate::control::registry::admission::{self, lease_of};
use crate::control::registry::effects::amend;
use crate::control::registry::entry::{Departure, Entry};
use crate::control::registry::routes::RouteSources;
use crate::control::registry::timers::Timers;
use crate::control::registry::{Command, Done, Draft, Effects, Listing, Registration, RegistryError};
use crate::model::{Instance, InstanceId, InstanceState, ServiceName, ServiceSpec, Source, Transition, Verdict};
use crate::rng::Rng;
use crate::table::Change;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Exited and deregistered instances that one service lists at most; a crash loop must not fill the memory.
const MAX_DEPARTED: usize = 64;

/// Instances that one registry holds at most: twice the largest table that is measured.
const MAX_INSTANCES: usize = 200_000;

/// Why an instance of another Weir's table is what it is.
pub(super) const TOLD: &str = "as the table says that lists it";

/// How long things live.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Lease of a registration over the API that names none.
    pub(crate) default_lease: Duration,
    /// How long a gone instance is listed.
    pub(crate) gone_listed: Duration,
}

/// A service and its instances by the order of their registration.
#[derive(Debug)]
struct Group {
    spec: Arc<ServiceSpec>,
    entries: BTreeMap<u64, Entry>,
    /// Who is gone for good, oldest first.
    departed: VecDeque<u64>,
}

/// All services and instances.
#[derive(Debug)]
pub(crate) struct State {
    groups: HashMap<ServiceName, Group>,
    index: HashMap<InstanceId, (ServiceName, u64)>,
    timers: Timers,
    last_seq: u64,
    rules: Rules,
    pub(super) routes: RouteSources,
    /// For the ids of registrations that name none.
    rng: Rng,
}

pub(super) type Outcome = Result<Done, RegistryError>;

impl State {
    /// Makes an empty registry.
    pub(crate) fn new(rules: Rules, rng: Rng) -> Self {
        Self {
            groups: HashMap::new(),
            index: HashMap::new(),
            timers: Timers::default(),
            last_seq: 0,
            rules,
            routes: RouteSources::default(),
            rng,
        }
    }

    /// Carries out one command; a refused one changes nothing, but for the accepted parts of a contribution.
    pub(crate) fn apply(&mut self, command: Command, now_ms: u64) -> (Outcome, Effects) {
        let mut effects = Effects::default();
        let outcome = match command {
            Command::Contribute(contribution) => self.contribute(*contribution, now_ms, &mut effects),
            Command::Register(registration) => self.register(registration, None, now_ms, &mut effects),
            Command::Renew(id) => self.renew(&id, now_ms, &mut effects),
            Command::Gone { id, reason } => self.gone(&id, &reason, now_ms, &mut effects),
            Command::Withdraw { id, reason } => self.withdraw(&id, &reason, &mut effects),
            Command::Restore(id) => self.restore(&id, &mut effects),
            Command::Report { id, transition, reason } => self.report(&id, transition, &reason, now_ms, &mut effects),
            Command::Expire => {
                self.expire(now_ms, &mut effects);
                Ok(Done::Applied)
            }
        };
        (outcome, effects)
    }

    pub(super) fn define(&mut self, spec: Arc<ServiceSpec>, effects: &mut Effects) {
        let name = spec.name.clone();
        let message = match self.groups.get_mut(&name) {
            Some(group) if group.spec == spec => return,
            Some(group) => {
                for entry in group.entries.values_mut().filter(|entry| entry.lives()) {
                    entry.adapt(&spec);
                }
                group.spec = spec;
                "definition changed"
            }
            None => {
                let group = Group { spec, entries: BTreeMap::new(), departed: VecDeque::new() };
                self.groups.insert(name.clone(), group);
                "defined"
            }
        };
        effects.drafts.push(Draft {
            kind: EventKind::ServiceDefined,
            service: name.clone(),
            instance: None,
            message: message.to_owned(),
        });
        effects.touched.push(name.clone());
        effects.noticed.push(name);
    }

    pub(super) fn undefine(&mut self, name: &ServiceName, effects: &mut Effects) -> Outcome {
        let group = self.groups.remove(name).ok_or_else(|| RegistryError::UnknownService(name.clone()))?;
        for entry in group.entries.values() {
            self.index.remove(&entry.instance().id);
        }
        effects.drafts.push(Draft {
            kind: EventKind::ServiceRemoved,
            service: name.clone(),
            instance: None,
            message: format!("removed with {} instances", group.entries.values().filter(|e| e.lives()).count()),
        });
        effects.touched.push(name.clone());
        effects.noticed.push(name.clone());
        effects.removal = true;
        Ok(Done::Applied)
    }

    /// Checks a registration without carrying it out; returns it complete.
    pub(crate) fn check(&self, registration: Registration) -> Result<Registration, RegistryError> {
        let group = self.groups.get(&registration.service);
        let spec = &group.ok_or_else(|| RegistryError::UnknownService(registration.service.clone()))?.spec;
        let mut registration = admission::check(registration, spec)?;
        registration.lease = lease_of(&registration, self.rules.default_lease)?;
        let known = registration.id.as_ref().and_then(|id| self.instance(id));
        match known.filter(|instance| instance.state != InstanceState::Gone) {
            Some(instance) => Err(RegistryError::Duplicate(instance.id.clone())),
            None => Ok(registration),
        }
    }

    /// Registers an instance; `first` is the state that it starts in when that is known.
    pub(super) fn register(
        &mut self,
        registration: Registration,
        first: Option<InstanceState>,
        now_ms: u64,
        effects: &mut Effects,
    ) -> Outcome {
        let group = self.groups.get(&registration.service);
        let spec = group.ok_or_else(|| RegistryError::UnknownService(registration.service.clone()))?.spec.clone();
        let registration = admission::check(registration, &spec)?;
        let lease = lease_of(&registration, self.rules.default_lease)?;
        if let Some(id) = &registration.id
            && let Ok((_, entry)) = find(&mut self.groups, &self.index, id)
        {
            if entry.lives() {
                return amend(entry, &registration, effects);
            }
            // Whoever is listed as gone makes room for the new registration.
            self.remove(id);
        }
        if self.index.len() >= MAX_INSTANCES {
            return Err(RegistryError::Invalid(format!("the registry is full: it holds {MAX_INSTANCES} instances")));
        }
        let id = registration.id.clone().unwrap_or_else(|| self.free_id(&registration.service));
        let was_ready = first == Some(InstanceState::Ready);
        let first = first.unwrap_or_else(|| admission::first_state(&spec, &registration.ports));
        let reason = if registration.source == Source::Feed { TOLD } else { "served before Weir was started again" };
        let mut entry = Entry::new(id, registration, first, lease, now_ms);
        if was_ready {
            entry.judge(Verdict::Unknown, reason);
        }
        Ok(Done::Registered(self.insert(entry, effects)))
    }

    fn insert(&mut self, mut entry: Entry, effects: &mut Effects) -> Arc<Instance> {
        let instance = entry.instance().clone();
        self.last_seq += 1;
        self.index.insert(instance.id.clone(), (instance.service.clone(), self.last_seq));
        entry.schedule(&mut self.timers);
        effects.drafts.push(entry.draft(EventKind::InstanceRegistered, admission::describe(&instance, entry.lease())));
        if instance.state == InstanceState::Ready {
            effects.drafts.push(entry.draft(EventKind::InstanceReady, instance.reason.to_string()));
            effects.touched.push(instance.service.clone());
        }
        effects.noticed.push(instance.service.clone());
        if let Some(group) = self.groups.get_mut(&instance.service) {
            group.entries.insert(self.last_seq, entry);
        }
        instance
    }

    fn free_id(&mut self, service: &ServiceName) -> InstanceId {
        loop {
            let id = InstanceId::random(service, self.rng.next_u64());
            if !self.index.contains_key(&id) {
                return id;
            }
        }
    }

    fn renew(&mut self, id: &InstanceId, now_ms: u64, effects: &mut Effects) -> Outcome {
        let (spec, entry) = find(&mut self.groups, &self.index, id)?;
        let Some(length) = entry.lease() else {
            return Err(RegistryError::Invalid(format!("instance {id} has no lease to renew")));
        };
        match entry.departure() {
            None => entry.renew(now_ms),
            Some(departure) if departure.expired => {
                let before = entry.standing();
                entry.revive(admission::first_state(spec, &entry.instance().ports), now_ms);
                effects.drafts.push(entry.draft(EventKind::LeaseRevived, "renewed after its lease expired".to_owned()));
                effects.record(before, entry);
                entry.schedule(&mut self.timers);
            }
            Some(_) => return Err(RegistryError::UnknownInstance(id.clone())),
        }
        Ok(Done::Renewed(length))
    }

    pub(super) fn gone(&mut self, id: &InstanceId, reason: &str, now_ms: u64, effects: &mut Effects) -> Outcome {
        let until_ms = now_ms.saturating_add(millis(self.rules.gone_listed));
        let (_, entry) = find(&mut self.groups, &self.index, id)?;
        let before = entry.standing();
        match entry.departure() {
            // Told twice, by the exit and by whoever stopped it: nothing more to do.
            Some(Departure { expired: false, .. }) => return Ok(Done::Applied),
            // Deregistered while listed as expired: no renewal brings it back now.
            Some(Departure { until_ms: listed_ms, .. }) => {
                entry.depart(reason, Departure { until_ms: listed_ms, expired: false });
            }
            None => entry.depart(reason, Departure { until_ms, expired: false }),
        }
        effects.drafts.push(entry.draft(EventKind::InstanceGone, reason.to_owned()));
        effects.record(before, entry);
        entry.schedule(&mut self.timers);
        self.bound_departed(id);
        Ok(Done::Applied)
    }

    /// Forgets the oldest of those who are gone for good when a service lists too many.
    fn bound_departed(&mut self, id: &InstanceId) {
        let Some((name, seq)) = self.index.get(id) else { return };
        let Some(group) = self.groups.get_mut(name) else { return };
        group.departed.push_back(*seq);
        if group.departed.len() > MAX_DEPARTED
            && let Some(oldest) = group.departed.pop_front()
            && let Some(entry) = group.entries.remove(&oldest)
        {
            self.index.remove(&entry.instance().id);
        }
    }

    pub(super) fn withdraw(&mut self, id: &InstanceId, reason: &str, effects: &mut Effects) -> Outcome {
        let (_, entry) = find_living(&mut self.groups, &self.index, id)?;
        let service = entry.instance().service.clone();
        if entry.instance().state != InstanceState::Draining {
            let before = entry.standing();
            entry.drain(reason);
            effects.drafts.push(entry.draft(EventKind::InstanceDraining, reason.to_owned()));
            effects.record(before, entry);
        }
        Ok(Done::Withdrawn(service, id.clone()))
    }

    pub(super) fn restore(&mut self, id: &InstanceId, effects: &mut Effects) -> Outcome {
        let (_, entry) = find_living(&mut self.groups, &self.index, id)?;
        if entry.instance().state == InstanceState::Draining {
            let before = entry.standing();
            entry.undo_drain();
            let kind = match entry.instance().state {
                InstanceState::Ready => EventKind::InstanceReady,
                _ => EventKind::InstanceRegistered,
            };
            effects.drafts.push(entry.draft(kind, entry.instance().reason.to_string()));
            effects.record(before, entry);
        }
        Ok(Done::Applied)
    }

    pub(super) fn report(
        &mut self,
        id: &InstanceId,
        transition: Transition,
        reason: &str,
        now_ms: u64,
        effects: &mut Effects,
    ) -> Outcome {
        let (spec, entry) = find_living(&mut self.groups, &self.index, id)?;
        let before = entry.standing();
        // Without a configured check there is no verdict once the one connection opened the gate.
        let shut = before.0 == InstanceState::Starting && transition.to == Verdict::Unhealthy;
        let verdict = if spec.health.is_some() || shut { transition.to } else { Verdict::Unknown };
        let kind = match (before.0, transition.to) {
            (InstanceState::Starting, Verdict::Healthy) => {
                entry.ready(verdict, reason, now_ms);
                EventKind::InstanceReady
            }
            (InstanceState::Starting | InstanceState::Ready, _) if verdict != before.1 => {
                entry.judge(verdict, reason);
                match verdict {
                    Verdict::Unhealthy => EventKind::InstanceUnhealthy,
                    Verdict::Healthy | Verdict::Unknown => EventKind::InstanceHealthy,
                }
            }
            // A draining instance is not checked; what is known already is no news.
            _ => return Ok(Done::Applied),
        };
        // A first verdict that changes nothing (the service got a check while it ran) is no news for people.
        if before.1 != Verdict::Unknown || kind != EventKind::InstanceHealthy {
            effects.drafts.push(entry.draft(kind, reason.to_owned()));
        }
        effects.record(before, entry);
        Ok(Done::Applied)
    }

    fn expire(&mut self, now_ms: u64, effects: &mut Effects) {
        while let Some((id, mark)) = self.timers.pop_due(now_ms) {
            let Ok((_, entry)) = find(&mut self.groups, &self.index, &id) else { continue };
            if !entry.take_mark(mark) {
                continue;
            }
            let due = entry.due_ms().is_some_and(|due_ms| due_ms <= now_ms);
            match (due, entry.departure(), entry.lease()) {
                (true, Some(_), _) => {
                    effects.noticed.push(entry.instance().service.clone());
                    self.remove(&id);
                }
                (true, None, Some(length)) => {
                    let (before, reason) = (entry.standing(), format!("no renewal for {length:?}"));
                    let until_ms = now_ms.saturating_add(millis(self.rules.gone_listed));
                    entry.depart(&reason, Departure { until_ms, expired: true });
                    effects.drafts.push(entry.draft(EventKind::LeaseExpired, reason));
                    effects.record(before, entry);
                    entry.schedule(&mut self.timers);
                }
                (true, None, None) | (false, ..) => entry.schedule(&mut self.timers),
            }
        }
    }

    fn remove(&mut self, id: &InstanceId) {
        let Some((name, seq)) = self.index.remove(id) else { return };
        if let Some(group) = self.groups.get_mut(&name) {
            group.entries.remove(&seq);
            group.departed.retain(|departed| *departed != seq);
        }
    }

    /// Returns when [`Command::Expire`] has something to do next, in `clock::now_ms` milliseconds.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Returns what the table must know of a service now; clones only its routable instances.
    pub(crate) fn change(&self, name: &ServiceName) -> Change {
        let Some(group) = self.groups.get(name) else { return Change::Remove(name.clone()) };
        let routable = group.entries.values().filter(|entry| entry.is_in_table());
        Change::Set {
            spec: group.spec.clone(),
            instances: routable.map(|entry| Instance::clone(entry.instance())).collect(),
        }
    }

    /// Returns all instances, gone ones included, service by service in the order of registration.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let entries = self.groups.values().flat_map(|group| group.entries.values());
        entries.map(|entry| entry.instance().clone()).collect()
    }

    /// Returns one instance, also when it is gone but still listed.
    pub(crate) fn instance(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        Some(self.entry(id)?.instance().clone())
    }

    /// The same with its lease and how it left.
    pub(super) fn entry(&self, id: &InstanceId) -> Option<&Entry> {
        let (name, seq) = self.index.get(id)?;
        self.groups.get(name)?.entries.get(seq)
    }

    /// Returns a service and its instances, gone ones included.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<Listing> {
        let group = self.groups.get(name)?;
        let instances = group.entries.values().map(|entry| entry.instance().clone()).collect();
        Some(Listing { spec: group.spec.clone(), instances })
    }

    /// Returns the definition of a service.
    pub(crate) fn spec(&self, name: &ServiceName) -> Option<Arc<ServiceSpec>> {
        self.groups.get(name).map(|group| group.spec.clone())
    }

    /// Returns the definitions of all services.
    pub(crate) fn specs(&self) -> Vec<Arc<ServiceSpec>> {
        self.groups.values().map(|group| group.spec.clone()).collect()
    }
}

fn find<'a>(
    groups: &'a mut HashMap<ServiceName, Group>,
    index: &HashMap<InstanceId, (ServiceName, u64)>,
    id: &InstanceId,
) -> Result<(&'a Arc<ServiceSpec>, &'a mut Entry), RegistryError> {
    let known = index.get(id).and_then(|(name, seq)| {
        let group = groups.get_mut(name)?;
        Some((&group.spec, group.entries.get_mut(seq)?))
    });
    known.ok_or_else(|| RegistryError::UnknownInstance(id.clone()))
}

fn find_living<'a>(
    groups: &'a mut HashMap<ServiceName, Group>,
    index: &HashMap<InstanceId, (ServiceName, u64)>,
    id: &InstanceId,
) -> Result<(&'a Arc<ServiceSpec>, &'a mut Entry), RegistryError> {
    let (spec, entry) = find(groups, index, id)?;
    match entry.departure() {
        None => Ok((spec, entry)),
        Some(departure) if departure.expired => Err(RegistryError::Expired(id.clone())),
        Some(_) => Err(RegistryError::UnknownInstance(id.clone())),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
