//! The only holder of the table's publisher: effects of commands, coalesced → build → publish → events and answers.
//!
//! The first change after a pause is published at once, the next ones at most each `interval`; a removal is never
//! delayed and takes everything that waits along. Invariants: events are emitted in the order of their commands, after
//! the publish that shows them, with its generation; every caller is answered. Next on the path: `table/build.rs`.

use crate::balance::EndpointStats;
use crate::control::events::Events;
use crate::control::registry::{Answer, Done, Draft, Effects, RegistryError, State};
use crate::model::{InstanceId, ListenerSpec, RouteSpec, ServiceName};
use crate::table::{self, Changes, Snapshot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A caller that is answered once its change is visible.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<Answer, RegistryError>>,
    /// What the registry said.
    pub(crate) outcome: Result<Done, RegistryError>,
}

/// What waits for the next publish.
#[derive(Debug, Default)]
struct Pending {
    services: BTreeSet<ServiceName>,
    routes: Option<Arc<[RouteSpec]>>,
    listeners: Option<Arc<[ListenerSpec]>>,
    drafts: Vec<Draft>,
    waiters: Vec<Waiter>,
    changes_table: bool,
    removal: bool,
}

/// Coalesces changes and publishes them.
#[derive(Debug)]
pub(crate) struct Publisher {
    table: table::Publisher,
    events: Events,
    interval_ms: u64,
    /// When it last published, in `clock::now_ms` milliseconds; 0 before the first.
    last_ms: u64,
    pending: Pending,
}

impl Publisher {
    /// Makes the publisher of a table; publishes follow each other at least `interval` apart, removals apart.
    pub(crate) fn new(table: table::Publisher, events: Events, interval: Duration) -> Self {
        let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        Self { table, events, interval_ms, last_ms: 0, pending: Pending::default() }
    }

    /// Takes the effects of one command and its caller.
    pub(crate) fn stage(&mut self, effects: Effects, waiter: Option<Waiter>) {
        let pending = &mut self.pending;
        pending.changes_table |= effects.changes_table();
        pending.removal |= effects.removal;
        pending.services.extend(effects.touched);
        pending.routes = effects.routes.or(pending.routes.take());
        pending.listeners = effects.listeners.or(pending.listeners.take());
        pending.drafts.extend(effects.drafts);
        pending.waiters.extend(waiter);
        if !pending.changes_table {
            // Nothing that the table shows is pending: what happened is visible as it is.
            let snapshot = self.table.current();
            self.settle(&snapshot);
        }
    }

    /// Returns when the pending changes must be published; `None` when there are none.
    pub(crate) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let pending = &self.pending;
        let not_before = if pending.removal || self.last_ms == 0 { 0 } else { self.last_ms + self.interval_ms };
        pending.changes_table.then_some(not_before.max(now_ms))
    }

    /// Publishes the pending changes if it is time.
    pub(crate) fn publish_due(&mut self, state: &State, now_ms: u64) {
        if self.due_ms(now_ms).is_some_and(|due_ms| due_ms <= now_ms) {
            self.publish_all(state, now_ms);
        }
    }

    /// Publishes the pending changes now, if there are any.
    pub(crate) fn publish_all(&mut self, state: &State, now_ms: u64) {
        if !self.pending.changes_table {
            return;
        }
        let changes = Changes {
            services: self.pending.services.iter().map(|name| state.change(name)).collect(),
            routes: self.pending.routes.take(),
            listeners: self.pending.listeners.take(),
        };
        let previous = self.table.current();
        let next = table::build(&previous, changes);
        self.table.publish(next);
        self.last_ms = now_ms;
        let current = self.table.current();
        for name in std::mem::take(&mut self.pending.services) {
            wake_waiting(&previous, &current, &name);
        }
        self.settle(&current);
    }

    /// Emits the events and answers the callers whose changes `snapshot` shows.
    fn settle(&mut self, snapshot: &Snapshot) {
        let Pending { drafts, waiters, .. } = std::mem::take(&mut self.pending);
        let generation = snapshot.generation;
        for Draft { kind, service, instance, message } in drafts {
            self.events.emit(generation, kind, Some(service), instance, message);
        }
        for Waiter { reply, outcome } in waiters {
            let answer = outcome.map(|done| {
                let stats = match &done {
                    Done::Withdrawn(service, id) => draining(snapshot, service, id),
                    Done::Applied | Done::Registered(_) | Done::Renewed(_) => None,
                };
                Answer { generation, done, stats }
            });
            // A caller that gave up is no error: the change stands.
            drop(reply.send(answer));
        }
    }
}

/// Lets requests that wait for a free replica try a new one.
fn wake_waiting(before: &Snapshot, after: &Snapshot, name: &ServiceName) {
    let Some(service) = after.services.get(name) else { return };
    let known = before.services.get(name).map_or(0, |service| service.endpoints.len());
    if service.stats.waiting() > 0 && service.endpoints.len() > known {
        let limit = service.spec.limits.concurrency.unwrap_or(u32::MAX) as usize;
        service.stats.wake(limit.saturating_mul(service.endpoints.len() - known));
    }
}

fn draining(snapshot: &Snapshot, service: &ServiceName, id: &InstanceId) -> Option<Arc<EndpointStats>> {
    let service = snapshot.services.get(service)?;
    let (_, candidate) = service.draining.iter().find(|(endpoint, _)| endpoint.id == *id)?;
    Some(candidate.stats.clone())
}
