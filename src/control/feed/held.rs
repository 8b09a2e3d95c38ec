//! Endpoints of a table that is in use no more, at which requests and streams are still in flight: who tells that table is to
//! know of them.

use crate::balance::EndpointStats;
use crate::control::feed::table::{FedService, FedTable};
use crate::model::{InstanceId, ServiceName};
use crate::table::Snapshot;
use std::collections::HashSet;
use std::sync::Arc;

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Its service.
    pub(super) service: ServiceName,
    /// The endpoint.
    pub(super) instance: InstanceId,
    stats: Arc<EndpointStats>,
}

impl Held {
    /// Begins a request there.
    #[cfg(test)]
    pub(super) fn begin(&self) -> crate::balance::InFlight {
        self.stats.begin()
    }

    /// Returns whether anything is in flight there, here or at Weirs that follow this one.
    pub(super) fn is_used(&self) -> bool {
        self.stats.in_flight() > 0 || self.stats.elsewhere() > 0
    }
}

/// Returns what of both is in use, and what of `now` may still be unless `is_settled`. An endpoint that came back meanwhile is
/// in both, with counters of its own each time.
pub(super) fn joined(before: &[Held], now: Vec<Held>, is_settled: bool) -> Arc<[Held]> {
    let is_known = |one: &Held| before.iter().any(|known| Arc::ptr_eq(&known.stats, &one.stats));
    let new = now.into_iter().filter(|one| !is_known(one) && (!is_settled || one.is_used()));
    let new: Vec<Held> = new.collect();
    before.iter().filter(|one| !is_settled || one.is_used()).cloned().chain(new).collect()
}

/// Returns the endpoints of the services of `table` that a snapshot has.
pub(super) fn endpoints(snapshot: &Snapshot, table: &FedTable) -> Vec<Held> {
    let of = |(name, service): (&ServiceName, &Arc<FedService>)| of_service(snapshot, name, Some(service));
    table.services.iter().flat_map(of).collect()
}

/// Returns those of one service, as far as they came with the table; all when it is not said which came.
pub(super) fn of_service(snapshot: &Snapshot, name: &ServiceName, told: Option<&FedService>) -> Vec<Held> {
    let Some(service) = snapshot.services.get(name) else { return Vec::new() };
    let came: Option<HashSet<_>> = told.map(|told| told.endpoints.iter().map(|endpoint| &endpoint.id).collect());
    let ready = service.endpoints.iter().zip(service.candidates.iter());
    let draining = service.draining.iter().map(|(endpoint, candidate)| (endpoint, candidate));
    let of = ready.chain(draining).filter(|(endpoint, _)| came.as_ref().is_none_or(|came| came.contains(&endpoint.id)));
    of.map(|(endpoint, candidate)| Held {
        service: name.clone(),
        instance: endpoint.id.clone(),
        stats: candidate.stats.clone(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{Held, joined};
    use crate::balance::EndpointStats;
    use crate::model::{InstanceId, ServiceName};
    use std::sync::Arc;

    #[test]
    fn what_was_held_stays_when_its_endpoint_came_back_and_went_again() {
        let held = || Held {
            service: ServiceName::parse("web").unwrap(),
            instance: InstanceId::parse("web-abcdef").unwrap(),
            stats: Arc::new(EndpointStats::default()),
        };
        let (old, new, unused) = (held(), held(), held());
        let (first, second) = (old.stats.use_elsewhere(), new.stats.use_elsewhere());
        let stats = |held: &[Held]| held.iter().map(|one| Arc::as_ptr(&one.stats)).collect::<Vec<_>>();
        let both = joined(std::slice::from_ref(&old), vec![old.clone(), new.clone(), unused.clone()], true);
        assert_eq!(stats(&both), stats(&[old, new.clone()]));
        drop(first);
        assert_eq!(stats(&joined(&both, Vec::new(), true)), stats(&[new]));
        assert_eq!(stats(&joined(&[], vec![unused.clone()], false)), stats(&[unused]), "something new may come to it");
        drop(second);
        assert!(joined(&both, Vec::new(), true).is_empty());
    }
}
