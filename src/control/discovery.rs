//! What the configuration lists → registry commands.
//!
//! Keeps what the configuration last contributed and hands the registry only the difference, in one publish, so that a
//! reload touches nothing that stays. An endpoint's id is made from its address, so that it is the same after a restart
//! and a moved endpoint is a new one. What is no longer listed leaves by `leaving.rs`: it finishes what it has. Does not
//! know the file format. Next on the path: `registry/handle.rs`.

use crate::control::events::Events;
use crate::control::leaving::Leaving;
use crate::control::registry::{Contribution, Handle, Registration, RegistryError};
use crate::control::resolve::{Known, Resolving};
use crate::control::scheduler;
use crate::model::{
    InstanceId, ListenerSpec, NodeId, ResolveSpec, RouteSpec, ServiceName, ServiceSpec, StaticEndpoint,
};
use crate::table::Table;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_64;

/// What a configuration defines.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// The services with their endpoints.
    pub services: Vec<Arc<ServiceSpec>>,
    /// The routes of all listeners.
    pub routes: Arc<[RouteSpec]>,
    /// The listeners.
    pub listeners: Arc<[ListenerSpec]>,
}

/// Brings configurations into the registry.
#[derive(Debug)]
pub struct Discovery {
    leaving: Leaving,
    node: NodeId,
    events: Events,
    /// What was contributed last; `None` before the first.
    last: Option<Definitions>,
    /// Services whose endpoints DNS names.
    resolved: HashMap<ServiceName, Resolved>,
}

/// A service whose endpoints DNS names.
#[derive(Debug)]
struct Resolved {
    spec: Arc<ResolveSpec>,
    known: Known,
    task: JoinHandle<()>,
}

impl Drop for Resolved {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Discovery {
    /// Makes a discovery that has contributed nothing; `node` is the machine that static endpoints are counted to.
    pub fn new(registry: Handle, table: Table, events: Events, node: NodeId) -> Self {
        let leaving = Leaving::new(registry, table, events.clone());
        Self { leaving, node, events, last: None, resolved: HashMap::new() }
    }

    /// Tells who stops the replicas of services that are removed.
    pub fn attach(&self, scheduler: scheduler::Handle) {
        self.leaving.attach(scheduler);
    }

    /// Contributes a configuration: the first one whole, later ones as the difference. Returns the generation that shows
    /// it; what it no longer lists leaves after that.
    ///
    /// # Errors
    /// The registry's first refusal; everything else is carried out.
    pub async fn apply(&mut self, definitions: Definitions) -> Result<u64, RegistryError> {
        let mut difference = difference(self.last.as_ref(), &definitions, &self.node);
        difference.contribution.withdraw.extend(self.no_longer_resolved(&definitions));
        self.last = Some(definitions);
        let back = self.leaving.call_back(&difference.contribution);
        let generation = self.leaving.registry().contribute(difference.contribution.clone()).await;
        self.leaving.restore(back).await;
        self.leaving.see_off(difference.contribution.withdraw, difference.removed);
        self.resolve();
        generation
    }

    /// Ends the tasks of services that are no longer resolved; returns the endpoints of those that stay.
    fn no_longer_resolved(&mut self, definitions: &Definitions) -> Vec<InstanceId> {
        let wanted: HashMap<&ServiceName, bool> =
            definitions.services.iter().map(|spec| (&spec.name, spec.resolve.is_some())).collect();
        let mut ids = Vec::new();
        self.resolved.retain(|name, resolved| {
            if wanted.get(name) == Some(&false) {
                ids.extend(resolved.known.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned());
            }
            wanted.get(name) == Some(&true)
        });
        ids
    }

