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
