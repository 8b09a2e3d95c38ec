//! The task that keeps replicas as wanted.
//!
//! One task owns every [`Service`]. It wakes on a request, a notice of the registry, an event of the runtime, the end of an
//! action, or the time that a plan named; then it plans each service that something happened to and spawns the actions.
//! It never waits for an action itself, so one slow stop holds up nothing. Bounded: requests by the mailbox, starts by
//! [`MAX_STARTS`], stops by the number of replicas.

use crate::clock;
use crate::control::events::EventKind;
use crate::control::runtime::{Exit, RuntimeEvent, StartRequest};
use crate::control::scheduler::execute::{Done, StopRequest, Tools};
use crate::control::scheduler::handle::{MAX_REPLICAS, Owner, Request};
use crate::control::scheduler::service::{Base, Ended, Service};
use crate::control::scheduler::tell;
use crate::control::scheduler::{
    Action, Inheritance, Next, Parts, Phase, Resume, Rollouts, SchedulerError, Start, Stop,
};
use crate::model::{InstanceId, ServiceName, Source};
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

/// Starts under way at a time: a start is a fork, and a storm of them helps nobody.
const MAX_STARTS: usize = 16;
/// What woke the task.
enum Wake {
    Request(Option<Request>),
    Notice(Result<ServiceName, broadcast::error::RecvError>),
    Runtime(Result<RuntimeEvent, broadcast::error::RecvError>),
    Done(Done),
    Time,
}

/// The task's state.
pub(super) struct Reconciler {
    tools: Tools,
    requests: mpsc::Receiver<Request>,
    notices: broadcast::Receiver<ServiceName>,
    exits: broadcast::Receiver<RuntimeEvent>,
    hurry: watch::Sender<bool>,
    tasks: JoinSet<Done>,
    services: BTreeMap<ServiceName, Service>,
    /// Service of each replica.
    owners: HashMap<InstanceId, ServiceName>,
    /// Why replicas are being stopped.
    stopping: HashMap<InstanceId, Stop>,
    /// Ends that were heard before the start was.
    early: HashMap<InstanceId, Exit>,
    /// Services to plan.
    dirty: BTreeSet<ServiceName>,
    launching: usize,
    /// What an earlier Weir knew of services that are not defined yet.
    resume: BTreeMap<ServiceName, Resume>,
    /// Told how rollouts stand.
    progress: watch::Sender<Rollouts>,
    /// What an earlier Weir left, until it is taken up.
    inheritance: Inheritance,
    rng: Rng,
}

/// Which definition a replica is started by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Wanted,
    Stable,
}

impl Reconciler {
    /// Subscribes to registry and runtime; nothing is missed between this and `run`.
    pub(super) fn new(parts: Parts, requests: mpsc::Receiver<Request>, progress: watch::Sender<Rollouts>) -> Self {
        let Parts { registry, runtime, table, events, node, rng, store, inheritance, resume } = parts;
        let (hurry, hurried) = watch::channel(false);
        let (notices, exits) = (registry.watch(), runtime.watch());
        let tools = Tools { registry, runtime, table, events, node, store, hurry: hurried };
        Self {
            tools,
            requests,
            notices,
            exits,
            hurry,
            tasks: JoinSet::new(),
            services: BTreeMap::new(),
            owners: HashMap::new(),
            stopping: HashMap::new(),
            early: HashMap::new(),
            dirty: BTreeSet::new(),
            launching: 0,
            resume,
            progress,
            inheritance,
            rng,
        }
    }

