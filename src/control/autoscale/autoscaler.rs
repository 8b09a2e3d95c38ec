//! The loop: once a second it looks at each scaled service and hands its recommendation to the scheduler.
//!
//! A service that has no replica is looked at as soon as the proxy rings for one. One task owns the state of all services.
//! While no service is scaled it waits for the registry to change and does nothing else. It never waits longer than for
//! the scheduler's answer.

use crate::clock;
use crate::control::autoscale::cold_start::ColdStart;
use crate::control::autoscale::handle::{Decision, Handle};
use crate::control::autoscale::load::Fleet;
use crate::control::autoscale::policy::{Because, Recommendation, Scaler};
use crate::control::autoscale::sample::Reading;
use crate::control::events::{Event, EventKind, Events};
use crate::control::registry;
use crate::control::scheduler::{self, ServiceStatus};
use crate::model::{InstanceId, ScaleSpec, ServiceName, ServiceSpec};
use crate::table::{Service, Snapshot, Table, Wake};
use crate::telemetry::Metrics;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::MissedTickBehavior;

/// Time between two looks: an order follows a step of load within one and a half of it.
const TICK: Duration = Duration::from_secs(1);
/// After a ring it looks again so soon: a burst brings more than its first request.
const GATHER: Duration = Duration::from_millis(100);
/// Replicas whose start is being timed; beyond that the rest is not measured.
const MAX_TIMED: usize = 1024;

/// What the autoscaler works with.
#[derive(Debug)]
pub struct Parts {
    /// Which services are scaled, and what is in flight there.
    pub table: Table,
    /// What the workers counted.
    pub metrics: Metrics,
    /// Takes the number of replicas.
    pub scheduler: scheduler::Handle,
    /// Tells when definitions change.
    pub registry: registry::Handle,
    /// Told of changes; asked when replicas start and become ready.
    pub events: Events,
}

/// Starts the autoscaler on the current runtime; it ends with the registry or the scheduler.
pub fn spawn(parts: Parts) -> Handle {
    let handle = Handle::default();
    let (notices, feed) = (parts.registry.watch(), parts.events.subscribe());
    let past = parts.events.recent();
    let autoscaler = Autoscaler {
        parts,
        notices,
        feed,
        past,
        handle: handle.clone(),
        services: BTreeMap::new(),
        starting: HashMap::new(),
    };
    tokio::spawn(autoscaler.run());
    handle
}

/// What is kept of one service.
#[derive(Debug)]
struct Scaled {
    scaler: Scaler,
    cold_start: ColdStart,
    before: Option<Reading>,
    spec: Arc<ServiceSpec>,
    wake: Arc<Wake>,
    /// Whether it has no replica, so that a ring is listened for.
    is_asleep: bool,
}

struct Autoscaler {
    parts: Parts,
    notices: broadcast::Receiver<ServiceName>,
    feed: broadcast::Receiver<Arc<Event>>,
    /// What happened before it listened: starts that may not be over.
    past: Vec<Arc<Event>>,
    handle: Handle,
    services: BTreeMap<ServiceName, Scaled>,
    /// When replicas that are not ready yet were started, in milliseconds since the Unix epoch.
    starting: HashMap<InstanceId, u64>,
}

