//! What small tables are made of; the unit tests include this file too.

use weir::model::{Instance, InstanceId, InstanceState, NodeId, PortSpec, ServiceName, ServiceSpec, Source, Verdict};

/// A service with a TTL of 5 s and TCP ports of these names.
pub fn spec(name: &str, ports: &[&str]) -> ServiceSpec {
    let ports = ports.iter().map(|p| PortSpec::tcp(p)).collect();
    ServiceSpec { ports, ..ServiceSpec::new(ServiceName::parse(name).unwrap()) }
}

/// A ready instance of weight 1.
pub fn ready(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance {
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
