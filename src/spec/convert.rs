//! Definition of a service → the service as used: defaults filled in, every problem collected.
//!
//! Each `read_*` takes one part of the definition, records what is wrong with it and returns a value in any case, so that
//! the parts after it are still read; the result is used only when nothing was recorded.

use crate::model::{self, ServiceName, parse_label};
use crate::spec::bounds::{bounded, positive};
use crate::spec::health::read_health;
use crate::spec::listener::MAX_NAME_OCTETS;
use crate::spec::stream::CONNECTIONS as STREAMS;
use crate::spec::{Duration, Endpoint, EndpointProtocol, Policy, Problem, Problems, Protocol, Said, Service, scale};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration as Time;

/// Name of the only port of a service that names none.
const DEFAULT_PORT: &str = "http";
/// Bound of `replicas`: the ports of the default `node.port_range`.
const REPLICAS: RangeInclusive<u32> = 0..=10_000;
/// Bound of `retries`: each one multiplies load on what already fails.
const RETRIES: RangeInclusive<u32> = 0..=5;
/// Bound of thresholds that count failed requests.
const ERRORS: RangeInclusive<u32> = 1..=1_000_000;
/// Bound of `limits.concurrency`.
const CONCURRENCY: RangeInclusive<u32> = 1..=1_000_000;
/// Bound of `limits.queue`: each waiter holds a connection.
const QUEUE: RangeInclusive<u32> = 0..=1_000_000;
/// Bound of `weight`.
const WEIGHT: RangeInclusive<u32> = 1..=1000;
/// Bound of `dns_ttl`: no cache honours more than a day.
const MAX_DNS_TTL: Time = Time::from_secs(24 * 3600);

