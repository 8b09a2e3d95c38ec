//! What one table changes of another, as a contribution to the registry. Pure.

use crate::control::feed::table::{FedEndpoint, FedService, FedTable};
use crate::control::registry::{Adopted, Clash, Contribution, Registration};
use crate::model::{InstanceId, NodeId, ServiceName, Source, Verdict};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A withdrawn endpoint that may still be used.
pub(super) type Leaving = (ServiceName, InstanceId);

/// Returns what makes a registry that holds `before` hold `after`.
pub(super) fn difference(before: &FedTable, after: &FedTable, node: &NodeId) -> Contribution {
    let mut change = Contribution { only: Some(Source::Feed), ..Contribution::default() };
    for name in before.services.keys().filter(|name| !after.services.contains_key(*name)) {
        change.undefine.push(name.clone());
    }
    for (name, new) in &after.services {
        let old = before.services.get(name);
        if old.is_some_and(|old| Arc::ptr_eq(old, new)) {
            continue;
        }
        service(&mut change, old.map(Arc::as_ref), new, node);
    }
    if before.routes != after.routes {
        change.fed_routes = Some(after.routes.clone());
    }
    change
}

fn service(change: &mut Contribution, old: Option<&FedService>, new: &FedService, node: &NodeId) {
    if old.is_none_or(|old| old.spec != new.spec) {
        change.define.push(new.spec.clone());
    }
    let mut known: HashMap<&InstanceId, &FedEndpoint> = HashMap::new();
    known.extend(old.iter().flat_map(|old| &old.endpoints).map(|endpoint| (&endpoint.id, endpoint)));
    for endpoint in &new.endpoints {
        match known.remove(&endpoint.id) {
            Some(same) if same == endpoint => {}
            Some(before) if before.address == endpoint.address && before.ports == endpoint.ports => {
                amend(change, before, endpoint, (&new.spec.name, node));
            }
            before => {
                // Another one by the same id: nothing of the old one holds.
                change.gone.extend(before.map(|before| before.id.clone()));
                change.adopt.push(adopted(&new.spec.name, endpoint, node));
                if endpoint.unhealthy {
                    change.judge.push((endpoint.id.clone(), Verdict::Unhealthy));
                }
            }
        }
    }
    change.gone.extend(known.into_keys().cloned());
}

fn amend(change: &mut Contribution, before: &FedEndpoint, now: &FedEndpoint, of: (&ServiceName, &NodeId)) {
    if before.weight != now.weight || before.traits != now.traits {
        change.adopt.push(Adopted { drained: false, ..adopted(of.0, now, of.1) });
    }
    match (before.draining, now.draining) {
        (false, true) => change.withdraw.push(now.id.clone()),
        (true, false) => change.restore.push(now.id.clone()),
        _ => {}
    }
    if before.unhealthy != now.unhealthy {
        let verdict = if now.unhealthy { Verdict::Unhealthy } else { Verdict::Healthy };
        change.judge.push((now.id.clone(), verdict));
    }
}

fn adopted(service: &ServiceName, endpoint: &FedEndpoint, node: &NodeId) -> Adopted {
    let (address, ports) = (endpoint.address, endpoint.ports.clone());
    let registration = Registration {
        id: Some(endpoint.id.clone()),
        weight: endpoint.weight,
        traits: endpoint.traits.clone(),
        ..Registration::new(service.clone(), Source::Feed, node.clone(), address, ports)
    };
    Adopted { registration, ready: true, drained: endpoint.draining }
}

/// Returns the withdrawn endpoints of a table.
pub(super) fn leaving(table: &FedTable) -> Arc<[Leaving]> {
    let of = |(name, service): (&ServiceName, &Arc<FedService>)| {
        let draining = service.endpoints.iter().filter(|endpoint| endpoint.draining);
        draining.map(|endpoint| (name.clone(), endpoint.id.clone())).collect::<Vec<_>>()
    };
    table.services.iter().flat_map(of).collect()
}

/// Returns the table without the services that `is_taken`, and, told by another machine, without endpoints that only answer
/// on that machine itself; and how many of those there were.
pub(super) fn fit(table: &FedTable, is_taken: impl Fn(&ServiceName) -> bool, is_local: bool) -> (Arc<FedTable>, usize) {
    let mut left_out = 0;
    let mut services = BTreeMap::new();
    for (name, service) in table.services.iter().filter(|(name, _)| !is_taken(name)) {
        let far = |endpoint: &FedEndpoint| !is_local && endpoint.address.is_loopback();
        let count = service.endpoints.iter().filter(|endpoint| far(endpoint)).count();
        left_out += count;
        let service = if count == 0 {
            service.clone()
        } else {
            let endpoints = service.endpoints.iter().filter(|endpoint| !far(endpoint)).cloned().collect();
            Arc::new(FedService { spec: service.spec.clone(), endpoints })
        };
        services.insert(name.clone(), service);
    }
    (Arc::new(FedTable { services, ..table.clone() }), left_out)
}

/// Takes the endpoints out of a table whose ids others have here.
pub(super) fn leave_out(table: &mut Arc<FedTable>, clashes: &[Clash]) {
    if clashes.is_empty() {
        return;
    }
    let (services, ids): (HashSet<_>, HashSet<_>) =
        clashes.iter().map(|clash| (&clash.service, (&clash.service, &clash.id))).unzip();
    let table = Arc::make_mut(table);
    for name in services {
        if let Some(service) = table.services.get_mut(name) {
            Arc::make_mut(service).endpoints.retain(|endpoint| !ids.contains(&(name, &endpoint.id)));
        }
    }
}
