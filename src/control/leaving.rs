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

    /// Returns another one, with nobody on the way.
    pub(super) fn another(&self) -> Self {
        Self { tools: self.tools.clone(), endpoints: HashMap::new(), services: HashMap::new() }
    }

    /// Returns the generation of the table.
    pub(super) fn generation(&self) -> u64 {
        self.tools.table.load().generation
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
            let none = ServiceSpec { replicas: 0, scale: None, ..spec.clone() };
            if let Err(error) = self.registry.define(Arc::new(none)).await {
                tracing::warn!(service = %spec.name, %error, "failed to want no replicas");
            }
            // A number that was asked for by hand holds against a definition.
            if let Some(scheduler) = self.scheduler.get() {
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

#[cfg(test)]
mod tests {
    use crate::control::Options;
    use crate::control::discovery::{Definitions, Discovery};
    use crate::control::events::Events;
    use crate::control::publisher;
    use crate::control::registry::Handle;
    use crate::control::registry::fixture::spec;
    use crate::model::{InstanceState, NodeId, ServiceName, StaticEndpoint};
    use crate::rng::Rng;
    use crate::table::names::Names;
    use crate::table::{Snapshot, Table, channel};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::sleep;

    struct World {
        registry: Handle,
        table: Table,
        discovery: Discovery,
    }

    impl World {
        fn new() -> Self {
            let (writer, table) = channel(Snapshot::empty(Names::default()));
            let events = Events::default();
            let registry = publisher::spawn(&Options::default(), events.clone(), writer, Rng::from_seed(1));
            let node = NodeId::parse("here").unwrap();
            let discovery = Discovery::new(registry.clone(), table.clone(), events, node);
            Self { registry, table, discovery }
        }

        /// Takes up services with endpoints at these ports.
        async fn apply(&mut self, services: &[(&str, &[u16])]) {
            let services = services.iter().map(|(name, ports)| {
                let endpoint = |port: &u16| StaticEndpoint {
                    address: "127.0.0.1".parse().unwrap(),
                    ports: vec![*port],
                    weight: 1,
                    traits: None,
                };
                let mut service = spec(name, None);
                service.endpoints = ports.iter().map(endpoint).collect();
                Arc::new(service)
            });
            let definitions = Definitions { services: services.collect(), ..Definitions::default() };
            self.discovery.apply(definitions).await.unwrap();
        }

        /// Makes everything ready, as its first check would.
        async fn make_ready(&self) {
            for instance in self.registry.instances().await {
                let transition =
                    crate::model::Transition { from: instance.verdict, to: crate::model::Verdict::Healthy };
                self.registry.report(&instance.id, transition, "passed").await.unwrap();
            }
        }

        async fn states(&self, service: &str) -> Vec<(u16, InstanceState)> {
            let listing = self.registry.service(&ServiceName::parse(service).unwrap()).await;
            let instances = listing.map(|listing| listing.instances).unwrap_or_default();
            instances.iter().map(|i| (i.ports[0], i.state)).collect()
        }

        /// Begins a request at the endpoint with this port.
        fn request(&self, port: u16) -> crate::balance::InFlight {
            let snapshot = self.table.load();
            let service = snapshot.services.iter().next().unwrap();
            let at = service.endpoints.iter().position(|e| e.ports[0] == port).unwrap();
            service.candidates[at].stats.begin()
        }
    }

    use InstanceState::{Draining, Gone, Ready};

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_leaves_when_its_last_request_is_finished() {
        let mut world = World::new();
        world.apply(&[("web", &[1, 2])]).await;
        world.make_ready().await;
        let request = world.request(2);
        world.apply(&[("web", &[1])]).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.states("web").await, [(1, Ready), (2, Draining)]);
        assert_eq!(world.table.load().services.iter().next().unwrap().endpoints.len(), 1, "nothing new goes there");
        drop(request);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.states("web").await, [(1, Ready), (2, Gone)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_listed_again_is_called_back() {
        let mut world = World::new();
        world.apply(&[("web", &[1, 2, 3])]).await;
        world.make_ready().await;
        let _requests = [world.request(2), world.request(3)];
        world.apply(&[("web", &[1])]).await;
        world.apply(&[("web", &[1, 2])]).await;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(world.states("web").await, [(1, Ready), (2, Ready)], "3 left at its deadline and is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_leaves_when_it_is_empty_and_comes_back_with_what_it_lists() {
        let mut world = World::new();
        world.apply(&[("web", &[1, 2])]).await;
        world.make_ready().await;
        let request = world.request(1);
        world.apply(&[]).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.states("web").await, [(1, Draining), (2, Gone)]);
        // Back, but without 1: that goes on leaving.
        world.apply(&[("web", &[2, 3])]).await;
        world.make_ready().await;
        sleep(Duration::from_secs(1)).await;
        let states = world.states("web").await;
        assert!(
            states.contains(&(1, Draining)) && states.contains(&(2, Ready)) && states.contains(&(3, Ready)),
            "{states:?}"
        );
        drop(request);
        sleep(Duration::from_secs(120)).await;
        assert_eq!(world.states("web").await, [(2, Ready), (3, Ready)]);
        world.apply(&[]).await;
        sleep(Duration::from_secs(120)).await;
        assert!(world.registry.specs().await.is_empty(), "undefined in the end");
    }
}
