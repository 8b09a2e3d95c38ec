//! Endpoints of a table that is in use no more, at which requests and streams are still in flight: who tells that table is to
//! know of them.

use crate::balance::EndpointStats;
use crate::control::feed::table::FedTable;
use crate::model::{InstanceId, ServiceName};
use crate::table::Snapshot;
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
    /// Returns whether anything is in flight there, here or at Weirs that follow this one.
    pub(super) fn is_used(&self) -> bool {
        self.stats.in_flight() > 0 || self.stats.elsewhere() > 0
    }
}

/// Returns what of both is in use. An endpoint that came back meanwhile is in both, with counters of its own each time.
pub(super) fn joined(before: &[Held], now: Vec<Held>) -> Arc<[Held]> {
    let is_known = |one: &Held| before.iter().any(|known| Arc::ptr_eq(&known.stats, &one.stats));
    let new: Vec<Held> = now.into_iter().filter(|one| !is_known(one)).collect();
    before.iter().cloned().chain(new).filter(Held::is_used).collect()
}

/// Returns the endpoints of the services of `table` that a snapshot has.
pub(super) fn endpoints(snapshot: &Snapshot, table: &FedTable) -> Vec<Held> {
    let of = |name: &ServiceName| {
        let service = snapshot.services.get(name)?;
        let ready = service.endpoints.iter().zip(service.candidates.iter());
        let draining = service.draining.iter().map(|(endpoint, candidate)| (endpoint, candidate));
        let held = ready.chain(draining).map(|(endpoint, candidate)| Held {
            service: name.clone(),
            instance: endpoint.id.clone(),
            stats: candidate.stats.clone(),
        });
        Some(held.collect::<Vec<_>>())
    };
    table.services.keys().filter_map(of).flatten().collect()
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
        let both = joined(&[old.clone()], vec![old.clone(), new.clone(), unused]);
        assert_eq!(stats(&both), stats(&[old, new.clone()]));
        drop(first);
        assert_eq!(stats(&joined(&both, Vec::new())), stats(&[new]));
        drop(second);
        assert!(joined(&both, Vec::new()).is_empty());
    }
}
