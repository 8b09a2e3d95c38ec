//! The definition of a service, as written. Defaults are named in the documentation of each key and filled in by
//! `spec/convert.rs`.

use crate::spec::{
    Address, Duration, ProxyProtocolVersion, Range, Resolve, Rollout, Run, Scale, ServiceDns, ServiceTls,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A service: a named group of endpoints with one policy. Its name is also its DNS name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ServiceDefinition)]
pub struct Service {
    /// Name, one DNS label of at most 50 characters, unique in its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// Namespace, one DNS label; default `default`. References are `name` or `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What its endpoints speak to HTTP listeners; default `http1`. gRPC needs `h2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<EndpointProtocol>,
    /// Version of the PROXY protocol in which its endpoints are told of the client, before anything else; default: they are
    /// not told. A connection then carries the requests of one client connection and is not kept; not with `h2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// How an endpoint is picked; default `expected-delay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Wanted replicas of what `run` starts, 0 to 10000; default 1. With `scale` the number to begin with: `scale.min`
    /// when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10_000))]
    pub replicas: Option<u32>,
    /// Further attempts after a failed one, 0 to 5; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 5))]
    pub retries: Option<u32>,
    /// TTL of its DNS answers, whole seconds up to `1d`; default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_ttl: Option<Duration>,
    /// Time over which a new endpoint's share grows from 10 % to full; default `0s`: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// Longest wait for requests in flight when an endpoint is withdrawn; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Duration>,
    /// Active health checks; without them one TCP connection must be accepted before an instance is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Bounds on what its endpoints are given at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Time limits of its requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Passive ejection of endpoints that fail requests (outlier detection).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// How its replicas are run; without it Weir runs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// How the autoscaler sizes it; without it the number of replicas is changed by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<Scale>,
    /// How a changed definition replaces what runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How DNS answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<ServiceDns>,
    /// Endpoints that DNS names, instead of those written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolve: Option<Resolve>,
    /// How its endpoints are spoken to in TLS; without this section in clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTls>,
    /// Its ports; default one TCP port named `http`. Routes use the first unless they name another.
    #[serde(default, rename = "port", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Instances that something else runs.
    #[serde(default, rename = "endpoint", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
}

/// What endpoints speak to HTTP listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or, in TLS, by ALPN.
    H2,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The least expected delay: outstanding requests times average latency.
    ExpectedDelay,
    /// Each endpoint in turn.
    RoundRobin,
    /// In turn, by weight.
    Weighted,
    /// The endpoint with the fewest requests in flight per weight.
    LeastRequest,
    /// The less loaded of two random endpoints.
    PowerOfTwo,
}

/// Active health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = HealthDefinition)]
pub struct Health {
    /// What one check does.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub kind: Option<ProbeType>,
    /// Path that an `http` check gets; default `/`. Redirects are not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Host of an `http` or `grpc` check; default `tls.server_name`, else the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Service that a `grpc` check asks for; default the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_service: Option<String>,
    /// Datagram that a `udp` check sends, as text, or as `hex:` and hexadecimal digits; at most 1,200 octets, default none: an
    /// empty datagram.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<String>,
    /// What the answer to a `udp` check begins with, written as `send`; default any answer will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Name of the checked port; default the first, for a `udp` check the first of UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Status codes that pass an `http` check; default `200-399`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Range>,
    /// Time between checks, ± 10 %; default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Time between checks while the last outcome differs from the verdict; default `1s`, at most `interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<Duration>,
    /// Time after which one check fails; default `2s`, at most `interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Passed checks in a row that make an unhealthy instance healthy again, 1 to 100; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub rise: Option<u32>,
    /// Failed checks in a row that make an instance unhealthy, 1 to 100; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub fall: Option<u32>,
}

/// What one health check does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeType {
    /// `GET path` is answered with a status in `status`.
    Http,
    /// A TCP connection is accepted.
    Tcp,
    /// `grpc.health.v1.Health/Check` is answered `SERVING`, over HTTP/2, with `tls` inside of TLS.
    Grpc,
    /// A datagram, `send`, is answered by one that begins with `expect`.
    Udp,
}

/// Bounds on what a service's endpoints are given at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LimitsDefinition)]
pub struct Limits {
    /// Requests that one endpoint serves at once, from 1; more wait in the queue. Default: 16 with `scale`, else
    /// no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// Requests that may wait for a free endpoint, up to 1000000; more are answered 503. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub queue: Option<u32>,
    /// Longest wait in the queue; then 503. Default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Duration>,
    /// TCP streams and UDP flows at a time, from 1; what comes above is reset, or dropped. Default no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub streams: Option<u32>,
}

/// Time limits of a service's requests, all above zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TimeoutsDefinition)]
pub struct Timeouts {
    /// TCP connection to an endpoint; default `1500ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// From the request's last byte to the response's first byte; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Duration>,
    /// Longest pause inside a body; default `60s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// From the request's head to the end of its answer, queueing and further attempts included: then 504, or the answer is
    /// cut. A tunnel has `session` instead. Default no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// Longest pause in a tunnel (WebSocket and other upgrades); default `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_idle: Option<Duration>,
    /// Longest life of a TCP stream or tunnel, whatever moves; then it is reset. Default no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Duration>,
    /// Silence on an HTTP/2 connection with requests on it until its endpoint is asked by PING, and as long again until it
    /// is given up; default `15s`. `0s`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<Duration>,
}

/// Passive ejection of endpoints that fail requests; refused and reset connections eject at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OutliersDefinition)]
pub struct Outliers {
    /// Whether failures eject; default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Gateway errors (502 to 504) in a row that eject, from 1; default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub gateway_errors: Option<u32>,
    /// Other server errors (5xx) in a row that eject, from 1; default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub server_errors: Option<u32>,
    /// First ejection, doubled with each one that follows closely; default `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// Longest ejection; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
}

/// A named port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PortDefinition)]
pub struct Port {
    /// Name, one DNS label, unique in the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// Number that every `endpoint` of the service offers it on; not for the first port, whose number is in the
    /// endpoint's address. With `run.image`: the number that the container listens on; default 8080 and the ones after it.
    /// Processes get their numbers from `node.port_range`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub number: Option<u16>,
    /// Transport, the protocol label of its SRV name; default `tcp`. `http` is TCP too; at the service's own address each
    /// request then goes to an endpoint, not each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Number at the service's own address (`dns.service_addresses`); default the number that the containers or all
    /// endpoints listen on. Without any, the port is not served there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub serve: Option<u16>,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// HTTP over TCP.
    Http,
}

/// An instance that something else runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointDefinition)]
pub struct Endpoint {
    /// IP address and first port, such as `10.0.0.5:9001`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub address: Option<Address>,
    /// Share of traffic relative to other endpoints, 1 to 1000; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: Option<u32>,
    /// Where it is, one label: a data center, a rack; see `dns.prefer_zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Tags, one label each: names of Consul's schema select by them. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Anything else, told in the TXT record of the instance. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
}
