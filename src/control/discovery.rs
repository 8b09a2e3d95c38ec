//! What the configuration lists → registry commands.
//!
//! Keeps what the configuration last contributed and hands the registry only the difference, in one publish, so that a
//! reload touches nothing that stays. An endpoint's id is made from its address, so that it is the same after a restart
//! and a moved endpoint is a new one. Does not know the file format. Next on the path: `registry/handle.rs`.

use crate::control::registry::{Contribution, Handle, Registration, RegistryError};
use crate::model::{InstanceId, ListenerSpec, NodeId, RouteSpec, ServiceName, ServiceSpec, Source, StaticEndpoint};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
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
    registry: Handle,
    node: NodeId,
    /// What was contributed last; `None` before the first.
    last: Option<Definitions>,
}

impl Discovery {
    /// Makes a discovery that has contributed nothing; `node` is the machine that static endpoints are counted to.
    pub fn new(registry: Handle, node: NodeId) -> Self {
        Self { registry, node, last: None }
    }

    /// Contributes a configuration: the first one whole, later ones as the difference. Returns the generation that shows it.
    ///
    /// # Errors
    /// The registry's first refusal; everything else is carried out.
    pub async fn apply(&mut self, definitions: Definitions) -> Result<u64, RegistryError> {
        let contribution = difference(self.last.as_ref(), &definitions, &self.node);
        self.last = Some(definitions);
        self.registry.contribute(contribution).await
    }
}

/// Returns what must change from one configuration to the next.
fn difference(before: Option<&Definitions>, after: &Definitions, node: &NodeId) -> Contribution {
    let empty = Definitions::default();
    let known = before.unwrap_or(&empty);
    let old: HashMap<&ServiceName, &Arc<ServiceSpec>> = known.services.iter().map(|spec| (&spec.name, spec)).collect();
    let new: HashMap<&ServiceName, &Arc<ServiceSpec>> = after.services.iter().map(|spec| (&spec.name, spec)).collect();
    let mut contribution = Contribution {
        undefine: known.services.iter().map(|spec| &spec.name).filter(|n| !new.contains_key(n)).cloned().collect(),
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
        contribution.gone.extend(listed_before.keys().filter(|id| !listed_now.contains_key(id)).cloned());
        // In the order of the file, which is the order of the endpoints in the table.
        for endpoint in &spec.endpoints {
            let id = endpoint_id(&spec.name, endpoint);
            if listed_before.get(&id) != Some(&endpoint) {
                contribution.register.push(registration(&spec.name, id, endpoint, node));
            }
        }
    }
    contribution
}

fn listed(spec: &ServiceSpec) -> BTreeMap<InstanceId, &StaticEndpoint> {
    spec.endpoints.iter().map(|endpoint| (endpoint_id(&spec.name, endpoint), endpoint)).collect()
}

fn endpoint_id(service: &ServiceName, endpoint: &StaticEndpoint) -> InstanceId {
    let place = format!("{}/{} {} {:?}", service.namespace(), service.name(), endpoint.address, endpoint.ports);
    InstanceId::random(service, xxh3_64(place.as_bytes()))
}

fn registration(service: &ServiceName, id: InstanceId, endpoint: &StaticEndpoint, node: &NodeId) -> Registration {
    Registration {
        id: Some(id),
        service: service.clone(),
        source: Source::File,
        address: endpoint.address,
        ports: endpoint.ports.clone(),
        weight: endpoint.weight,
        workload: None,
        revision: 0,
        lease: None,
        node: node.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Definitions, difference};
    use crate::control::registry::Contribution;
    use crate::control::registry::tests::{check, spec};
    use crate::model::{NodeId, RouteSpec, ServiceName, StaticEndpoint};
    use std::sync::Arc;

    fn endpoint(port: u16, weight: u32) -> StaticEndpoint {
        StaticEndpoint { address: "10.0.0.1".parse().unwrap(), ports: vec![port], weight }
    }

    fn definitions(services: &[(&str, &[StaticEndpoint])]) -> Definitions {
        let services = services.iter().map(|(name, endpoints)| {
            let mut service = spec(name, Some(check()));
            service.endpoints = endpoints.to_vec();
            Arc::new(service)
        });
        Definitions { services: services.collect(), ..Definitions::default() }
    }

    fn diff(before: Option<&Definitions>, after: &Definitions) -> Contribution {
        difference(before, after, &NodeId::parse("here").unwrap())
    }

    #[test]
    fn the_first_configuration_is_contributed_whole() {
        let all = definitions(&[("web", &[endpoint(1, 1), endpoint(2, 5)]), ("api", &[])]);
        let first = diff(None, &all);
        assert_eq!((first.define.len(), first.register.len()), (2, 2));
        assert_eq!(first.register.iter().map(|r| (r.ports[0], r.weight)).collect::<Vec<_>>(), [(1, 1), (2, 5)]);
        assert!(first.routes.is_some() && first.listeners.is_some() && first.undefine.is_empty());
    }

    #[test]
    fn an_unchanged_configuration_changes_nothing() {
        let all = definitions(&[("web", &[endpoint(1, 1)])]);
        let none = diff(Some(&all), &all.clone());
        assert!(none.define.is_empty() && none.register.is_empty() && none.gone.is_empty());
        assert!(none.undefine.is_empty() && none.routes.is_none() && none.listeners.is_none());
    }

    #[test]
    fn only_endpoints_that_differ_are_touched() {
        let before = definitions(&[("web", &[endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)])]);
        let after = definitions(&[("web", &[endpoint(1, 1), endpoint(3, 9), endpoint(4, 1)])]);
        let change = diff(Some(&before), &after);
        assert_eq!(change.register.iter().map(|r| (r.ports[0], r.weight)).collect::<Vec<_>>(), [(3, 9), (4, 1)]);
        let was = diff(None, &before);
        assert_eq!(change.gone, [was.register[1].id.clone().unwrap()]);
        assert_eq!(change.register[0].id, was.register[2].id, "another weight is the same endpoint");
    }

    #[test]
    fn a_removed_service_takes_its_endpoints_with_it() {
        let before = definitions(&[("web", &[endpoint(1, 1)]), ("api", &[endpoint(2, 1)])]);
        let change = diff(Some(&before), &definitions(&[("api", &[endpoint(2, 1)])]));
        assert_eq!(change.undefine, [ServiceName::parse("web").unwrap()]);
        assert!(change.gone.is_empty() && change.define.is_empty() && change.register.is_empty());
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
        let change = diff(Some(&before), &Definitions { routes: Arc::new([route]), ..before.clone() });
        assert_eq!((change.routes.map(|routes| routes.len()), change.listeners), (Some(1), None));
    }
}