impl Service {
    /// Converts the definition, with every default filled in.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn to_model(&self) -> Result<model::ServiceSpec, Vec<Problem>> {
        let mut problems = Problems::new();
        let p = &mut problems;
        let name = self.read_name(p);
        let names = self.port_names();
        let ports = self.read_ports(p);
        let endpoints = self.read_endpoints(p);
        let retries = bounded(p, "retries", self.retries, 1, &RETRIES);
        let dns_ttl = self.read_dns_ttl(p);
        let dns = self.dns.as_ref().map(|dns| dns.read(p)).unwrap_or_default();
        let health = self.health.as_ref().map(|health| read_health(p, health, (&names, &ports)));
        let limits = self.read_limits(p);
        let timeouts = self.read_timeouts(p);
        let outliers = self.read_outliers(p);
        let run = self.run.as_ref().map(|run| run.read(p, self));
        let scale = self.read_scale(p);
        let replicas = self.read_replicas(p, scale.as_ref().map_or(1, |scale| scale.min.max(1)));
        let rollout = self.read_rollout(p);
        let resolve = self.resolve.as_ref().and_then(|resolve| {
            resolve.read(p, self.ports.iter().skip(1).map(|port| port.number.unwrap_or_default())).map(Arc::new)
        });
        if self.resolve.is_some() && (!self.endpoints.is_empty() || self.run.is_some()) {
            let what = if self.run.is_some() { "run" } else { "[[service.endpoint]]" };
            p.add("resolve", format!("is there beside {what}"), "endpoints come from one of them: remove the other");
        }
        let tls = self.tls.as_ref().map(|tls| Arc::new(tls.read(p)));
        let streams = self.read_streams(p);
        self.check_transport(p);
        match name {
            Some(name) if problems.is_empty() => Ok(model::ServiceSpec {
                ports,
                endpoints,
                protocol: match self.protocol {
                    None | Some(EndpointProtocol::Http1) => model::EndpointProtocol::Http1,
                    Some(EndpointProtocol::H2) => model::EndpointProtocol::Http2,
                },
                policy: self.policy.map_or_else(model::Policy::default, Into::into),
                health,
                limits,
                timeouts,
                outliers,
                retries,
                slow_start: self.slow_start.map_or(Time::ZERO, Duration::get),
                drain_timeout: self.drain_timeout.map_or(Time::from_secs(30), Duration::get),
                dns_ttl,
                dns,
                run,
                replicas,
                scale,
                rollout,
                resolve,
                tls,
                streams,
                ..model::ServiceSpec::new(name)
            }),
            _ => Err(problems.into_vec()),
        }
    }

    /// Finds what is said of connections where there are none, or none of one client's.
    fn check_transport(&self, p: &mut Problems) {
        if self.proxy_protocol.is_some() && self.protocol == Some(EndpointProtocol::H2) {
            let hint = "a connection to an h2 endpoint carries requests of many clients: remove one of them";
            p.add("proxy_protocol", "is not for protocol = \"h2\"", hint);
        }
        let only_datagrams =
            !self.ports.is_empty() && self.ports.iter().all(|port| port.protocol == Some(Protocol::Udp));
        for (key, _) in [("proxy_protocol", self.proxy_protocol.is_some()), ("tls", self.tls.is_some())]
            .into_iter()
            .filter(|(_, said)| *said && only_datagrams)
        {
            let hint = "datagrams pass as they are: remove it, or add a [[service.port]] with protocol = \"tcp\"";
            p.add(key, "is for TCP, and every port is of protocol = \"udp\"", hint);
        }
    }

    /// Returns the full name when both parts can be read.
    pub fn full_name(&self) -> Option<ServiceName> {
        let name = self.name.as_deref()?;
        match self.namespace.as_deref() {
            Some(namespace) => ServiceName::new_in(namespace, name).ok(),
            None if name.contains('/') => None,
            None => ServiceName::parse(name).ok(),
        }
    }

    /// Returns true when its replicas are containers.
    fn is_container(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.image.is_some())
    }

    /// Returns the names of its ports in order, as routes and checks refer to them.
    pub fn port_names(&self) -> Vec<String> {
        if self.ports.is_empty() {
            return vec![DEFAULT_PORT.to_owned()];
        }
        self.ports.iter().map(|port| port.name.clone().unwrap_or_default()).collect()
    }

    fn read_name(&self, p: &mut Problems) -> Option<ServiceName> {
        let Some(name) = self.name.as_deref() else {
            p.absent("name", "add name = \"...\": routes, DNS and metrics name the service by it");
            return None;
        };
        if let Some((namespace, name)) = name.split_once('/') {
            p.add(
                "name",
                "must not hold \"/\"",
                format!("write name = {name:?} and namespace = {namespace:?} as keys of their own"),
            );
            return None;
        }
        if let Some(namespace) = self.namespace.as_deref()
            && let Err(error) = parse_label(namespace, MAX_NAME_OCTETS)
        {
            p.add("namespace", error.to_string(), "use one DNS label, such as \"staging\"");
            return None;
        }
        let full = match self.namespace.as_deref() {
            Some(namespace) => ServiceName::new_in(namespace, name),
            None => ServiceName::parse(name),
        };
        full.map_err(|e| p.add("name", e.to_string(), "use one DNS label of at most 50 characters, such as \"web\""))
            .ok()
    }

    fn read_ports(&self, p: &mut Problems) -> Vec<model::PortSpec> {
        if self.ports.is_empty() {
            return vec![model::PortSpec::tcp(DEFAULT_PORT)];
        }
        let mut ports: Vec<model::PortSpec> = Vec::new();
        for (i, port) in self.ports.iter().enumerate() {
            p.within("port", i, |p| {
                let name = port.name.as_deref().unwrap_or_default();
                if port.name.is_none() {
                    p.absent("name", "add name = \"...\": routes and SRV records name the port by it");
                } else if let Err(error) = parse_label(name, MAX_NAME_OCTETS) {
                    p.add("name", error.to_string(), "use one DNS label, such as \"http\" or \"metrics\"");
                } else if ports.iter().any(|other| *other.name == *name) {
                    p.add("name", format!("port {name:?} is defined twice"), "give each port its own name");
                }
                self.check_number(p, i, port.number);
                let protocol = match port.protocol {
                    Some(Protocol::Udp) => model::Protocol::Udp,
                    Some(Protocol::Tcp | Protocol::Http) | None => model::Protocol::Tcp,
                };
                let (serve, http) = (port.serve, port.protocol == Some(Protocol::Http));
                check_serve(p, &ports, serve);
                ports.push(model::PortSpec { name: name.into(), protocol, serve, http });
            });
        }
        ports
    }

    fn check_number(&self, p: &mut Problems, index: usize, number: Option<u16>) {
        match number {
            Some(0) => p.add("number", "is 0", "write 1 to 65535"),
            Some(_) | None if self.is_container() => {}
            Some(_) if index == 0 => p.add(
                "number",
                "must not stand on the first port",
                "its number is the one in the address of each [[service.endpoint]]",
            ),
            Some(_) if self.endpoints.is_empty() && self.resolve.is_none() => p.add(
                "number",
                "needs a [[service.endpoint]]",
                "processes get their numbers from node.port_range, as ${PORT_<NAME>}; remove number",
            ),
            None if index > 0 && (!self.endpoints.is_empty() || self.resolve.is_some()) => {
                p.absent("number", "add the number that every [[service.endpoint]] offers this port on");
            }
            Some(_) | None => {}
        }
    }

    fn read_endpoints(&self, p: &mut Problems) -> Vec<model::StaticEndpoint> {
        let mut endpoints = Vec::new();
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            p.within("endpoint", i, |p| {
                let weight = bounded(p, "weight", endpoint.weight, 1, &WEIGHT);
                let Some(address) = self.read_endpoint_address(p, i, endpoint) else { return };
                let mut ports = vec![address.port()];
                ports.extend(self.ports.iter().skip(1).map(|port| port.number.unwrap_or_default()));
                let (zone, tags, meta) = (endpoint.zone.as_deref(), &endpoint.tags, &endpoint.meta);
                let traits = Said { zone, tags, meta }.read(p);
                endpoints.push(model::StaticEndpoint { address: address.ip(), ports, weight, traits });
            });
        }
        endpoints
    }

    fn read_endpoint_address(&self, p: &mut Problems, i: usize, endpoint: &Endpoint) -> Option<std::net::SocketAddr> {
        let Some(address) = endpoint.address else {
            p.absent("address", "add address = \"IP:PORT\"");
            return None;
        };
        if self.endpoints.iter().take(i).any(|other| other.address == Some(address)) {
            p.add("address", format!("endpoint {address} is defined twice"), "use weight to give it a larger share");
        }
        let socket = address.get();
        if socket.ip().is_unspecified() || socket.ip().is_multicast() {
            p.add(
                "address",
                format!("{} is not an address to connect to", socket.ip()),
                "write the endpoint's own address",
            );
        }
        if socket.port() == 0 {
            p.add("address", "has port 0", "write the port that the endpoint listens on");
        }
        Some(socket)
    }

    fn read_dns_ttl(&self, p: &mut Problems) -> Time {
        let ttl = self.dns_ttl.map_or(Time::from_secs(5), Duration::get);
        if ttl.subsec_nanos() != 0 {
            p.add(
                "dns_ttl",
                format!("{} is not in whole seconds", Duration::new(ttl)),
                "DNS counts in seconds: write \"1s\"",
            );
        } else if ttl > MAX_DNS_TTL {
            p.add("dns_ttl", "is longer than 1d", "clients keep old addresses for so long; \"5s\" is the default");
        }
        ttl
    }

    fn read_limits(&self, p: &mut Problems) -> model::Limits {
        let limits = self.limits.clone().unwrap_or_default();
        let defaults = model::Limits::default();
        model::Limits {
            concurrency: limits
                .concurrency
                .or(self.scale.as_ref().map(|_| scale::CONCURRENCY))
                .map(|concurrency| bounded(p, "limits.concurrency", Some(concurrency), 1, &CONCURRENCY)),
            queue: bounded(p, "limits.queue", limits.queue, defaults.queue, &QUEUE),
            queue_timeout: positive(p, "limits.queue_timeout", limits.queue_timeout, defaults.queue_timeout),
        }
    }

    fn read_streams(&self, p: &mut Problems) -> model::StreamSpec {
        let session = self.timeouts.as_ref().and_then(|timeouts| timeouts.session);
        let open = self.limits.as_ref().and_then(|limits| limits.streams);
        model::StreamSpec {
            proxy_protocol: self.proxy_protocol.map(Into::into),
            session: session.map(|_| positive(p, "timeouts.session", session, Time::from_secs(3600))),
            open: open.map(|_| bounded(p, "limits.streams", open, 1, &STREAMS)),
        }
    }

    fn read_timeouts(&self, p: &mut Problems) -> model::Timeouts {
        let timeouts = self.timeouts.clone().unwrap_or_default();
        let defaults = model::Timeouts::default();
        model::Timeouts {
            connect: positive(p, "timeouts.connect", timeouts.connect, defaults.connect),
            response: positive(p, "timeouts.response", timeouts.response, defaults.response),
            idle: positive(p, "timeouts.idle", timeouts.idle, defaults.idle),
            tunnel_idle: positive(p, "timeouts.tunnel_idle", timeouts.tunnel_idle, defaults.tunnel_idle),
            request: (timeouts.request)
                .map(|_| positive(p, "timeouts.request", timeouts.request, Time::from_secs(3600))),
            ping: timeouts.ping.map_or(defaults.ping, Duration::get),
        }
    }

    fn read_outliers(&self, p: &mut Problems) -> model::Outliers {
        let outliers = self.outliers.clone().unwrap_or_default();
        let defaults = model::Outliers::default();
        let result = model::Outliers {
            enabled: outliers.enabled.unwrap_or(defaults.enabled),
            gateway_errors: bounded(
                p,
                "outliers.gateway_errors",
                outliers.gateway_errors,
                defaults.gateway_errors,
                &ERRORS,
            ),
            server_errors: bounded(
                p,
                "outliers.server_errors",
                outliers.server_errors,
                defaults.server_errors,
                &ERRORS,
            ),
            base: positive(p, "outliers.base", outliers.base, defaults.base),
            max: positive(p, "outliers.max", outliers.max, defaults.max),
        };
        if result.base > result.max {
            let (base, max) = (Duration::new(result.base), Duration::new(result.max));
            let key = if outliers.base.is_some() { "outliers.base" } else { "outliers.max" };
            p.add(key, format!("base {base} is above max {max}"), "an ejection starts at base and doubles up to max");
        }
        result
    }

    fn read_replicas(&self, p: &mut Problems, default: u32) -> u32 {
        if self.run.is_none() && self.replicas.is_some() {
            p.add("replicas", "needs [service.run]", "add how replicas are run, or remove replicas");
        }
        bounded(p, "replicas", self.replicas, default, &REPLICAS)
    }
}

