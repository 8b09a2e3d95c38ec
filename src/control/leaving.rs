//! What the configuration no longer lists, on its way out: withdrawn, drained, and only then gone.
//!
//! An endpoint: out of the table, until nobody uses it, gone. A service: its replicas are stopped by the scheduler in the
//! same way, endpoints and registrations as above, then it is undefined; its routes went with the configuration. Invariant:
//! who comes back meanwhile is called back first, so that nothing that is listed ever leaves. Next: `withdraw.rs`.

use crate::control::events::Events;
use crate::control::registry::{self, Contribution, NO_LONGER_LISTED, RegistryError};
use crate::control::scheduler;
use crate::control::withdraw::drained;
use crate::model::{Instance, InstanceId, InstanceState, ServiceName, ServiceSpec, Source};
use crate::table::Table;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Beside drain and grace: what starting the stop of replicas may take.
const SLACK: Duration = Duration::from_secs(10);

/// What a configuration lists again.
#[derive(Debug, Default)]
pub(super) struct Returning {
    services: HashSet<ServiceName>,
    /// Endpoints, in those services and others.
    listed: HashSet<InstanceId>,
}

/// Sees off what is no longer listed.
#[derive(Debug)]
pub(super) struct Leaving {
    tools: Tools,
    endpoints: HashMap<InstanceId, JoinHandle<()>>,
    services: HashMap<ServiceName, JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Tools {
    registry: registry::Handle,
    table: Table,
    events: Events,
    /// Set once the scheduler runs; before that there are no replicas.
    scheduler: Arc<OnceLock<scheduler::Handle>>,
}

impl Leaving {
    /// Makes it with nobody on the way.
    pub(super) fn new(registry: registry::Handle, table: Table, events: Events) -> Self {
        let tools = Tools { registry, table, events, scheduler: Arc::default() };
        Self { tools, endpoints: HashMap::new(), services: HashMap::new() }
    }

    /// Tells who stops replicas.
    pub(super) fn attach(&self, scheduler: scheduler::Handle) {
        // It is told once.
        let _ = self.tools.scheduler.set(scheduler);
    }

    /// Returns the registry.
    pub(super) fn registry(&self) -> &registry::Handle {
        &self.tools.registry
    }

    /// Stops seeing off whatever a contribution lists again; returns what is to be restored after it.
    pub(super) fn call_back(&mut self, contribution: &Contribution) -> Returning {
        self.endpoints.retain(|_, task| !task.is_finished());
        self.services.retain(|_, task| !task.is_finished());
        let mut back = Returning::default();
        for spec in &contribution.define {
            if let Some(task) = self.services.remove(&spec.name) {
                task.abort();
                back.services.insert(spec.name.clone());
            }
        }
        for registration in &contribution.register {
            let Some(id) = &registration.id else { continue };
            let task = self.endpoints.remove(id);
            if task.is_some() || back.services.contains(&registration.service) {
                back.listed.insert(id.clone());
            }
            if let Some(task) = task {
                task.abort();
            }
        }
        back
    }

    /// Gives those that are listed again their traffic back; endpoints of a service that came back without them go on
    /// leaving.
    pub(super) async fn restore(&mut self, back: Returning) {
        let mut draining = Vec::new();
        for name in &back.services {
            draining.extend(self.tools.alive(name).await);
        }
        for id in &back.listed {
            draining.extend(self.tools.registry.instance(id).await.map(Arc::new));
        }
        let withdrawn = |i: &Arc<Instance>| i.state == InstanceState::Draining && &*i.reason == NO_LONGER_LISTED;
        for instance in draining.into_iter().filter(withdrawn) {
            if instance.source == Source::File && !back.listed.contains(&instance.id) {
                self.see_off(vec![instance.id.clone()], Vec::new());
            } else if let Err(error) = self.tools.registry.restore(&instance.id).await {
                tracing::warn!(instance = %instance.id, %error, "failed to restore");
            }
        }
    }

    /// Begins to see off endpoints, which are withdrawn already, and services.
    pub(super) fn see_off(&mut self, endpoints: Vec<InstanceId>, services: Vec<Arc<ServiceSpec>>) {
        for id in endpoints {
            let task = tokio::spawn(self.tools.clone().endpoint(id.clone()));
            self.endpoints.insert(id, task);
        }
        for spec in services {
            let name = spec.name.clone();
            self.services.insert(name, tokio::spawn(self.tools.clone().service(spec)));
        }
    }
}

impl Tools {
    /// Waits until nobody uses an endpoint, at most its service's drain timeout; then it is gone.
    async fn endpoint(self, id: InstanceId) {
        let Some(instance) = self.registry.instance(&id).await else { return };
        let Some(listing) = self.registry.service(&instance.service).await else { return };
        self.drain(&id, listing.spec.drain_timeout).await;
    }

    async fn drain(&self, id: &InstanceId, limit: Duration) {
        // Told twice, it only says what to wait for.
        match self.registry.withdraw(id, NO_LONGER_LISTED).await {
            Ok(withdrawn) => {
                if drained(&self.table, &withdrawn, limit, &self.events, id).await.is_cut() {
                    tracing::warn!(instance = %id, "removed although it is still used");
                }
            }
            Err(error) => tracing::debug!(instance = %id, %error, "failed to withdraw"),
        }
        match self.registry.gone(id, NO_LONGER_LISTED).await {
            Ok(_) | Err(RegistryError::UnknownInstance(_) | RegistryError::Closed) => {}
            Err(error) => tracing::warn!(instance = %id, %error, "failed to remove"),
        }
    }

    /// Empties a service by protocol, then undefines it.
    async fn service(self, spec: Arc<ServiceSpec>) {
        let grace = spec.run.as_ref().map(|run| run.stop_grace).unwrap_or_default();
        let limit = spec.drain_timeout + grace + SLACK;
        if timeout(limit, self.empty(&spec)).await.is_err() {
            tracing::warn!(service = %spec.name, ?limit, "removing a service that still has instances");
        }
        match self.registry.undefine(&spec.name).await {
            Ok(_) | Err(RegistryError::UnknownService(_) | RegistryError::Closed) => {}
            Err(error) => tracing::warn!(service = %spec.name, %error, "failed to remove"),
        }
    }

    async fn empty(&self, spec: &ServiceSpec) {
        let mut changes = self.registry.watch();
        if spec.run.is_some() {
            let none = ServiceSpec { replicas: 0, ..spec.clone() };
            if let Err(error) = self.registry.define(Arc::new(none)).await {
                tracing::warn!(service = %spec.name, %error, "failed to want no replicas");
            }
            // A number that was asked for by hand holds against a definition that wanted none already.
            if let Some(scheduler) = self.scheduler.get().filter(|_| spec.replicas == 0) {
                let _ = scheduler.scale(&spec.name, 0).await;
            }
        }
        let mut drains = tokio::task::JoinSet::new();
        for instance in self.alive(&spec.name).await.into_iter().filter(|i| i.workload.is_none()) {
            let (tools, limit) = (self.clone(), spec.drain_timeout);
            drains.spawn(async move { tools.drain(&instance.id, limit).await });
        }
        drains.join_all().await;
        while !self.alive(&spec.name).await.is_empty() {
            loop {
                match changes.recv().await {
                    Ok(name) if name != spec.name => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }

    async fn alive(&self, name: &ServiceName) -> Vec<Arc<Instance>> {
        let listing = self.registry.service(name).await;
        let instances = listing.map(|listing| listing.instances).unwrap_or_default();
        instances.into_iter().filter(|instance| instance.state != InstanceState::Gone).collect()
    }
}
