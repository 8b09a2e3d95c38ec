//! What a service is where nothing is said of it.

use crate::model::{
    DnsSpec, EndpointProtocol, Limits, Outliers, Policy, PortSpec, RolloutSpec, ServiceName, ServiceSpec, StreamSpec,
    Timeouts,
};
use std::time::Duration;

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: None, queue: 100, queue_timeout: Duration::from_secs(5) }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // The kernel sends a SYN that was lost, or that found a full accept queue, once more after a second (RFC 6298 section 2).
            connect: Duration::from_millis(1500),
            response: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
            request: None,
            // Half of the default time for an answer, so that a request meets the end of its connection first.
            ping: Duration::from_secs(15),
        }
    }
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            enabled: true,
            gateway_errors: 3,
            server_errors: 5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
        }
    }
}

impl ServiceSpec {
    /// Returns a service of which only the name is said: one TCP port `http`, no endpoint, nothing that is run.
    pub fn new(name: ServiceName) -> Self {
        Self {
            name,
            ports: vec![PortSpec::tcp("http")],
            endpoints: Vec::new(),
            protocol: EndpointProtocol::default(),
            policy: Policy::default(),
            health: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            outliers: Outliers::default(),
            retries: 1,
            slow_start: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            dns_ttl: Duration::from_secs(5),
            dns: DnsSpec::default(),
            run: None,
            replicas: 1,
            scale: None,
            told: None,
            rollout: RolloutSpec::default(),
            tls: None,
            streams: StreamSpec::default(),
            revision: 0,
            resolve: None,
        }
    }
}