impl From<Policy> for model::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::ExpectedDelay => Self::ExpectedDelay,
            Policy::RoundRobin => Self::RoundRobin,
            Policy::Weighted => Self::Weighted,
            Policy::LeastRequest => Self::LeastRequest,
            Policy::PowerOfTwo => Self::PowerOfTwo,
        }
    }
}

fn check_serve(p: &mut Problems, before: &[model::PortSpec], serve: Option<u16>) {
    if serve == Some(0) {
        p.add("serve", "is 0", "write 1 to 65535");
    } else if serve.is_some() && before.iter().any(|other| other.serve == serve) {
        p.add("serve", "is the number of two ports", "give each port its own number");
    }
}

#[cfg(test)]
mod tests {
    use crate::model;
    use crate::spec::{Endpoint, Health, Port, ProbeType, Service};
    use std::time::Duration;

    fn named(name: &str) -> Service {
        Service { name: Some(name.to_owned()), ..Service::default() }
    }

    fn port(name: &str, number: Option<u16>) -> Port {
        Port { name: Some(name.to_owned()), number, ..Port::default() }
    }

    #[test]
    fn a_name_alone_is_a_service_with_every_default() {
        let spec = named("web").to_model().unwrap();
        assert_eq!(spec, model::ServiceSpec::new(spec.name.clone()));
        assert_eq!((spec.name.as_str(), spec.policy, spec.retries), ("web", model::Policy::ExpectedDelay, 1));
        assert_eq!((spec.ports.len(), &*spec.ports[0].name), (1, "http"));
        assert_eq!((spec.limits.concurrency, spec.limits.queue), (None, 100));
        assert_eq!(
            (spec.timeouts.connect, spec.timeouts.tunnel_idle),
            (Duration::from_millis(1500), Duration::from_secs(3600))
        );
        assert_eq!((spec.outliers.gateway_errors, spec.outliers.server_errors), (3, 5));
        assert_eq!((spec.dns_ttl, spec.slow_start), (Duration::from_secs(5), Duration::ZERO));
        assert!(spec.health.is_none() && spec.run.is_none() && spec.endpoints.is_empty());
    }

