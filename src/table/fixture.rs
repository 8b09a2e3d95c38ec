//! Small tables for unit tests.

use crate::model::{Instance, ServiceSpec};
use crate::table::names::Names;
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;

#[path = "../../tests/support/table.rs"]
#[allow(unreachable_pub, reason = "shared with tests outside of the crate")]
mod shared;

/// A service with a TTL of 5 s.
pub(crate) fn spec(name: &str, ports: &[&str]) -> Arc<ServiceSpec> {
    Arc::new(shared::spec(name, ports))
}

/// A ready instance.
pub(crate) fn instance(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance { weight: 3, ..shared::ready(service, id, address, ports) }
}

/// The table after some services were set.
pub(crate) fn set(previous: &Snapshot, services: &[(&str, &[&str], &[Instance])]) -> Snapshot {
    let services =
        services.iter().map(|(name, ports, list)| Change::Set { spec: spec(name, ports), instances: list.to_vec() });
    build(previous, Changes { services: services.collect(), ..Changes::default() })
}

/// An empty table for `weir.internal`.
pub(crate) fn empty() -> Snapshot {
    Snapshot::empty(Names::default())
}
