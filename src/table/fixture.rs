//! Small tables for unit tests.

use crate::model::{
    Instance, InstanceId, InstanceState, Limits, NodeId, Outliers, Policy, PortSpec, RolloutSpec, ServiceName,
    ServiceSpec, Source, Timeouts, Verdict,
};
use crate::table::names::Names;
use crate::table::{Change, Changes, Snapshot, build};
use std::sync::Arc;
use std::time::Duration;

/// A service with a TTL of 5 s.
pub(crate) fn spec(name: &str, ports: &[&str]) -> Arc<ServiceSpec> {
    let second = Duration::from_secs(1);
    Arc::new(ServiceSpec {
        name: ServiceName::parse(name).unwrap(),
        ports: ports.iter().map(|p| PortSpec::tcp(p)).collect(),
        endpoints: Vec::new(),
        protocol: Default::default(),
        policy: Policy::default(),
        health: None,
        limits: Limits { concurrency: None, queue: 0, queue_timeout: second },
        timeouts: Timeouts {
            connect: second,
            response: second,
            idle: second,
            tunnel_idle: second,
            request: None,
            ping: second,
        },
        outliers: Outliers { enabled: false, gateway_errors: 3, server_errors: 5, base: second, max: second },
        retries: 0,
        slow_start: Duration::ZERO,
        drain_timeout: second,
        dns_ttl: Duration::from_secs(5),
        dns: Default::default(),
        run: None,
        replicas: 0,
        scale: None,
        told: None,
        rollout: RolloutSpec::default(),
        resolve: None,
        tls: None,
        streams: Default::default(),
        revision: 0,
    })
}

/// A ready instance.
pub(crate) fn instance(service: &str, id: &str, address: &str, ports: &[u16]) -> Instance {
    Instance {
        id: InstanceId::parse(id).unwrap(),
        service: ServiceName::parse(service).unwrap(),
        source: Source::File,
        node: NodeId::parse("local").unwrap(),
        address: address.parse().unwrap(),
        ports: ports.to_vec(),
        weight: 3,
        traits: None,
        state: InstanceState::Ready,
        verdict: Verdict::Healthy,
        reason: "".into(),
        workload: None,
        revision: 1,
        created_ms: 1,
        ready_ms: 1,
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
