//! Single actions, each in a task of its own: start and register; withdraw, drain, stop; tell of an end.
//!
//! A task works on copies and reports one [`Done`]; it decides nothing. Failures that nobody can act on are logged. Each
//! start is written down as an intent before and as what runs after, so that a later Weir finds it whenever this one dies;
//! a full disk stops no repair: then the marks in the process's environment must do.

use crate::control::events::Events;
use crate::control::registry::{self, Registration, RegistryError};
use crate::control::runtime::{Birth, Runtime, RuntimeError, StartRequest, Started, birth};
use crate::control::scheduler::Ending;
use crate::control::store::{Change, ReplicaRecord, Store, WorkloadRecord};
use crate::control::withdraw::{DrainOutcome, drained};
use crate::model::{InstanceId, NodeId, ServiceName, Source, Workload};
use crate::table::Table;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Wait after SIGTERM for a replica whose definition nobody knows any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

/// What a task reports.
#[derive(Debug)]
pub(super) enum Done {
    /// The replica runs and is registered.
    Started(ServiceName, InstanceId),
    /// It could not be started; nothing of it runs.
    Unstarted {
        service: ServiceName,
        id: InstanceId,
        why: String,
        /// What it counts as.
        ending: Ending,
    },
    /// The replica was stopped and nothing of it runs.
    Stopped(ServiceName, InstanceId),
    /// The registry knows of an end.
    Told,
}

/// How to stop a replica.
#[derive(Debug)]
pub(super) struct StopRequest {
    pub(super) service: ServiceName,
    pub(super) id: InstanceId,
    /// Shown as the instance's reason.
    pub(super) reason: String,
    /// Longest wait for what uses it.
    pub(super) drain: Duration,
    /// Wait after SIGTERM.
    pub(super) grace: Duration,
}

/// What the tasks need; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub(super) registry: registry::Handle,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) table: Table,
    pub(super) events: Events,
    pub(super) node: NodeId,
    /// Where replicas are written down; `None`: nowhere.
    pub(super) store: Option<Store>,
    /// True once nothing is to be waited for: Weir ends.
    pub(super) hurry: watch::Receiver<bool>,
}

impl Tools {
    /// Starts a replica, writes it down and registers it.
    pub(super) async fn start(self, request: StartRequest) -> Done {
        let (id, service, revision) = (request.id.clone(), request.service.clone(), request.revision);
        let intent = intent(&request);
        self.note(vec![Change::PutReplica(id.clone(), intent.clone())]).await;
        let started = match self.runtime.start(request).await {
            Ok(started) => started,
            Err(error) => {
                self.forget(&id).await;
                let ending = match error {
                    RuntimeError::Definition(_) => Ending::Unstartable,
                    RuntimeError::Away { .. } => Ending::Away,
                    _ => Ending::ByItself { ready_ms: None },
                };
                return Done::Unstarted { service, id, why: error.to_string(), ending };
            }
        };
        let birth = match started.workload {
            Workload::Process(pid) => birth(pid),
            Workload::Container(_) => None,
        };
        if let Some(record) = complete(intent, &started, birth) {
            self.note(vec![Change::PutReplica(id.clone(), record)]).await;
        }
        let node = self.node.clone();
        let registration = Registration {
            id: Some(id.clone()),
            workload: Some(started.workload),
            revision,
            ..Registration::new(service.clone(), Source::Scheduler, node, started.address, started.ports)
        };
        match self.registry.register(registration).await {
            Ok(_) => Done::Started(service, id),
            Err(error) => {
                // The service was removed meanwhile, or the registry is full: nobody would ever use it.
                self.end(&id, Duration::ZERO).await;
                self.forget(&id).await;
                Done::Unstarted { service, id, why: error.to_string(), ending: Ending::ByItself { ready_ms: None } }
            }
        }
    }

