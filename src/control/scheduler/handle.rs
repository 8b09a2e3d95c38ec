//! The handle that others ask the scheduler by, and what it answers.

use crate::control::events::Events;
use crate::control::registry::{self, RegistryError};
use crate::control::runtime::Runtime;
use crate::control::scheduler::reconcile::Reconciler;
use crate::model::{InstanceId, NodeId, ServiceName};
use crate::rng::Rng;
use crate::table::Table;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait.
const MAILBOX: usize = 64;
/// Most replicas of one service on this node; a typing error must not fill the machine.
pub(super) const MAX_REPLICAS: u32 = 1000;

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
}

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Request {
    Scale(ServiceName, u32, oneshot::Sender<Result<(), SchedulerError>>),
    /// The autoscaler's number; the answer says whether it counts.
    Target(ServiceName, u32, oneshot::Sender<bool>),
    Unpin(ServiceName, oneshot::Sender<Result<(), SchedulerError>>),
    /// True drains, false undoes it.
    Drain(InstanceId, bool, oneshot::Sender<Result<Owner, SchedulerError>>),
    Status(oneshot::Sender<Vec<ServiceStatus>>),
    Shutdown(oneshot::Sender<()>),
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
}

/// Starts the scheduler on the current runtime.
pub fn spawn(parts: Parts) -> Handle {
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let handle = Handle { mailbox, runtime: parts.runtime.clone(), registry: parts.registry.clone() };
    tokio::spawn(Reconciler::new(parts, requests).run());
    handle
}

impl Handle {
    /// Sets the wanted number of replicas by hand; returns when it is accepted, not when they run. Ends a quarantine.
    ///
    /// # Errors
    /// [`SchedulerError::UnknownService`], [`SchedulerError::NotRun`], [`SchedulerError::TooMany`],
    /// [`SchedulerError::Closed`].
    pub async fn scale(&self, service: &ServiceName, replicas: u32) -> Result<(), SchedulerError> {
        self.ask(|reply| Request::Scale(service.clone(), replicas, reply)).await?
    }

    /// Gives the number of replicas back: to the autoscaler where the service has `[service.scale]`, else to its
    /// definition.
    ///
    /// # Errors
    /// As [`Handle::scale`].
    pub async fn unpin(&self, service: &ServiceName) -> Result<(), SchedulerError> {
        self.ask(|reply| Request::Unpin(service.clone(), reply)).await?
    }

    /// Takes the autoscaler's number of replicas; false when nothing changes: it is wanted already, or another was set by
    /// hand.
    ///
    /// # Errors
    /// [`SchedulerError::Closed`].
    pub async fn set_target(&self, service: &ServiceName, replicas: u32) -> Result<bool, SchedulerError> {
        self.ask(|reply| Request::Target(service.clone(), replicas.min(MAX_REPLICAS), reply)).await
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
            Owner::Others => Ok(self.registry.withdraw(id, "drained by hand").await.map(|_| ())?),
        }
    }

    /// Undoes a drain, unless the replica is being stopped already.
    ///
    /// # Errors
    /// As [`Handle::drain`].
    pub async fn undo_drain(&self, id: &InstanceId) -> Result<(), SchedulerError> {
        match self.ask(|reply| Request::Drain(id.clone(), false, reply)).await?? {
            Owner::Scheduler => Ok(()),
            Owner::Others => Ok(self.registry.restore(id).await.map(|_| ())?),
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

    /// Stops every workload, each by SIGTERM, its grace period, SIGKILL; nothing is started any more. For the end of
    /// Weir, when nobody serves: nothing is withdrawn or drained before.
    pub async fn shutdown(&self) {
        // An error means that it has ended already.
        let _ = self.ask(Request::Shutdown).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, SchedulerError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(request(reply)).await.map_err(|_| SchedulerError::Closed)?;
        answer.await.map_err(|_| SchedulerError::Closed)
    }
}
