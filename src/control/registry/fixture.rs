//! What tests of this folder and its neighbours begin with.

use crate::control::registry::Registration;
use crate::model::{
    HealthCheck, InstanceId, Limits, NodeId, Outliers, Policy, PortSpec, Probe, RolloutSpec, ServiceName, ServiceSpec,
    Source, Timeouts,
};
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
        name: name(service),
        ports: ["http", "metrics"].map(PortSpec::tcp).to_vec(),
        endpoints: Vec::new(),
        protocol: Default::default(),
        policy: Policy::RoundRobin,
        health,
        limits: Limits { concurrency: None, queue: 100, queue_timeout: SECOND },
        timeouts: Timeouts {
            connect: SECOND,
            response: SECOND,
            idle: SECOND,
            tunnel_idle: SECOND,
            request: None,
            ping: SECOND,
        },
        outliers: Outliers { enabled: true, gateway_errors: 3, server_errors: 5, base: SECOND, max: 30 * SECOND },
        retries: 1,
        slow_start: Duration::ZERO,
        drain_timeout: 30 * SECOND,
        dns_ttl: 5 * SECOND,
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
    }
}

pub(crate) fn registration(service: &str, instance: &str, source: Source) -> Registration {
    Registration {
        id: Some(id(instance)),
        service: name(service),
        source,
        address: "127.0.0.1".parse().unwrap(),
        ports: vec![8000],
        weight: 1,
        traits: None,
        workload: None,
        revision: 1,
        lease: None,
        node: NodeId::parse("here").unwrap(),
    }
}