    /// Takes a replica out of the table, waits until nobody uses it, stops it.
    pub(super) async fn stop(mut self, request: StopRequest) -> Done {
        let StopRequest { service, id, reason, drain, grace } = request;
        match self.registry.withdraw(&id, &reason).await {
            Ok(withdrawn) => {
                let mut hurry = self.hurry.clone();
                let outcome = tokio::select! {
                    outcome = drained(&self.table, &withdrawn, drain, &self.events, &id) => outcome,
                    _ = hurry.wait_for(|hurry| *hurry) => DrainOutcome::Drained,
                };
                if let DrainOutcome::Cut { lagging, in_flight } = outcome {
                    tracing::warn!(instance = %id, ?lagging, in_flight, "stopping although it is still used");
                }
            }
            Err(RegistryError::UnknownInstance(_)) => self.unlisted(drain).await,
            Err(error) => tracing::warn!(instance = %id, %error, "failed to withdraw"),
        }
        self.end(&id, grace).await;
        self.gone(&id, &reason).await;
        self.forget(&id).await;
        Done::Stopped(service, id)
    }

    /// Stops a replica without waiting for who uses it: at the end of Weir nobody does.
    pub(super) async fn shut_down(self, service: ServiceName, id: InstanceId, grace: Duration) -> Done {
        self.end(&id, grace).await;
        self.gone(&id, "weir ends").await;
        self.forget(&id).await;
        Done::Stopped(service, id)
    }

    /// Tells the registry that an instance has ended.
    pub(super) async fn tell(self, id: InstanceId, reason: String) -> Done {
        self.gone(&id, &reason).await;
        self.forget(&id).await;
        Done::Told
    }

    /// Stops what an earlier Weir left and nobody wants: it is in no table.
    pub(super) async fn stop_orphan(self, id: InstanceId) -> Done {
        self.end(&id, ORPHAN_GRACE).await;
        self.forget(&id).await;
        Done::Told
    }

    /// Forgets replicas that ended while no Weir ran.
    pub(super) async fn forget_all(self, ids: Vec<InstanceId>) -> Done {
        self.note(ids.into_iter().flat_map(forgotten).collect()).await;
        Done::Told
    }

    /// Forgets what is written of a replica of which nothing runs.
    async fn forget(&self, id: &InstanceId) {
        self.note(forgotten(id.clone()).into()).await;
    }

    /// Writes down what has happened; when that cannot be done now, the store keeps it until it can, and says so.
    async fn note(&self, changes: Vec<Change>) {
        if let Some(store) = &self.store {
            let _ = store.note(changes).await;
        }
    }

    /// Its service was removed with all instances: waits at least until every acknowledger knows.
    async fn unlisted(&mut self, deadline: Duration) {
        let generation = self.table.load().generation;
        tokio::select! {
            _ = tokio::time::timeout(deadline, self.table.acknowledged(generation)) => {}
            _ = self.hurry.wait_for(|hurry| *hurry) => {}
        }
    }

    async fn end(&self, id: &InstanceId, grace: Duration) {
        match self.runtime.stop(id, grace).await {
            Ok(_) | Err(RuntimeError::NotRunning(_)) => {}
            Err(error) => tracing::error!(instance = %id, %error, "failed to stop"),
        }
    }

    async fn gone(&self, id: &InstanceId, reason: &str) {
        match self.registry.gone(id, reason).await {
            Ok(_) | Err(RegistryError::UnknownInstance(_) | RegistryError::Closed) => {}
            Err(error) => tracing::warn!(instance = %id, %error, "failed to deregister"),
        }
    }
}

fn forgotten(id: InstanceId) -> [Change; 3] {
    [Change::DropReplica(id.clone()), Change::DropReady(id.clone()), Change::DropDrain(id)]
}

/// Returns what is written before a start.
fn intent(request: &StartRequest) -> ReplicaRecord {
    ReplicaRecord {
        service: request.service.to_string(),
        revision: request.revision,
        fingerprint: request.fingerprint,
        slot: request.slot,
        workload: None,
        address: None,
        ports: Vec::new(),
    }
}

/// Returns what is written after it; `None` when it has ended already.
fn complete(intent: ReplicaRecord, started: &Started, birth: Option<Birth>) -> Option<ReplicaRecord> {
    let workload = match &started.workload {
        Workload::Process(pid) => {
            let (start_ticks, boot) = birth?;
            WorkloadRecord::Process { pid: *pid, start_ticks, boot: boot.to_string() }
        }
        Workload::Container(id) => WorkloadRecord::Container(id.to_string()),
    };
    let (address, ports) = (Some(started.address), started.ports.clone());
    Some(ReplicaRecord { workload: Some(workload), address, ports, ..intent })
}
