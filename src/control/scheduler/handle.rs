//! The handle that others ask the scheduler by, and what it answers.

use crate::control::events::Events;
use crate::control::registry::{self, RegistryError};
use crate::control::rollout::Progress;
use crate::control::runtime::{EngineStatus, Runtime};
use crate::control::scheduler::Inheritance;
use crate::control::scheduler::reconcile::Reconciler;
use crate::control::store::Store;
use crate::model::{InstanceId, NodeId, ServiceName, ServiceSpec};
use crate::rng::Rng;
use crate::table::Table;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that may wait.
const MAILBOX: usize = 64;
/// Most replicas of one service on this node; a typing error must not fill the machine.
pub const MAX_REPLICAS: u32 = 1000;

/// Why the scheduler refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchedulerError {
    /// No such service is defined.
    #[error("service {0} is not defined")]
    UnknownService(ServiceName),
    /// The service has no `run`, so Weir does not run its replicas.
    #[error("service {0} is not run by Weir: it has no [service.run]")]
    NotRun(ServiceName),
    /// More than the limit.
    #[error("at most {MAX_REPLICAS} replicas of a service run on one node, not {0}")]
    TooMany(u32),
    /// No such instance is registered.
    #[error("instance {0} is not registered")]
    UnknownInstance(InstanceId),
    /// The instance is being stopped; that cannot be undone.
    #[error("instance {0} is being stopped already")]
    Stopping(InstanceId),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The scheduler has ended.
    #[error("the scheduler has ended")]
    Closed,
}

/// How the rollouts of all services that Weir runs stand, each with its last one.
pub type Rollouts = Arc<BTreeMap<ServiceName, Progress>>;

/// What an earlier Weir knew of a service.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// The revision that worked last; when it is the wanted one, no rollout goes on.
    pub stable: Option<Arc<ServiceSpec>>,
    /// Replicas wanted by hand.
    pub pin: Option<u32>,
}

/// What people see of a service that Weir runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Whether that number was set by hand.
    pub pinned: bool,
    /// Replicas that run and are not being stopped.
    pub running: u32,
    /// Replicas that serve.
    pub ready: u32,
    /// Wanted replicas that are not started for a while because they exit too often.
    pub quarantined: u32,
    /// Revision of the definition that they are to run.
    pub revision: u64,
}

/// What the scheduler works with.
#[derive(Debug)]
pub struct Parts {
    /// Definitions come from here, instances go there.
    pub registry: registry::Handle,
    /// Starts and stops workloads.
    pub runtime: Arc<dyn Runtime>,
    /// Asked who still uses an endpoint.
    pub table: Table,
    /// Told what happens.
    pub events: Events,
    /// This machine.
    pub node: NodeId,
    /// For the ids of instances.
    pub rng: Rng,
    /// What an earlier Weir knew.
    pub resume: BTreeMap<ServiceName, Resume>,
    /// Where replicas are written down; `None`: nowhere, and nothing of them survives.
    pub store: Option<Store>,
    /// What an earlier Weir left.
    pub inheritance: Inheritance,
}

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Request {
    /// Sets a number by hand, or gives it back.
    Pin(ServiceName, Option<u32>, oneshot::Sender<Result<(), SchedulerError>>),
    /// The autoscaler's number; the answer says whether it changes anything.
    Target(ServiceName, u32, oneshot::Sender<bool>),
    /// True drains, false undoes it.
    Drain(InstanceId, bool, oneshot::Sender<Result<Owner, SchedulerError>>),
    Status(oneshot::Sender<Vec<ServiceStatus>>),
    Shutdown(oneshot::Sender<()>),
    Release(oneshot::Sender<()>),
}

/// Whose an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Scheduler,
    Others,
}

/// Asks the scheduler; clones share its bounded mailbox.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Request>,
    runtime: Arc<dyn Runtime>,
    registry: registry::Handle,
    rollouts: watch::Receiver<Rollouts>,
}

/// Starts the scheduler on the current runtime.
pub fn spawn(parts: Parts) -> Handle {
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let (progress, rollouts) = watch::channel(Rollouts::default());
    let handle = Handle { mailbox, runtime: parts.runtime.clone(), registry: parts.registry.clone(), rollouts };
    tokio::spawn(Reconciler::new(parts, requests, progress).run());
    handle
}

