//! What tests of this folder and its neighbours begin with.

use crate::control::registry::Registration;
use crate::model::{HealthCheck, InstanceId, NodeId, Policy, PortSpec, Probe, ServiceName, ServiceSpec, Source};
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

pub(crate) fn check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        port: 0,
        interval: SECOND,
        fast_interval: SECOND / 10,
        timeout: SECOND,
        rise: 2,
        fall: 3,
    }
}

pub(crate) fn spec(service: &str, health: Option<HealthCheck>) -> ServiceSpec {
    ServiceSpec {
        ports: ["http", "metrics"].map(PortSpec::tcp).to_vec(),
        policy: Policy::RoundRobin,
        health,
        replicas: 0,
        ..ServiceSpec::new(name(service))
    }
}

pub(crate) fn registration(service: &str, instance: &str, source: Source) -> Registration {
    let (node, address) = (NodeId::parse("here").unwrap(), "127.0.0.1".parse().unwrap());
    let plain = Registration::new(name(service), source, node, address, vec![8000]);
    Registration { id: Some(id(instance)), revision: 1, ..plain }
}
