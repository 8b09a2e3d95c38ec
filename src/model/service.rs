//! Definitions as the product uses them: services, listeners, routes.
//!
//! `spec` holds what users write; its conversion fills every default, so nothing here is optional but what may truly be
//! absent.

use crate::model::{
    AdmissionSpec, ContainerAddress, ContainerSpec, DnsSpec, RolloutSpec, ServiceName, StreamSpec, TlsSpec, Traits,
    UpstreamTlsSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// Least expected delay: own outstanding requests times own latency average, over endpoints that answered last.
    #[default]
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

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A named port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// One DNS label, unique in the service; `http` when none is written.
    pub name: Arc<str>,
    /// TCP or UDP: the protocol label of its SRV name.
    pub protocol: Protocol,
    /// Number at the service's own address, where one is written; see [`ServiceSpec::declared`].
    pub serve: Option<u16>,
    /// Whether it speaks HTTP, so that the service's own address is served request by request.
    pub http: bool,
}

impl PortSpec {
    /// Returns a TCP port of that name and nothing else.
    pub fn tcp(name: &str) -> Self {
        Self { name: name.into(), protocol: Protocol::Tcp, serve: None, http: false }
    }
}

/// An endpoint written in the configuration: an instance that Weir does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports.
    pub ports: Vec<u16>,
    /// Relative share, 1..=1000.
    pub weight: u32,
    /// What is said about it; `None`: nothing.
    pub traits: Option<Arc<Traits>>,
}

/// Endpoints that DNS names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveSpec {
    /// The name, lower case, without the final dot.
    pub name: Arc<str>,
    /// What is asked for.
    pub kind: ResolveKind,
    /// Port numbers in the order of the service's ports; the first is 0 where the records have it.
    pub ports: Vec<u16>,
    /// DNS servers that are asked; empty: those of the system.
    pub servers: Vec<SocketAddr>,
}

/// What is asked for to find endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveKind {
    /// A and AAAA.
    Address,
    /// A.
    V4,
    /// AAAA.
    V6,
    /// SRV (RFC 2782), and the addresses of its targets.
    Service,
}

/// What one active check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` is answered with a status in the range; redirects are not followed.
    Http {
        /// Path and query, starting with `/`.
        path: Arc<str>,
        /// The Host header; the endpoint's address when absent.
        host: Option<Arc<str>>,
        /// The accepted status codes.
        status: RangeInclusive<u16>,
    },
    /// `grpc.health.v1.Health/Check` is answered `SERVING`, over HTTP/2 by prior knowledge.
    Grpc {
        /// The service that is asked for; empty: the server as a whole.
        service: Arc<str>,
        /// The authority; the endpoint's address when absent.
        host: Option<Arc<str>>,
    },
    /// A datagram is answered.
    Udp {
        /// The datagram.
        send: Arc<[u8]>,
        /// What the answer begins with; empty: any will do.
        expect: Arc<[u8]>,
    },
}

/// Active health checks of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What one check does.
    pub probe: Probe,
    /// Index of the checked port in the service's ports.
    pub port: usize,
    /// Time between checks of a settled instance, ± 10 %.
    pub interval: Duration,
    /// Time between checks while starting or while the last outcome differs from the verdict.
    pub fast_interval: Duration,
    /// Time after which one check fails.
    pub timeout: Duration,
    /// Passes in a row that end an unhealthy verdict.
    pub rise: u32,
    /// Failures in a row that make the verdict unhealthy.
    pub fall: u32,
}

/// Bounds on what a service's endpoints are given at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that one replica serves at once; more wait. `None`: no bound.
    pub concurrency: Option<u32>,
    /// Requests that may wait for a free replica; more are answered 503.
    pub queue: u32,
    /// Longest wait in that queue; then 503.
    pub queue_timeout: Duration,
}

/// Time limits of a service's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP connection to an endpoint.
    pub connect: Duration,
    /// From the request's last byte to the response's first byte.
    pub response: Duration,
    /// Longest pause inside a body.
    pub idle: Duration,
    /// Longest pause in a tunnel.
    pub tunnel_idle: Duration,
    /// From the request's head to the end of its answer, attempts and waiting included; `None`: no bound.
    pub request: Option<Duration>,
    /// Silence of an HTTP/2 connection with requests on it until its endpoint is asked by PING, and again until it is dead;
    /// zero: never.
    pub ping: Duration,
}

/// Passive ejection (outlier detection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outliers {
    /// Whether failures eject.
    pub enabled: bool,
    /// Gateway errors (502-504) in a row that eject.
    pub gateway_errors: u32,
    /// Other server errors (5xx) in a row that eject.
    pub server_errors: u32,
    /// First ejection; doubles with each one that follows closely.
    pub base: Duration,
    /// Longest ejection.
    pub max: Duration,
}

