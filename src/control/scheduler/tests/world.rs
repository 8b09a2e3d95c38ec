//! A registry and a scheduler on a runtime whose workloads do what the test says, under virtual time.

use crate::control::Options;
use crate::control::events::{EventKind, Events};
use crate::control::publisher;
use crate::control::registry;
use crate::control::registry::fixture::{check, spec};
use crate::control::runtime::{Exit, Known, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started};
use crate::control::scheduler::{Handle, Inheritance, Parts, Resume, ServiceStatus, spawn};
use crate::model::{
    Instance, InstanceId, InstanceState, NodeId, RunSpec, ServiceName, ServiceSpec, Transition, Verdict, Workload,
};
use crate::rng::Rng;
use crate::table::names::Names;
use crate::table::{Snapshot, Table, channel};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::broadcast;

/// Workloads that exist only here.
#[derive(Debug)]
pub(super) struct Puppets {
    events: broadcast::Sender<RuntimeEvent>,
    stage: Mutex<Stage>,
}

#[derive(Debug, Default)]
struct Stage {
    running: BTreeMap<InstanceId, Running>,
    /// What was done, in order: `start web 1`, `stop web-… 10s`.
    done: Vec<String>,
    /// Ports handed out.
    ports: u16,
    refuse: Option<&'static str>,
    exit_at_once: bool,
    start_takes: Duration,
    stop_takes: Duration,
}

impl Puppets {
    fn new() -> Self {
        Self { events: broadcast::Sender::new(64), stage: Mutex::default() }
    }

    /// Ends a workload from outside.
    pub(super) fn end(&self, id: &InstanceId, exit: Exit) {
        self.stage.lock().unwrap().running.remove(id).unwrap();
        self.events.send(RuntimeEvent::Exited { id: id.clone(), exit }).unwrap();
    }

    /// Ends a workload without telling.
    pub(super) fn vanish(&self, id: &InstanceId) {
        self.stage.lock().unwrap().running.remove(id).unwrap();
    }

    /// Makes receivers of events lag.
    pub(super) fn flood(&self) {
        for _ in 0..200 {
            let id = InstanceId::parse("stranger").unwrap();
            self.events.send(RuntimeEvent::Exited { id, exit: Exit::Unknown }).unwrap();
        }
    }

    pub(super) fn refuse(&self, why: Option<&'static str>) {
        self.stage.lock().unwrap().refuse = why;
    }

    pub(super) fn exit_at_once(&self, yes: bool) {
        self.stage.lock().unwrap().exit_at_once = yes;
    }

    pub(super) fn take(&self, start: Duration, stop: Duration) {
        let mut stage = self.stage.lock().unwrap();
        (stage.start_takes, stage.stop_takes) = (start, stop);
    }

    pub(super) fn running(&self) -> usize {
        self.stage.lock().unwrap().running.len()
    }

    pub(super) fn done(&self, what: &str) -> usize {
        self.stage.lock().unwrap().done.iter().filter(|done| done.starts_with(what)).count()
    }
}

#[async_trait]
impl Runtime for Puppets {
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError> {
        let takes = self.stage.lock().unwrap().start_takes;
        tokio::time::sleep(takes).await;
        let mut stage = self.stage.lock().unwrap();
        stage.done.push(format!("start {} {}", request.service, request.revision));
        if let Some(why) = stage.refuse {
            return Err(RuntimeError::Definition(why.to_owned()));
        }
        stage.ports += 1;
        let ports = vec![20_000 + stage.ports; request.ports.len()];
        let workload = Workload::Process(u32::from(stage.ports));
        let started = Started { workload, address: "127.0.0.1".parse().unwrap(), ports };
        let StartRequest { service, revision, fingerprint, slot, .. } = request;
        let id = request.id;
        if stage.exit_at_once {
            self.events.send(RuntimeEvent::Exited { id, exit: Exit::Status(1) }).unwrap();
        } else {
            stage
                .running
                .insert(id.clone(), Running { id, service, revision, fingerprint, slot, started: started.clone() });
        }
        Ok(started)
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError> {
        let takes = {
            let mut stage = self.stage.lock().unwrap();
            stage.done.push(format!("stop {id} {grace:?}"));
            if !stage.running.contains_key(id) {
                return Err(RuntimeError::NotRunning(id.clone()));
            }
            stage.stop_takes
        };
        tokio::time::sleep(takes).await;
        self.end(id, Exit::Signal(15));
        Ok(Exit::Signal(15))
    }

    async fn adopt(&self, _known: &[Known]) -> Result<Vec<Running>, RuntimeError> {
        Ok(self.stage.lock().unwrap().running.values().cloned().collect())
    }

    async fn list(&self) -> Result<Vec<Running>, RuntimeError> {
        Ok(self.stage.lock().unwrap().running.values().cloned().collect())
    }

    fn watch(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.events.subscribe()
    }

    fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf> {
        vec![PathBuf::from(id.as_str())]
    }
}

/// Everything but health checks, which the test gives.
pub(super) struct World {
    pub(super) puppets: Arc<Puppets>,
    pub(super) registry: registry::Handle,
    pub(super) scheduler: Handle,
    pub(super) table: Table,
    pub(super) events: Events,
}

pub(super) fn web() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

/// Service `web` with this command and number of replicas.
pub(super) fn definition(command: &str, replicas: u32) -> ServiceSpec {
    let mut service = spec("web", Some(check()));
    service.replicas = replicas;
    service.revision = command.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(9);
    service.rollout.min_healthy = Duration::from_secs(1);
    service.run = Some(RunSpec {
        command: vec![command.to_owned()],
        env: BTreeMap::new(),
        directory: None,
        stop_grace: Duration::from_secs(10),
        replace_after: Duration::from_secs(30),
        container: None,
    });
    service
}

impl World {
    /// Starts a scheduler that has to run `web` with so many replicas.
    pub(super) async fn new(replicas: u32) -> Self {
        Self::resumed(definition("v1", replicas), None, None).await
    }