impl Autoscaler {
    async fn run(mut self) {
        loop {
            // A notice may come before the table that it is about; the next one or the next tick sees it.
            while !self.follow() {
                match self.notices.recv().await {
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
                tokio::time::sleep(TICK / 10).await;
                while matches!(self.notices.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
            }
            let mut ticks = tokio::time::interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while self.follow() {
                let names = tokio::select! {
                    biased;
                    _ = ticks.tick() => self.services.keys().cloned().collect(),
                    rung = self.rung() => {
                        let waited_for = self.waited_for(rung);
                        if waited_for.is_empty() {
                            continue;
                        }
                        ticks.reset_after(GATHER);
                        waited_for
                    }
                };
                if !self.look_at(names).await {
                    return;
                }
            }
        }
    }

    /// Leaves out services for which nothing waits: the ring is an old one, of a time when they had a replica on its way.
    fn waited_for(&self, mut rung: Vec<ServiceName>) -> Vec<ServiceName> {
        let snapshot = self.parts.table.load();
        let waits = |service: &Arc<Service>| service.stats.still_waiting() > 0 || service.stats.others().queued() > 0;
        rung.retain(|name| snapshot.services.get(name).is_some_and(waits));
        rung
    }

    /// Waits until a replica is asked for of services that have none; returns which.
    async fn rung(&self) -> Vec<ServiceName> {
        let asleep = self.services.iter().filter(|(_, scaled)| scaled.is_asleep);
        let mut bells: Vec<_> = asleep.map(|(name, scaled)| (name, Box::pin(scaled.wake.rung()))).collect();
        poll_fn(|cx| {
            let mut rung = Vec::new();
            for (name, bell) in &mut bells {
                if bell.as_mut().poll(cx).is_ready() {
                    rung.push((*name).clone());
                }
            }
            if rung.is_empty() { Poll::Pending } else { Poll::Ready(rung) }
        })
        .await
    }

    /// Follows the table: which services are scaled; returns whether any is.
    fn follow(&mut self) -> bool {
        let snapshot = self.parts.table.load();
        let scaled = |service: &&Arc<Service>| service.spec.scale.is_some() && service.spec.run.is_some();
        self.services.retain(|name, _| snapshot.services.get(name).as_ref().is_some_and(scaled));
        self.handle.retain(|name| snapshot.services.get(name).as_ref().is_some_and(scaled));
        for service in snapshot.services.iter().filter(scaled) {
            if let Some(known) = self.services.get_mut(service.name()) {
                known.spec = service.spec.clone();
                continue;
            }
            let Some(scale) = &service.spec.scale else { continue };
            let scaler = Scaler::new(scale, service.spec.replicas, clock::now_ms());
            let (spec, cold_start) = (service.spec.clone(), ColdStart::default());
            let scaled =
                Scaled { scaler, cold_start, before: None, spec, wake: service.wake.clone(), is_asleep: false };
            self.services.insert(service.name().clone(), scaled);
        }
        !self.services.is_empty()
    }

    /// Looks at services once; false when the scheduler has ended.
    async fn look_at(&mut self, names: Vec<ServiceName>) -> bool {
        self.time_starts();
        let snapshot = self.parts.table.load();
        let statuses = self.parts.scheduler.status().await;
        for name in names {
            let Some(status) = statuses.iter().find(|status| status.name == name) else { continue };
            let Some((spec, made, fleet)) = self.decide(&snapshot, &name, status) else { continue };
            let Ok(applied) = self.apply(&name, &made, status).await else { return false };
            if let Some(scaled) = self.services.get_mut(&name) {
                // One that stays at zero all the same is looked at with the others.
                scaled.is_asleep = made.replicas == 0 && !status.pinned;
            }
            if applied {
                let message = describe(&name, &spec, status.wanted, &made);
                self.parts.events.emit(snapshot.generation, EventKind::Scaled, Some(name.clone()), None, message);
            }
            let decision = Decision {
                made,
                wanted: status.wanted,
                ready: fleet.ready,
                slots: fleet.slots,
                pinned: status.pinned,
                applied,
                at_unix_ms: clock::unix_ms(),
            };
            self.handle.note(&name, decision);
        }
        true
    }

    fn decide(
        &mut self,
        snapshot: &Snapshot,
        name: &ServiceName,
        status: &ServiceStatus,
    ) -> Option<(ScaleSpec, Recommendation, Fleet)> {
        let service = snapshot.services.get(name)?;
        let scaled = self.services.get_mut(name)?;
        let spec = scaled.spec.scale.clone()?;
        let now_ms = clock::now_ms();
        let reading = Reading::new(service, self.parts.metrics.service(name.as_str()), now_ms);
        let before = scaled.before.replace(reading)?;
        let fleet = Fleet {
            wanted: status.wanted,
            ready: u32::try_from(service.candidates(now_ms).count()).unwrap_or(u32::MAX),
            slots: scaled.spec.limits.concurrency.unwrap_or(1),
            cold_start_s: scaled.cold_start.p90_s(),
        };
        let made = scaled.scaler.recommend(&spec, &reading.since(&before), &fleet, now_ms);
        Some((spec, made, fleet))
    }

    async fn apply(
        &self,
        name: &ServiceName,
        made: &Recommendation,
        status: &ServiceStatus,
    ) -> Result<bool, scheduler::SchedulerError> {
        if status.pinned || made.because == Because::Hold || made.replicas == status.wanted {
            return Ok(false);
        }
        self.parts.scheduler.set_target(name, made.replicas).await
    }

    /// Reads from the feed how long replicas took to become ready.
    fn time_starts(&mut self) {
        for event in std::mem::take(&mut self.past) {
            self.time_start(&event);
        }
        loop {
            let event = match self.feed.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Lagged(_)) => {
                    self.starting.clear();
                    continue;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            };
            self.time_start(&event);
        }
    }

    fn time_start(&mut self, event: &Event) {
        let (Some(id), Some(name)) = (&event.instance, &event.service) else { return };
        let Some(scaled) = self.services.get_mut(name) else { return };
        match event.kind {
            EventKind::ReplicaStarting if self.starting.len() < MAX_TIMED => {
                self.starting.insert(id.clone(), event.at_unix_ms);
            }
            EventKind::InstanceReady => {
                if let Some(started_ms) = self.starting.remove(id) {
                    let took_ms = event.at_unix_ms.saturating_sub(started_ms);
                    scaled.cold_start.observe(took_ms as f64 / 1000.0);
                }
            }
            EventKind::InstanceGone | EventKind::ReplicaExited => drop(self.starting.remove(id)),
            _ => {}
        }
    }
}

/// Writes a change for people, with everything that led to it.
fn describe(name: &ServiceName, spec: &ScaleSpec, before: u32, made: &Recommendation) -> String {
    let Recommendation { replicas, because, rate, forecast, sigma, z, service_s, cv, .. } = made;
    let Recommendation { queued, cold_start_s, by_forecast, by_backlog, by_window, window_s, late_share, .. } = made;
    let idle = made.zero_after_s.map(|after_s| format!(", idle for {:.1} of {after_s:.0} s", made.idle_s));
    let of = match spec.policy {
        crate::model::ScalePolicy::Objective => "forecast",
        _ => "target",
    };
    format!(
        "{name} scales from {before} to {replicas} replicas by {}: {of} {by_forecast}, backlog {by_backlog}, window \
         {by_window} of {window_s:.0} s, bounds {} to {}; arrivals {rate:.1}/s, forecast {forecast:.1}/s + {z:.2} x \
         {sigma:.1}, {:.1} ms in service (cv {cv:.2}), {queued} waiting, cold start {cold_start_s:.1} s, late {:.2} %{}",
        because.as_str(),
        spec.min,
        spec.max,
        1000.0 * service_s,
        100.0 * late_share,
        idle.unwrap_or_default(),
    )
}
