//! Small tables for unit tests.

use crate::model::{Instance, InstanceId, InstanceState, NodeId, PortSpec, ServiceName, ServiceSpec, Source, Verdict};
use crate::table::names::Names;
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;

/// A service with a TTL of 5 s.
pub(crate) fn spec(name: &str, ports: &[&str]) -> Arc<ServiceSpec> {
    let ports = ports.iter().map(|p| PortSpec::tcp(p)).collect();
    Arc::new(ServiceSpec { ports, ..ServiceSpec::new(ServiceName::parse(name).unwrap()) })
}

/// A ready instance.
pub(crate) fn instance(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance {
        weight: 3,
        state: InstanceState::Ready,
        verdict: Verdict::Healthy,
        ..Instance::new(
            InstanceId::parse(id).unwrap(),
            ServiceName::parse(service).unwrap(),
            Source::File,
            NodeId::parse("local").unwrap(),
            address.parse().unwrap(),
            ports.to_vec(),
        )
    }
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
