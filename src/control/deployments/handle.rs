//! The handle that others ask deployments by.

use crate::control::deployments::{DeployError, Patch, RevisionStatus, RolloutStatus, SectionChange};
use crate::control::discovery::Definitions;
use crate::model::{ServiceName, ServiceSpec};
use crate::spec;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

type Reply<T> = oneshot::Sender<Result<T, DeployError>>;

/// What a change of a definition led to; it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The service.
    pub service: ServiceName,
    /// The revision that is wanted now.
    pub revision: u64,
    /// False when that was wanted before.
    pub changed: bool,
}

/// What the task is asked.
#[derive(Debug)]
pub(super) enum Request {
    File(Definitions, Reply<u64>),
    Compare(Vec<Arc<ServiceSpec>>, oneshot::Sender<Vec<SectionChange>>),
    Patch(ServiceName, Patch, Option<u64>, Reply<Accepted>),
    Define(Vec<spec::Service>, Reply<Vec<Accepted>>),
    Rollback(ServiceName, Option<u64>, Reply<Accepted>),
    History(ServiceName, Reply<Vec<RevisionStatus>>),
    Rollout(ServiceName, Option<u64>, Reply<RolloutStatus>),
    Pin(ServiceName, Option<u32>, Reply<()>),
    Remove(ServiceName, Reply<()>),
}

/// Asks for changes of definitions; clones share the bounded mailbox. Each change is stored when it is answered.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Request>,
}

impl Handle {
    pub(super) fn new(mailbox: mpsc::Sender<Request>) -> Self {
        Self { mailbox }
    }

    /// Takes up a configuration file: services whose section changed get a revision, the rest is kept; routes, listeners
    /// and static endpoints become as it says. Returns the generation that shows it.
    ///
    /// # Errors
    /// [`DeployError::Store`], before anything is changed; [`DeployError::Registry`]; [`DeployError::Closed`].
    pub async fn apply_file(&self, definitions: Definitions) -> Result<u64, DeployError> {
        self.ask(|reply| Request::File(definitions, reply)).await?
    }

    /// Returns what a configuration file with these services would change; changes nothing.
    ///
    /// # Errors
    /// [`DeployError::Closed`].
    pub async fn check_file(&self, services: Vec<Arc<ServiceSpec>>) -> Result<Vec<SectionChange>, DeployError> {
        self.ask(|reply| Request::Compare(services, reply)).await
    }

    /// Changes a part of a service's wanted definition; with `expected`, only if that revision is the wanted one.
    ///
    /// # Errors
    /// What the service or the resulting definition forbids; [`DeployError::Moved`]; [`DeployError::Store`];
    /// [`DeployError::Closed`].
    pub async fn patch(
        &self,
        service: &ServiceName,
        patch: Patch,
        expected: Option<u64>,
    ) -> Result<Accepted, DeployError> {
        self.ask(|reply| Request::Patch(service.clone(), patch, expected, reply)).await?
    }

    /// Replaces the definitions of services, all or none; services that do not exist are made.
    ///
    /// # Errors
    /// What is wrong with any of them; [`DeployError::Store`]; [`DeployError::Closed`].
    pub async fn define(&self, definitions: Vec<spec::Service>) -> Result<Vec<Accepted>, DeployError> {
        self.ask(|reply| Request::Define(definitions, reply)).await?
    }

    /// Wants an earlier definition again, as a new revision: that of revision `to`, or the last one that worked.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::UnknownRevision`], [`DeployError::NothingEarlier`],
    /// [`DeployError::PortInUse`], [`DeployError::Store`], [`DeployError::Closed`].
    pub async fn rollback(&self, service: &ServiceName, to: Option<u64>) -> Result<Accepted, DeployError> {
        self.ask(|reply| Request::Rollback(service.clone(), to, reply)).await?
    }

    /// Returns the kept revisions of a service, oldest first.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::Closed`].
    pub async fn history(&self, service: &ServiceName) -> Result<Vec<RevisionStatus>, DeployError> {
        self.ask(|reply| Request::History(service.clone(), reply)).await?
    }

    /// Returns where the rollout of a revision stands, of the wanted one when none is named.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::UnknownRevision`], [`DeployError::Closed`].
    pub async fn rollout(&self, service: &ServiceName, revision: Option<u64>) -> Result<RolloutStatus, DeployError> {
        self.ask(|reply| Request::Rollout(service.clone(), revision, reply)).await?
    }

    /// Sets the wanted number of replicas by hand: it overrides definition and autoscaler, through restarts and deploys,
    /// until [`Handle::unpin`] or until the file changes `replicas` or `scale`.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::NotRun`], [`DeployError::Scheduler`], [`DeployError::Store`],
    /// [`DeployError::Closed`].
    pub async fn scale(&self, service: &ServiceName, replicas: u32) -> Result<(), DeployError> {
        self.ask(|reply| Request::Pin(service.clone(), Some(replicas), reply)).await?
    }

    /// Gives the number of replicas back to the definition and the autoscaler.
    ///
    /// # Errors
    /// As [`Handle::scale`].
    pub async fn unpin(&self, service: &ServiceName) -> Result<(), DeployError> {
        self.ask(|reply| Request::Pin(service.clone(), None, reply)).await?
    }

    /// Removes a service that was made over the API, with its revisions; its replicas and registrations leave after the
    /// answer, each once nothing is in flight at it.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::InFile`], [`DeployError::InUse`], [`DeployError::Store`],
    /// [`DeployError::Closed`].
    pub async fn remove(&self, service: &ServiceName) -> Result<(), DeployError> {
        self.ask(|reply| Request::Remove(service.clone(), reply)).await?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, DeployError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(request(reply)).await.map_err(|_| DeployError::Closed)?;
        answer.await.map_err(|_| DeployError::Closed)
    }
}