/// How replicas are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// Program and arguments; `${PORT}`, `${PORT_<NAME>}` and `${INSTANCE}` are replaced. Empty only for containers: what
    /// the image says.
    pub command: Vec<String>,
    /// Environment added to the allow-list; the same replacements.
    pub env: BTreeMap<String, String>,
    /// Working directory; Weir's own, or the image's, when absent.
    pub directory: Option<PathBuf>,
    /// Wait after SIGTERM before SIGKILL.
    pub stop_grace: Duration,
    /// An instance that is unhealthy for so long is replaced.
    pub replace_after: Duration,
    /// The container that it is; `None`: a local process.
    pub container: Option<ContainerSpec>,
}

/// A latency objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    /// Share of requests that stay below the latency, in millionths: 990000 is p99.
    pub quantile_ppm: u32,
    /// Response time, queueing included.
    pub latency: Duration,
}

/// What the number of replicas follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScalePolicy {
    /// The latency objective.
    Objective,
    /// Requests in service per replica.
    Concurrency {
        /// How many, at least 1.
        target: u32,
    },
    /// Requests per second and replica.
    RequestsPerSecond {
        /// How many, at least 1.
        target: u32,
    },
}

/// How the autoscaler sizes a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScaleSpec {
    /// Fewest replicas; 0: none while nobody uses it.
    pub min: u32,
    /// Most replicas, at least `min`, from 1.
    pub max: u32,
    /// What the number follows.
    pub policy: ScalePolicy,
    /// What is to be held.
    pub objective: Objective,
    /// Shortest time that a high recommendation holds.
    pub stabilization_window: Duration,
    /// Longest such time.
    pub max_stabilization_window: Duration,
    /// With `min` 0, time without use after which the last replica goes; `None`: learned from the pauses that there were.
    pub zero_after: Option<Duration>,
    /// With `min` 0, longest time that a request or stream is held until a replica serves.
    pub wake_timeout: Duration,
}

/// What another Weir, which runs a service's replicas, tells of how it sizes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldSpec {
    /// Whether a first replica is on its way, or starts when a request waits for one.
    pub wakes: bool,
    /// Longest time that a request or stream is held until a replica serves.
    pub wake_timeout: Duration,
    /// The response time that it is scaled by; `None`: it is not scaled.
    pub latency: Option<Duration>,
}

/// A service: a named group of endpoints with one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name; also its DNS name.
    pub name: ServiceName,
    /// Its ports, at least one; the first is the default of routes.
    pub ports: Vec<PortSpec>,
    /// Endpoints that the configuration lists.
    pub endpoints: Vec<StaticEndpoint>,
    /// What its endpoints speak to HTTP listeners.
    pub protocol: EndpointProtocol,
    /// How an endpoint is picked.
    pub policy: Policy,
    /// Active checks.
    pub health: Option<HealthCheck>,
    /// Bounds.
    pub limits: Limits,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Passive ejection.
    pub outliers: Outliers,
    /// Further attempts after the first, 0..=5.
    pub retries: u32,
    /// Time over which a new endpoint's share grows from 10 % to full; zero: at once.
    pub slow_start: Duration,
    /// Longest wait for requests in flight when an endpoint is withdrawn.
    pub drain_timeout: Duration,
    /// TTL of its DNS answers, whole seconds.
    pub dns_ttl: Duration,
    /// How DNS answers for it.
    pub dns: DnsSpec,
    /// How replicas are run; `None`: Weir runs none.
    pub run: Option<RunSpec>,
    /// Wanted replicas when `run` is present; with `scale` the number to begin with.
    pub replicas: u32,
    /// How the autoscaler sizes it; only where `run` is present.
    pub scale: Option<ScaleSpec>,
    /// What the Weir that runs its replicas tells of that; only in a table that was taken from another Weir.
    pub told: Option<ToldSpec>,
    /// How a change of how replicas are run replaces them.
    pub rollout: RolloutSpec,
    /// How its endpoints are spoken to in TLS; `None`: in clear text.
    pub tls: Option<Arc<UpstreamTlsSpec>>,
    /// What is said about its connections.
    pub streams: StreamSpec,
    /// Number of the stored revision that this is; 0 before it is stored.
    pub revision: u64,
    /// Where DNS names its endpoints; then it has no others.
    pub resolve: Option<Arc<ResolveSpec>>,
}