    /// Starts the tasks of services that are resolved from now on, or in another way; what is known is kept until then.
    fn resolve(&mut self) {
        let services = self.last.iter().flat_map(|last| &last.services);
        for service in services {
            let Some(spec) = &service.resolve else { continue };
            let before = self.resolved.get(&service.name);
            if before.is_some_and(|before| before.spec == *spec) {
                continue;
            }
            let known = before.map(|before| before.known.clone()).unwrap_or_default();
            let resolving = Resolving {
                service: service.name.clone(),
                spec: spec.clone(),
                node: self.node.clone(),
                leaving: self.leaving.another(),
                events: self.events.clone(),
                known: known.clone(),
            };
            let resolved = Resolved { spec: spec.clone(), known, task: tokio::spawn(resolving.run()) };
            self.resolved.insert(service.name.clone(), resolved);
        }
    }
}

/// What one configuration changes of another.
#[derive(Debug, Clone, Default)]
struct Difference {
    contribution: Contribution,
    /// Services that are no longer defined, as they were.
    removed: Vec<Arc<ServiceSpec>>,
}

/// Returns what must change from one configuration to the next.
fn difference(before: Option<&Definitions>, after: &Definitions, node: &NodeId) -> Difference {
    let empty = Definitions::default();
    let known = before.unwrap_or(&empty);
    let old: HashMap<&ServiceName, &Arc<ServiceSpec>> = known.services.iter().map(|spec| (&spec.name, spec)).collect();
    let new: HashMap<&ServiceName, &Arc<ServiceSpec>> = after.services.iter().map(|spec| (&spec.name, spec)).collect();
    let mut contribution = Contribution {
        // Also when there are none: the first table says so.
        routes: (before.is_none() || known.routes != after.routes).then(|| after.routes.clone()),
        listeners: (before.is_none() || known.listeners != after.listeners).then(|| after.listeners.clone()),
        ..Contribution::default()
    };
    for spec in &after.services {
        let listed_before = old.get(&spec.name).map(|old| listed(old)).unwrap_or_default();
        let listed_now = listed(spec);
        if old.get(&spec.name) != Some(&spec) {
            contribution.define.push(spec.clone());
        }
        contribution.withdraw.extend(listed_before.keys().filter(|id| !listed_now.contains_key(id)).cloned());
        // In the order of the file, which is the order of the endpoints in the table.
        for endpoint in &spec.endpoints {
            let id = endpoint_id(&spec.name, endpoint);
            if listed_before.get(&id) != Some(&endpoint) {
                contribution.register.push(Registration::listed(&spec.name, id, endpoint, node));
            }
        }
    }
    let removed = known.services.iter().filter(|spec| !new.contains_key(&spec.name));
    Difference { contribution, removed: removed.cloned().collect() }
}

fn listed(spec: &ServiceSpec) -> BTreeMap<InstanceId, &StaticEndpoint> {
    spec.endpoints.iter().map(|endpoint| (endpoint_id(&spec.name, endpoint), endpoint)).collect()
}

fn endpoint_id(service: &ServiceName, endpoint: &StaticEndpoint) -> InstanceId {
    let place = format!("{}/{} {} {:?}", service.namespace(), service.name(), endpoint.address, endpoint.ports);
    InstanceId::random(service, xxh3_64(place.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{Definitions, Difference, difference};
    use crate::control::registry::fixture::{check, spec};
    use crate::model::{NodeId, RouteSpec, ServiceName, StaticEndpoint};
    use std::sync::Arc;

    fn endpoint(port: u16, weight: u32) -> StaticEndpoint {
        StaticEndpoint { address: "10.0.0.1".parse().unwrap(), ports: vec![port], weight, traits: None }
    }

    fn definitions(services: &[(&str, &[StaticEndpoint])]) -> Definitions {
        let services = services.iter().map(|(name, endpoints)| {
            let mut service = spec(name, Some(check()));
            service.endpoints = endpoints.to_vec();
            Arc::new(service)
        });
        Definitions { services: services.collect(), ..Definitions::default() }
    }

    fn diff(before: Option<&Definitions>, after: &Definitions) -> Difference {
        difference(before, after, &NodeId::parse("here").unwrap())
    }

    #[test]
    fn the_first_configuration_is_contributed_whole() {
        let all = definitions(&[("web", &[endpoint(1, 1), endpoint(2, 5)]), ("api", &[])]);
        let first = diff(None, &all).contribution;
        assert_eq!((first.define.len(), first.register.len()), (2, 2));
        assert_eq!(first.register.iter().map(|r| (r.ports[0], r.weight)).collect::<Vec<_>>(), [(1, 1), (2, 5)]);
        assert!(first.routes.is_some() && first.listeners.is_some() && first.withdraw.is_empty());
    }

    #[test]
    fn an_unchanged_configuration_changes_nothing() {
        let all = definitions(&[("web", &[endpoint(1, 1)])]);
        let difference = diff(Some(&all), &all.clone());
        let none = difference.contribution;
        assert!(none.define.is_empty() && none.register.is_empty() && none.withdraw.is_empty());
        assert!(difference.removed.is_empty() && none.routes.is_none() && none.listeners.is_none());
    }

    #[test]
    fn only_endpoints_that_differ_are_touched() {
        let before = definitions(&[("web", &[endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)])]);
        let after = definitions(&[("web", &[endpoint(1, 1), endpoint(3, 9), endpoint(4, 1)])]);
        let change = diff(Some(&before), &after).contribution;
        assert_eq!(change.register.iter().map(|r| (r.ports[0], r.weight)).collect::<Vec<_>>(), [(3, 9), (4, 1)]);
        let was = diff(None, &before).contribution;
        assert_eq!(change.withdraw, [was.register[1].id.clone().unwrap()]);
        assert_eq!(change.register[0].id, was.register[2].id, "another weight is the same endpoint");
    }

    #[test]
    fn a_removed_service_is_not_just_undefined() {
        let before = definitions(&[("web", &[endpoint(1, 1)]), ("api", &[endpoint(2, 1)])]);
        let change = diff(Some(&before), &definitions(&[("api", &[endpoint(2, 1)])]));
        assert_eq!(change.removed.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(), ["web"]);
        let now = change.contribution;
        assert!(now.undefine.is_empty() && now.withdraw.is_empty() && now.define.is_empty() && now.register.is_empty());
    }

    #[test]
    fn changed_routes_are_contributed() {
        let before = definitions(&[("web", &[])]);
        let route = RouteSpec {
            name: "all".into(),
            listeners: Vec::new(),
            host: None,
            path: "/".into(),
            service: ServiceName::parse("web").unwrap(),
            port: 0,
        };
        let change = diff(Some(&before), &Definitions { routes: Arc::new([route]), ..before.clone() }).contribution;
        assert_eq!((change.routes.map(|routes| routes.len()), change.listeners), (Some(1), None));
    }
}
