//! Single actions, each in a task of its own: start and register; withdraw, drain, stop; tell of an end.
//!
//! A task works on copies and reports one [`Done`]; it decides nothing. Failures that nobody can act on are logged.

use crate::control::events::Events;
use crate::control::registry::{self, Registration, RegistryError};
use crate::control::runtime::{Runtime, RuntimeError, StartRequest};
use crate::control::withdraw::{DrainOutcome, drained};
use crate::model::{InstanceId, NodeId, ServiceName, Source};
use crate::table::Table;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
        /// Whether another try may succeed although nothing changed.
        can_retry: bool,
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
    /// True once nothing is to be waited for: Weir ends.
    pub(super) hurry: watch::Receiver<bool>,
}

impl Tools {
    /// Starts a replica and registers it.
    pub(super) async fn start(self, request: StartRequest) -> Done {
        let (id, service, revision) = (request.id.clone(), request.service.clone(), request.revision);
        let started = match self.runtime.start(request).await {
            Ok(started) => started,
            Err(error) => {
                let can_retry = !matches!(error, RuntimeError::Definition(_));
                return Done::Unstarted { service, id, why: error.to_string(), can_retry };
            }
        };
        let registration = Registration {
            id: Some(id.clone()),
            service: service.clone(),
            source: Source::Scheduler,
            address: started.address,
            ports: started.ports,
            weight: 1,
            workload: Some(started.workload),
            revision,
            lease: None,
            node: self.node.clone(),
        };
        match self.registry.register(registration).await {
            Ok(_) => Done::Started(service, id),
            Err(error) => {
                // The service was removed meanwhile, or the registry is full: nobody would ever use it.
                self.end(&id, Duration::ZERO).await;
                Done::Unstarted { service, id, why: error.to_string(), can_retry: true }
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
        Done::Stopped(service, id)
    }

    /// Stops a replica without waiting for who uses it: at the end of Weir nobody does.
    pub(super) async fn shut_down(self, service: ServiceName, id: InstanceId, grace: Duration) -> Done {
        self.end(&id, grace).await;
        self.gone(&id, "weir ends").await;
        Done::Stopped(service, id)
    }

    /// Tells the registry that an instance has ended.
    pub(super) async fn tell(self, id: InstanceId, reason: String) -> Done {
        self.gone(&id, &reason).await;
        Done::Told
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