impl ServiceSpec {
    /// Returns the number of a port that clients are told to use: the written one, else the one that containers listen on,
    /// else the one that all listed endpoints have in common. `None` where replicas get any number.
    pub fn declared(&self, port: usize) -> Option<u16> {
        if let Some(serve) = self.ports.get(port)?.serve {
            return Some(serve);
        }
        let container = self.run.as_ref().and_then(|run| run.container.as_ref());
        if let Some(container) = container.filter(|container| container.address != ContainerAddress::Host) {
            return container.ports.get(port).copied();
        }
        let mut numbers = self.endpoints.iter().map(|endpoint| endpoint.ports.get(port).copied().unwrap_or_default());
        let first = numbers.next().filter(|number| *number != 0)?;
        numbers.all(|number| number == first).then_some(first)
    }

    /// Returns index and declared number of each TCP port that has one.
    pub fn served(&self) -> impl Iterator<Item = (usize, u16)> + '_ {
        let tcp = self.ports.iter().enumerate().filter(|(_, port)| port.protocol == Protocol::Tcp);
        tcp.filter_map(|(index, _)| Some((index, self.declared(index)?)))
    }

    /// Returns whether a Weir runs its replicas: this one, or the one that the table was taken from.
    pub fn is_run(&self) -> bool {
        self.run.is_some() || self.told.is_some()
    }

    /// Returns the response time that the number of replicas follows; `None`: it is not scaled.
    pub fn scaled_by(&self) -> Option<Duration> {
        let own = self.scale.as_ref().map(|scale| scale.objective.latency);
        own.or_else(|| self.told.and_then(|told| told.latency))
    }

    /// Returns how long a request or stream waits for a first replica, where Weir runs them.
    pub fn wake_timeout(&self) -> Duration {
        if let Some(told) = self.told {
            return told.wake_timeout;
        }
        let zero = self.scale.as_ref().filter(|scale| scale.min == 0);
        zero.map_or(self.limits.queue_timeout, |scale| scale.wake_timeout)
    }

    /// Returns whether it may have no replica while nobody uses it.
    pub fn scales_to_zero(&self) -> bool {
        self.scale.as_ref().is_some_and(|scale| scale.min == 0)
    }
}

/// What endpoints speak to HTTP listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EndpointProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in clear text, by ALPN over TLS.
    Http2,
}

/// What becomes of replicas when Weir ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExit {
    /// They run on and are adopted at the next start.
    #[default]
    Keep,
    /// They are stopped; the kernel kills them when Weir is killed.
    Stop,
}

/// An address where traffic enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: ListenerProtocol,
    /// Networks whose `X-Forwarded-*` and `Forwarded` are believed, as address and prefix length.
    pub trusted_proxies: Vec<(IpAddr, u8)>,
    /// How it speaks TLS; `None`: in clear text.
    pub tls: Option<Arc<TlsSpec>>,
    /// Whether every request is sent to the same place over https.
    pub redirect_https: bool,
    /// Who may connect.
    pub admission: AdmissionSpec,
}

/// What a listener speaks, and where that leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListenerProtocol {
    /// HTTP/1.1, to the services that routes name.
    #[default]
    Http,
    /// Any octets, each connection to one endpoint of one service.
    Tcp {
        /// The service.
        service: ServiceName,
        /// Index of the port in the service's ports.
        port: usize,
    },
    /// Any octets, each connection to where it was going.
    Captured,
    /// Datagrams, each flow to one endpoint of one service.
    Udp {
        /// The service.
        service: ServiceName,
        /// Index of the port in the service's ports.
        port: usize,
    },
    /// HTTP/1.1, each request to one endpoint of one service: at the service's own address.
    Service {
        /// The service.
        service: ServiceName,
        /// Index of the port in the service's ports.
        port: usize,
    },
}

impl ListenerProtocol {
    /// Returns whether requests are told apart.
    pub fn is_http(&self) -> bool {
        !matches!(self, Self::Tcp { .. } | Self::Captured | Self::Udp { .. })
    }

    /// Returns whether it takes datagrams.
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp { .. })
    }
}

/// A rule of a listener: host and path prefix → service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Its name.
    pub name: Arc<str>,
    /// The listeners it applies to; empty: all.
    pub listeners: Vec<Arc<str>>,
    /// `None`: any host; `*.example.com`: any host below; else exact. Lower case, no port.
    pub host: Option<Arc<str>>,
    /// Path prefix by whole segments, starting with `/`.
    pub path: Arc<str>,
    /// The service that answers.
    pub service: ServiceName,
    /// Index of the port in the service's ports.
    pub port: usize,
}