    /// Runs until it is shut down or nobody can ask any more.
    pub(super) async fn run(mut self) {
        self.look_at_all().await;
        self.take_up().await;
        loop {
            self.act();
            match self.wake().await {
                Wake::Request(None) => return,
                Wake::Request(Some(Request::Release(reply))) => {
                    self.release().await;
                    let _ = reply.send(());
                    return;
                }
                Wake::Request(Some(Request::Shutdown(reply))) => {
                    self.shut_down().await;
                    // Nobody may be waiting any more.
                    let _ = reply.send(());
                    return;
                }
                Wake::Request(Some(request)) => self.answer(request).await,
                Wake::Notice(Ok(name)) => self.look_at(name).await,
                Wake::Notice(Err(_)) => self.look_at_all().await,
                Wake::Runtime(Ok(RuntimeEvent::Exited { id, exit })) => self.exited(&id, exit),
                Wake::Runtime(Err(_)) => self.look_for_exits().await,
                Wake::Done(done) => self.done(done).await,
                Wake::Time => self.mark_due(),
            }
        }
    }

    /// Takes up what an earlier Weir left, stops what nobody wants.
    async fn take_up(&mut self) {
        let Inheritance { kept, orphans, missing } = std::mem::take(&mut self.inheritance);
        let now_ms = clock::now_ms();
        for kept in &kept {
            let (id, name) = (kept.running.id.clone(), kept.running.service.clone());
            let Some(service) = self.services.get_mut(&name) else { continue };
            service.take_up(kept, now_ms);
            self.owners.insert(id.clone(), name.clone());
            let message = format!("replica {} of {name} runs on from before", kept.running.slot + 1);
            self.emit(EventKind::ReplicaAdopted, &name, Some(id), message);
        }
        for orphan in orphans {
            self.emit(EventKind::ReplicaOrphaned, &orphan.service, Some(orphan.id.clone()), orphan.to_string());
            self.tasks.spawn(self.tools.clone().stop_orphan(orphan.id));
        }
        self.tasks.spawn(self.tools.clone().forget_all(missing));
        if !kept.is_empty() {
            // What the registry says of them, and who ended between then and now.
            self.look_at_all().await;
            self.look_for_exits().await;
        }
    }

    /// Ends without touching a workload: waits for what is being started, abandons stops that wait for who uses it.
    async fn release(&mut self) {
        while self.launching > 0 {
            match self.tasks.join_next().await {
                Some(Ok(Done::Started(..) | Done::Unstarted { .. })) => self.launching -= 1,
                Some(_) => {}
                None => return,
            }
        }
        self.tasks.abort_all();
    }