    #[test]
    fn checks_never_last_longer_than_their_interval_by_default() {
        let health = |interval: Option<&str>| {
            let kind = Some(ProbeType::Tcp);
            let health = Health { kind, interval: interval.map(|text| text.parse().unwrap()), ..Health::default() };
            Service { health: Some(health), ..named("web") }.to_model().unwrap().health.unwrap()
        };
        let ms =
            |check: model::HealthCheck| [check.interval, check.fast_interval, check.timeout].map(|d| d.as_millis());
        assert_eq!(ms(health(None)), [5000, 1000, 2000]);
        assert_eq!(ms(health(Some("500ms"))), [500, 500, 500]);
    }

    #[test]
    fn an_endpoint_has_its_first_port_from_the_address_and_the_others_from_their_numbers() {
        let endpoint = |address: &str| Endpoint { address: Some(address.parse().unwrap()), ..Endpoint::default() };
        let service = Service {
            ports: vec![port("http", None), port("metrics", Some(9100))],
            endpoints: vec![endpoint("10.0.0.1:80"), endpoint("10.0.0.2:81")],
            ..named("web")
        };
        let spec = service.to_model().unwrap();
        assert_eq!(spec.endpoints.iter().map(|e| e.ports.clone()).collect::<Vec<_>>(), [[80, 9100], [81, 9100]]);
        assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
    }
}