impl Handle {
    /// Sets the wanted number of replicas by hand: it overrides the definition and the autoscaler until
    /// [`Handle::unpin`]. Returns when it is accepted, not when they run. Ends a quarantine. Not stored:
    /// `control/deployments` does that before.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownService`], [`SchedulerError::NotRun`], [`SchedulerError::TooMany`],
    /// [`SchedulerError::Closed`].
    pub async fn scale(&self, service: &ServiceName, replicas: u32) -> Result<(), SchedulerError> {
        self.ask(|reply| Request::Pin(service.clone(), Some(replicas), reply)).await?
    }

    /// Gives the number of replicas back: to the autoscaler where the service has `[service.scale]`, else to its
    /// definition.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownService`], [`SchedulerError::NotRun`], [`SchedulerError::Closed`].
    pub async fn unpin(&self, service: &ServiceName) -> Result<(), SchedulerError> {
        self.ask(|reply| Request::Pin(service.clone(), None, reply)).await?
    }

    /// Takes the autoscaler's number of replicas; it is not stored, and during a rollout it counts only after that. False
    /// when nothing changes: it is wanted already, another was set by hand, or the service is not scaled by itself.
    ///
    /// # Errors
    /// [`SchedulerError::Closed`].
    pub async fn set_target(&self, service: &ServiceName, replicas: u32) -> Result<bool, SchedulerError> {
        self.ask(|reply| Request::Target(service.clone(), replicas.min(MAX_REPLICAS), reply)).await
    }

    /// Returns how the rollouts stand, now and on each change.
    pub fn rollouts(&self) -> watch::Receiver<Rollouts> {
        self.rollouts.clone()
    }

    /// Takes an instance out of service: a replica is stopped once its replacement serves; what Weir does not run is
    /// withdrawn at once and stays so until [`Handle::undo_drain`].
    ///
    /// # Errors
    /// [`SchedulerError::UnknownInstance`], [`SchedulerError::Stopping`], what the registry refuses,
    /// [`SchedulerError::Closed`].
    pub async fn drain(&self, id: &InstanceId) -> Result<(), SchedulerError> {
        match self.ask(|reply| Request::Drain(id.clone(), true, reply)).await?? {
            Owner::Scheduler => Ok(()),
            Owner::Others => Ok(self.registry.drain(id).await?),
        }
    }

    /// Undoes a drain, unless the replica is being stopped already.
    ///
    /// # Errors
    /// As [`Handle::drain`].
    pub async fn undo_drain(&self, id: &InstanceId) -> Result<(), SchedulerError> {
        match self.ask(|reply| Request::Drain(id.clone(), false, reply)).await?? {
            Owner::Scheduler => Ok(()),
            Owner::Others => Ok(self.registry.undo_drain(id).await?),
        }
    }

    /// Returns the numbers of each service that Weir runs, by name; empty when the scheduler has ended.
    pub async fn status(&self) -> Vec<ServiceStatus> {
        self.ask(Request::Status).await.unwrap_or_default()
    }

    /// Returns the existing log files of an instance: standard output oldest first, then standard error.
    pub fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf> {
        self.runtime.log_paths(id)
    }

    /// Waits until all that an instance wrote is in its log files, once it has ended.
    pub async fn written(&self, id: &InstanceId) {
        self.runtime.written(id).await;
    }

    /// Stops every workload, each by SIGTERM, its grace period, SIGKILL; nothing is started any more. For the end of
    /// Weir, when nobody serves: nothing is withdrawn or drained before.
    pub async fn shutdown(&self) {
        // An error means that it has ended already.
        let _ = self.ask(Request::Shutdown).await;
    }

    /// Ends the scheduler and leaves every workload as it is: a later Weir takes them up. Returns when nothing is being
    /// started any more.
    pub async fn release(&self) {
        // An error means that it has ended already.
        let _ = self.ask(Request::Release).await;
        self.runtime.release();
    }

    /// Returns what is known of the engines that run replicas.
    pub fn engines(&self) -> Vec<EngineStatus> {
        self.runtime.engines()
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, SchedulerError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(request(reply)).await.map_err(|_| SchedulerError::Closed)?;
        answer.await.map_err(|_| SchedulerError::Closed)
    }
}
