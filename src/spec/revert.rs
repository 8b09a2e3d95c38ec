//! The service as used → its definition, with every default written out.

use crate::model;
use crate::spec::health::write_health;
use crate::spec::scale::write_scale;
use crate::spec::{
    Address, Endpoint, EndpointProtocol, Limits, Outliers, Policy, Port, Protocol, Resolve, Rollout, Run, Service,
    ServiceDns, ServiceTls, Timeouts, written,
};
use std::net::SocketAddr;

impl Service {
    /// Writes the definition of a service in use; reading it again gives the same service.
    pub fn from_model(model: &model::ServiceSpec) -> Self {
        Self {
            name: Some(model.name.name().to_owned()),
            namespace: Some(model.name.namespace().to_owned()),
            protocol: Some(match model.protocol {
                model::EndpointProtocol::Http1 => EndpointProtocol::Http1,
                model::EndpointProtocol::Http2 => EndpointProtocol::H2,
            }),
            proxy_protocol: model.streams.proxy_protocol.map(Into::into),
            policy: Some(model.policy.into()),
            replicas: model.run.as_ref().map(|_| model.replicas),
            retries: Some(model.retries),
            dns_ttl: Some(model.dns_ttl.into()),
            slow_start: Some(model.slow_start.into()),
            drain_timeout: Some(model.drain_timeout.into()),
            health: model.health.as_ref().map(|health| write_health(health, &model.ports)),
            limits: Some(write_limits(model)),
            timeouts: Some(write_timeouts(model)),
            outliers: Some(write_outliers(&model.outliers)),
            scale: model.scale.as_ref().map(write_scale),
            rollout: model.run.as_ref().map(|_| Rollout::write(&model.rollout)),
            dns: Some(ServiceDns::write(&model.dns)),
            resolve: model.resolve.as_deref().map(Resolve::write),
            tls: model.tls.as_deref().map(ServiceTls::from_model),
            run: model.run.as_ref().map(Run::from_model),
            ports: write_ports(model),
            endpoints: model.endpoints.iter().map(write_endpoint).collect(),
        }
    }
}

impl From<model::Policy> for Policy {
    fn from(policy: model::Policy) -> Self {
        match policy {
            model::Policy::ExpectedDelay => Self::ExpectedDelay,
            model::Policy::RoundRobin => Self::RoundRobin,
            model::Policy::Weighted => Self::Weighted,
            model::Policy::LeastRequest => Self::LeastRequest,
            model::Policy::PowerOfTwo => Self::PowerOfTwo,
        }
    }
}

fn write_limits(model: &model::ServiceSpec) -> Limits {
    let limits = &model.limits;
    Limits {
        streams: model.streams.open,
        concurrency: limits.concurrency,
        queue: Some(limits.queue),
        queue_timeout: Some(limits.queue_timeout.into()),
    }
}

fn write_timeouts(model: &model::ServiceSpec) -> Timeouts {
    let timeouts = &model.timeouts;
    Timeouts {
        session: model.streams.session.map(Into::into),
        connect: Some(timeouts.connect.into()),
        response: Some(timeouts.response.into()),
        idle: Some(timeouts.idle.into()),
        tunnel_idle: Some(timeouts.tunnel_idle.into()),
        request: timeouts.request.map(Into::into),
        ping: Some(timeouts.ping.into()),
    }
}

fn write_outliers(outliers: &model::Outliers) -> Outliers {
    Outliers {
        enabled: Some(outliers.enabled),
        gateway_errors: Some(outliers.gateway_errors),
        server_errors: Some(outliers.server_errors),
        base: Some(outliers.base.into()),
        max: Some(outliers.max.into()),
    }
}

/// Numbers of further ports are the same on every endpoint, so the first endpoint tells them; a container has its own.
fn write_ports(model: &model::ServiceSpec) -> Vec<Port> {
    let container = model.run.as_ref().and_then(|run| run.container.as_ref());
    let in_container = |i: usize| {
        let container = container.filter(|container| container.address != model::ContainerAddress::Host)?;
        container.ports.get(i).copied()
    };
    let named = model.resolve.as_deref().map_or(&[] as &[u16], |resolve| &resolve.ports);
    let numbers = model.endpoints.first().map_or(named, |endpoint| &endpoint.ports);
    let port = |(i, port): (usize, &model::PortSpec)| Port {
        name: Some(port.name.to_string()),
        number: in_container(i).or_else(|| numbers.get(i).copied().filter(|_| i > 0 && container.is_none())),
        protocol: Some(match port.protocol {
            model::Protocol::Tcp if port.http => Protocol::Http,
            model::Protocol::Tcp => Protocol::Tcp,
            model::Protocol::Udp => Protocol::Udp,
        }),
        serve: port.serve,
    };
    model.ports.iter().enumerate().map(port).collect()
}

fn write_endpoint(endpoint: &model::StaticEndpoint) -> Endpoint {
    let port = endpoint.ports.first().copied().unwrap_or_default();
    let (zone, tags, meta) = written(endpoint.traits.as_deref());
    Endpoint {
        address: Some(Address::new(SocketAddr::new(endpoint.address, port))),
        weight: Some(endpoint.weight),
        zone,
        tags,
        meta,
    }
}