    /// Starts a scheduler that has to run this, after an earlier one knew that.
    pub(super) async fn resumed(wanted: ServiceSpec, stable: Option<Arc<ServiceSpec>>, pin: Option<u32>) -> Self {
        let (publisher, table) = channel(Snapshot::empty(Names::default()));
        let events = Events::default();
        let registry = publisher::spawn(&Options::default(), events.clone(), publisher, Rng::from_seed(1));
        let puppets = Arc::new(Puppets::new());
        registry.define(Arc::new(wanted)).await.unwrap();
        let scheduler = spawn(Parts {
            registry: registry.clone(),
            runtime: puppets.clone(),
            table: table.clone(),
            events: events.clone(),
            node: NodeId::parse("here").unwrap(),
            rng: Rng::from_seed(2),
            resume: BTreeMap::from([(web(), Resume { stable, pin })]),
            store: None,
            inheritance: Inheritance::default(),
        });
        Self { puppets, registry, scheduler, table, events }
    }

    /// As [`World::new`], all of them ready.
    pub(super) async fn ready(replicas: u32) -> Self {
        let world = Self::new(replicas).await;
        world.settle(replicas).await;
        world
    }

    pub(super) async fn status(&self) -> ServiceStatus {
        self.scheduler.status().await.into_iter().next().unwrap()
    }

    /// Instances that are not gone, oldest first.
    pub(super) async fn instances(&self) -> Vec<Instance> {
        let all = self.registry.instances().await;
        all.into_iter().filter(|instance| instance.state != InstanceState::Gone).collect()
    }

    /// Reports an unhealthy verdict.
    pub(super) async fn sicken(&self, id: &InstanceId) {
        let transition = Transition { from: Verdict::Healthy, to: Verdict::Unhealthy };
        self.registry.report(id, transition, "as the test says").await.unwrap();
    }

    /// Reports a failed first check.
    pub(super) async fn sicken_starting(&self, id: &InstanceId, answer: &str) {
        let transition = Transition { from: Verdict::Unknown, to: Verdict::Unhealthy };
        self.registry.report(id, transition, answer).await.unwrap();
    }

    /// Lets every starting instance pass its first check.
    pub(super) async fn pass_checks(&self) {
        self.pass_checks_if(|_| true).await;
    }

    /// Lets those starting instances pass their first check.
    pub(super) async fn pass_checks_if(&self, passes: impl Fn(&Instance) -> bool) {
        let starting = |one: &&Instance| one.state == InstanceState::Starting && passes(one);
        for instance in self.instances().await.iter().filter(starting) {
            let transition = Transition { from: Verdict::Unknown, to: Verdict::Healthy };
            // It may have ended in between.
            let _ = self.registry.report(&instance.id, transition, "as the test says").await;
        }
    }

    /// Lets time pass and checks succeed until exactly `ready` replicas run and serve.
    pub(super) async fn settle(&self, ready: u32) {
        for _ in 0..2_000 {
            self.pass_checks().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let status = self.status().await;
            let settled = (status.wanted, status.running, status.ready) == (ready, ready, ready);
            if settled && self.puppets.running() == ready as usize {
                return;
            }
        }
        panic!("not settled at {ready}: {:?} {:?}", self.status().await, self.instances().await);
    }

    /// Lets so much time pass, in steps that let everybody run.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Messages of one kind of event, oldest first.
    pub(super) fn messages(&self, kind: EventKind) -> Vec<String> {
        self.events.recent().iter().filter(|event| event.kind == kind).map(|event| event.message.clone()).collect()
    }
}