    /// Waits for the next thing to look at; exits first, because a dead endpoint hurts.
    async fn wake(&mut self) -> Wake {
        let due_ms = self.services.values().filter_map(Service::wake_ms).min();
        let pause = due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(clock::now_ms())));
        tokio::select! {
            biased;
            event = self.exits.recv() => Wake::Runtime(event),
            Some(done) = self.tasks.join_next() => match done {
                Ok(done) => Wake::Done(done),
                Err(error) => {
                    tracing::error!(%error, "an action of the scheduler ended early");
                    Wake::Time
                }
            },
            notice = self.notices.recv() => Wake::Notice(notice),
            request = self.requests.recv() => Wake::Request(request),
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => Wake::Time,
        }
    }

    /// Plans each service that something happened to and spawns the actions.
    fn act(&mut self) {
        let now_ms = clock::now_ms();
        for name in std::mem::take(&mut self.dirty) {
            let Some(service) = self.services.get_mut(&name) else { continue };
            let steps = service.plan(now_ms);
            let all = steps.wanted.into_iter().map(|action| (By::Wanted, action));
            for (by, action) in all.chain(steps.stable.into_iter().map(|action| (By::Stable, action))) {
                match action {
                    Action::Stop { id, why } => self.stop(&name, &id, why, now_ms),
                    Action::Start { slot, why } if self.launching < MAX_STARTS => {
                        self.start(&name, by, (slot, why), now_ms);
                    }
                    Action::Start { .. } => {
                        // Its turn comes when a start under way is done.
                        self.dirty.insert(name.clone());
                    }
                }
            }
            let service = self.services.get(&name);
            if service.is_some_and(|service| tell::proxy(&self.tools.table.load(), service)) {
                tell::others(&self.tools.registry, &name);
            }
            self.drop_if_removed(&name);
            tell::progress(&self.progress, &name, self.services.get(&name));
        }
    }

    fn start(&mut self, name: &ServiceName, by: By, (slot, why): (u32, Start), now_ms: u64) {
        let Some(service) = self.services.get_mut(name) else { return };
        let base: Base = match (by, service.other_stable()) {
            (By::Stable, Some(stable)) => stable.clone(),
            _ => service.base().clone(),
        };
        let id = InstanceId::random(name, self.rng.next_u64());
        service.launch(id.clone(), slot, base.fingerprint, now_ms);
        let request = StartRequest {
            id: id.clone(),
            service: name.clone(),
            ports: base.spec.ports.iter().map(|port| port.name.clone()).collect(),
            revision: base.spec.revision,
            fingerprint: base.fingerprint,
            slot,
            run: base.run,
        };
        let message = match why {
            Start::Missing => format!("replica {} of {name} starts", slot + 1),
            Start::Replaces => format!("replica {} of {name} starts as a replacement", slot + 1),
        };
        self.launching += 1;
        self.owners.insert(id.clone(), name.clone());
        self.emit(EventKind::ReplicaStarting, name, Some(id), message);
        self.tasks.spawn(self.tools.clone().start(request));
    }

    fn stop(&mut self, name: &ServiceName, id: &InstanceId, why: Stop, now_ms: u64) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.enter(id, Phase::Stopping, now_ms);
        self.stopping.insert(id.clone(), why);
        let request = StopRequest {
            service: name.clone(),
            id: id.clone(),
            reason: why.as_str().to_owned(),
            drain: service.base().spec.drain_timeout,
            grace: service.base().run.stop_grace,
        };
        self.tasks.spawn(self.tools.clone().stop(request));
    }

    async fn answer(&mut self, request: Request) {
        // Whoever asked may have left; what was asked is done all the same.
        match request {
            Request::Pin(name, replicas, reply) => {
                let pinned = self.pin(&name, replicas).await;
                // Whoever is answered may rely on it: requests are held, or refused, as it says from now on.
                self.act();
                let _ = reply.send(pinned);
            }
            Request::Target(name, replicas, reply) => {
                let changes = self.services.get_mut(&name).is_some_and(|service| service.set_target(replicas));
                if changes {
                    self.dirty.insert(name);
                }
                let _ = reply.send(changes);
            }
            Request::Drain(id, drain, reply) => {
                let _ = reply.send(self.drain(&id, drain).await);
            }
            Request::Status(reply) => {
                let now_ms = clock::now_ms();
                let running = self.services.values().filter(|service| service.is_run());
                let _ = reply.send(running.map(|service| service.status(now_ms)).collect());
            }
            Request::Shutdown(_) | Request::Release(_) => debug_assert!(false, "`run` answers it"),
        }
    }

    async fn pin(&mut self, name: &ServiceName, pin: Option<u32>) -> Result<(), SchedulerError> {
        let service = self.scalable(name, pin.unwrap_or_default()).await?;
        let (before, after) = service.pin(pin);
        let how = if pin.is_some() { "" } else { ", no longer set by hand" };
        let message = format!("{name} scales from {before} to {after} replicas{how}");
        self.emit(EventKind::Scaled, name, None, message);
        self.dirty.insert(name.clone());
        Ok(())
    }

    /// Returns a service whose number of replicas may be set to this.
    async fn scalable(&mut self, name: &ServiceName, replicas: u32) -> Result<&mut Service, SchedulerError> {
        if replicas > MAX_REPLICAS {
            return Err(SchedulerError::TooMany(replicas));
        }
        // A definition that was accepted a moment ago may not have been noticed yet.
        self.look_at(name.clone()).await;
        let is_known = self.tools.registry.service(name).await.is_some();
        match self.services.get_mut(name) {
            Some(service) if service.is_run() && is_known => Ok(service),
            _ if is_known => Err(SchedulerError::NotRun(name.clone())),
            _ => Err(SchedulerError::UnknownService(name.clone())),
        }
    }

    async fn drain(&mut self, id: &InstanceId, drain: bool) -> Result<Owner, SchedulerError> {
        let Some(name) = self.owners.get(id) else {
            return match self.tools.registry.instance(id).await {
                Some(instance) if instance.source != Source::Scheduler => Ok(Owner::Others),
                _ => Err(SchedulerError::UnknownInstance(id.clone())),
            };
        };
        let marked = self.services.get_mut(name).is_some_and(|service| service.set_drain(id, drain));
        self.dirty.insert(name.clone());
        if marked { Ok(Owner::Scheduler) } else { Err(SchedulerError::Stopping(id.clone())) }
    }

    /// Reads a service from the registry.
    async fn look_at(&mut self, name: ServiceName) {
        match self.tools.registry.service(&name).await {
            Some(listing) => {
                match self.services.get_mut(&name) {
                    Some(service) => service.define(listing.spec.clone(), clock::now_ms()),
                    None => {
                        let resume = self.resume.get(&name).cloned().unwrap_or_default();
                        match Service::new(listing.spec.clone(), resume, clock::now_ms()) {
                            Some(service) => {
                                self.resume.remove(&name);
                                self.services.insert(name.clone(), service);
                            }
                            None => return,
                        }
                    }
                }
                if let Some(service) = self.services.get_mut(&name) {
                    service.observe(&listing, clock::now_ms());
                }
            }
            None => match self.services.get_mut(&name) {
                Some(service) => service.remove(),
                None => return,
            },
        }
        self.dirty.insert(name);
    }

    /// Reads all services, at the start and after missed notices.
    async fn look_at_all(&mut self) {
        let mut names: BTreeSet<ServiceName> = self.services.keys().cloned().collect();
        names.extend(self.tools.registry.specs().await.iter().map(|spec| spec.name.clone()));
        for name in names {
            self.look_at(name).await;
        }
    }

    /// Finds replicas whose end was missed.
    async fn look_for_exits(&mut self) {
        let running = match self.tools.runtime.list().await {
            Ok(running) => running.into_iter().map(|running| running.id).collect::<BTreeSet<_>>(),
            Err(error) => {
                tracing::error!(%error, "failed to list what runs");
                return;
            }
        };
        let launching = |id: &InstanceId, name: &ServiceName| {
            let replica = self.services.get(name).and_then(|service| service.replica(id));
            replica.is_some_and(|replica| replica.phase == Phase::Launching)
        };
        let missed = self.owners.iter().filter(|(id, name)| !running.contains(*id) && !launching(id, name));
        let missed: Vec<InstanceId> = missed.map(|(id, _)| id.clone()).collect();
        for id in missed {
            self.exited(&id, Exit::Unknown);
        }
    }

    fn exited(&mut self, id: &InstanceId, exit: Exit) {
        // Not ours, or stopped and forgotten.
        let Some(name) = self.owners.get(id).cloned() else { return };
        let Some(service) = self.services.get_mut(&name) else { return };
        match service.replica(id).map(|replica| replica.phase) {
            None => {}
            // Registered a moment later; then it is told to be gone.
            Some(Phase::Launching) => drop(self.early.insert(id.clone(), exit)),
            // The stopping task forgets it, perhaps much later; that it is gone is told at once.
            Some(Phase::Stopping) => {
                let reason = self.stopping.get(id).map_or_else(|| exit.to_string(), |why| why.as_str().to_owned());
                self.tasks.spawn(self.tools.clone().tell(id.clone(), reason));
            }
            Some(Phase::Starting | Phase::Ready | Phase::Unhealthy) => {
                self.tasks.spawn(self.tools.clone().tell(id.clone(), exit.to_string()));
                let ended = service.ended(id, exit, clock::now_ms());
                self.owners.remove(id);
                self.report_end(&name, id, &exit.to_string(), ended);
            }
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Told => {}
            Done::Started(name, id) => {
                self.launching -= 1;
                if let Some(service) = self.services.get_mut(&name) {
                    service.enter(&id, Phase::Starting, clock::now_ms());
                }
                if let Some(exit) = self.early.remove(&id) {
                    self.exited(&id, exit);
                }
                // It may have become ready before it was known to run.
                self.look_at(name.clone()).await;
                self.dirty.insert(name);
            }
            Done::Unstarted { service: name, id, why, ending } => {
                self.launching -= 1;
                self.early.remove(&id);
                self.owners.remove(&id);
                let service = self.services.get_mut(&name);
                let ended = service.and_then(|service| service.unstarted(&id, &why, ending, clock::now_ms()));
                self.report_end(&name, &id, &format!("failed to start: {why}"), ended);
            }
            Done::Stopped(name, id) => {
                self.owners.remove(&id);
                self.stopping.remove(&id);
                if let Some(service) = self.services.get_mut(&name) {
                    service.forget(&id);
                }
                self.dirty.insert(name);
            }
        }
    }

    fn report_end(&mut self, name: &ServiceName, id: &InstanceId, how: &str, ended: Option<Ended>) {
        self.dirty.insert(name.clone());
        let Some(Ended { next, ran }) = ended else { return };
        let next_text = match next {
            Next::Now => "starts again at once".to_owned(),
            Next::After(delay_ms) => format!("starts again in {:?}", Duration::from_millis(delay_ms)),
            Next::Quarantined(delay_ms) => format!("quarantined for {:?}", Duration::from_millis(delay_ms)),
        };
        let message = format!("{how} after {ran:?}; {next_text}");
        self.emit(EventKind::ReplicaExited, name, Some(id.clone()), message);
        if let Next::Quarantined(delay_ms) = next {
            let pause = Duration::from_millis(delay_ms);
            let message = format!("a replica of {name} ends too often, last: {how}; next try in {pause:?}");
            self.emit(EventKind::ReplicaQuarantined, name, Some(id.clone()), message);
        }
    }

    /// Plans what was waiting for the time.
    fn mark_due(&mut self) {
        let now_ms = clock::now_ms();
        let due = self.services.values().filter(|service| service.wake_ms().is_some_and(|due_ms| due_ms <= now_ms));
        self.dirty.extend(due.map(|service| service.name().clone()));
    }

    fn drop_if_removed(&mut self, name: &ServiceName) {
        let is_over = |service: &Service| service.is_removed() && service.replicas().next().is_none();
        if self.services.get(name).is_some_and(is_over) {
            self.services.remove(name);
        }
    }

    /// Stops everything that runs, all at once, and returns when nothing does.
    async fn shut_down(&mut self) {
        self.hurry.send_replace(true);
        loop {
            let now_ms = clock::now_ms();
            for (name, service) in &mut self.services {
                let grace = service.base().run.stop_grace;
                let running = |phase| matches!(phase, Phase::Starting | Phase::Ready | Phase::Unhealthy);
                let ids = service.replicas().filter(|replica| running(replica.phase)).map(|replica| replica.id.clone());
                for id in ids.collect::<Vec<_>>() {
                    service.enter(&id, Phase::Stopping, now_ms);
                    self.tasks.spawn(self.tools.clone().shut_down(name.clone(), id, grace));
                }
            }
            match self.tasks.join_next().await {
                Some(Ok(Done::Started(name, id))) => {
                    if let Some(service) = self.services.get_mut(&name) {
                        service.enter(&id, Phase::Starting, now_ms);
                    }
                }
                Some(_) => {}
                None => return,
            }
        }
    }

    fn emit(&self, kind: EventKind, service: &ServiceName, instance: Option<InstanceId>, message: String) {
        let generation = self.tools.table.load().generation;
        self.tools.events.emit(generation, kind, Some(service.clone()), instance, message);
    }
}
