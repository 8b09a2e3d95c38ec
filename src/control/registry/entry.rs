//! One instance in the registry: the public value, its lease, how it left, and the moves between its states.

use crate::control::events::EventKind;
use crate::control::registry::timers::{Mark, Timers};
use crate::control::registry::{Draft, Registration};
use crate::model::{Instance, InstanceId, InstanceState, ServiceSpec, Verdict};
use std::sync::Arc;
use std::time::Duration;

/// How long a registration lives without news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lease {
    length: Duration,
    /// Deadline in `clock::now_ms` milliseconds.
    until_ms: u64,
}

impl Lease {
    fn renewed(length: Duration, now_ms: u64) -> Self {
        let length_ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        Self { length, until_ms: now_ms.saturating_add(length_ms) }
    }
}

/// How an instance left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Departure {
    /// Until when it is listed, in `clock::now_ms` milliseconds.
    pub(super) until_ms: u64,
    /// Whether its lease ran out, so that a renewal brings it back.
    pub(super) expired: bool,
}

/// One registered instance. Shared with readers by `Arc`; a change copies it only while a reader holds it.
#[derive(Debug)]
pub(super) struct Entry {
    instance: Arc<Instance>,
    lease: Option<Lease>,
    departure: Option<Departure>,
    /// The state that an undone drain returns to, while it drains.
    drained_from: Option<InstanceState>,
    mark: Mark,
}

impl Entry {
    /// Makes the entry of a checked registration.
    pub(super) fn new(
        id: InstanceId,
        registration: Registration,
        first: InstanceState,
        lease: Option<Duration>,
        now_ms: u64,
    ) -> Self {
        let is_ready = first == InstanceState::Ready;
        let reason = if is_ready { "registered; nothing to check" } else { "waits for its first passed check" };
        let Registration { service, source, node, address, ports, .. } = registration;
        let instance = Instance {
            weight: registration.weight,
            traits: registration.traits,
            state: first,
            reason: reason.into(),
            workload: registration.workload,
            revision: registration.revision,
            created_ms: now_ms,
            ready_ms: if is_ready { now_ms } else { 0 },
            ..Instance::new(id, service, source, node, address, ports)
        };
        let lease = lease.map(|length| Lease::renewed(length, now_ms));
        Self { instance: Arc::new(instance), lease, departure: None, drained_from: None, mark: Mark::default() }
    }

    pub(super) fn instance_mut(&mut self) -> &mut Instance {
        Arc::make_mut(&mut self.instance)
    }

    /// Fits a living instance to a changed definition.
    pub(super) fn adapt(&mut self, spec: &ServiceSpec) {
        let instance = self.instance_mut();
        instance.ports.resize(spec.ports.len(), 0);
        if spec.health.is_none() {
            instance.verdict = Verdict::Unknown;
        }
    }

    /// Moves the deadline of the lease.
    pub(super) fn renew(&mut self, now_ms: u64) {
        self.lease = self.lease.map(|lease| Lease::renewed(lease.length, now_ms));
    }

    /// Brings an expired instance back: through the gate again, or into the drain it was in.
    pub(super) fn revive(&mut self, first: InstanceState, now_ms: u64) {
        self.departure = None;
        self.renew(now_ms);
        let state = if self.drained_from.is_some() { InstanceState::Draining } else { first };
        let instance = self.instance_mut();
        instance.state = state;
        instance.verdict = Verdict::Unknown;
        instance.reason = "renewed after its lease expired".into();
        if state == InstanceState::Ready {
            instance.ready_ms = now_ms;
        }
    }

    pub(super) fn depart(&mut self, reason: &str, departure: Departure) {
        self.departure = Some(departure);
        let instance = self.instance_mut();
        instance.state = InstanceState::Gone;
        instance.reason = reason.into();
    }

    pub(super) fn drain(&mut self, reason: &str) {
        self.drained_from = Some(self.instance.state);
        let instance = self.instance_mut();
        instance.state = InstanceState::Draining;
        instance.reason = reason.into();
    }

    pub(super) fn undo_drain(&mut self) {
        let state = self.drained_from.take().unwrap_or(InstanceState::Starting);
        let instance = self.instance_mut();
        instance.state = state;
        instance.reason = "drain undone".into();
    }

    /// Opens the gate: it passed its first check.
    pub(super) fn ready(&mut self, verdict: Verdict, reason: &str, now_ms: u64) {
        let instance = self.instance_mut();
        instance.state = InstanceState::Ready;
        instance.ready_ms = now_ms;
        self.judge(verdict, reason);
    }

    pub(super) fn judge(&mut self, verdict: Verdict, reason: &str) {
        let instance = self.instance_mut();
        instance.verdict = verdict;
        instance.reason = reason.into();
    }

    /// Asks to be looked at when its lease or its listing ends.
    pub(super) fn schedule(&mut self, timers: &mut Timers) {
        if let Some(due_ms) = self.due_ms() {
            timers.schedule(&self.instance.id, &mut self.mark, due_ms);
        }
    }

    /// Returns whether a record that came due is the valid one; then there is none any more.
    pub(super) fn take_mark(&mut self, mark: Mark) -> bool {
        let valid = self.mark == mark;
        if valid {
            self.mark = Mark::default();
        }
        valid
    }

    pub(super) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Returns the length of its lease.
    pub(super) fn lease(&self) -> Option<Duration> {
        self.lease.map(|lease| lease.length)
    }

    pub(super) fn departure(&self) -> Option<Departure> {
        self.departure
    }

    pub(super) fn lives(&self) -> bool {
        self.departure.is_none()
    }

    pub(super) fn is_in_table(&self) -> bool {
        matches!(self.instance.state, InstanceState::Ready | InstanceState::Draining)
    }

    pub(super) fn standing(&self) -> (InstanceState, Verdict) {
        (self.instance.state, self.instance.verdict)
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        match self.departure {
            Some(departure) => Some(departure.until_ms),
            None => self.lease.map(|lease| lease.until_ms),
        }
    }

    pub(super) fn draft(&self, kind: EventKind, message: String) -> Draft {
        Draft { kind, service: self.instance.service.clone(), instance: Some(self.instance.id.clone()), message }
    }
}
