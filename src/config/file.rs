//! The TOML file as serde sees it: one struct per section, one field per key. Definitions are `spec`'s.

use crate::config::acme::Acme;
use crate::config::dns_log::DnsLog;
use crate::config::dns_tls::DnsTls;
use crate::config::forward::DnsForward;
use crate::config::naming::{DnsAlias, DnsConsul, DnsKubernetes, DnsSchema};
use crate::config::places::DnsListen;
use crate::config::rate_limit::DnsRateLimit;
use crate::config::remote::AdminRemote;
use crate::config::source::Source;
use crate::config::views::DnsView;
use crate::spec::{Address, Duration, Listener, Network, Range, Route, Service, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The configuration of Weir. A section that is absent does not run, except `admin`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Weir configuration")]
pub struct File {
    /// This machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// The admin API: what the command line, metrics and probes speak to. Runs also without this section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Admin>,
    /// The DNS server; it runs when this section is present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// Where state is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// Log and access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// What holds for every listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Registry, health checks and publishing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// How containers are run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Certificates from an ACME authority; ordered for the names that `listener.tls.acme` lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// Where services, endpoints and routes come from beside this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Addresses where traffic enters.
    #[serde(default, rename = "listener", skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Listener>,
    /// Rules that lead requests to services.
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Services.
    #[serde(default, rename = "service", skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<Service>,
}

/// This machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name, one DNS label; default `local`. Variable `WEIR_NODE_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Worker threads of the proxy, 1 to 512; default the CPUs that the process may use. Variable `WEIR_NODE_WORKERS`,
    /// flag `--workers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 512))]
    pub workers: Option<usize>,
    /// Whether workers are pinned to CPUs; default: with four CPUs or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,
    /// Ports handed to replicas; default `20000-29999`. Variable `WEIR_NODE_PORT_RANGE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_range: Option<Range>,
    /// What happens to replicas when Weir ends; default `keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workloads_on_exit: Option<OnExit>,
}

/// What happens to replicas when Weir ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnExit {
    /// They run on and are adopted at the next start.
    Keep,
    /// They are stopped; the kernel kills processes when Weir is killed.
    Stop,
}

/// The admin API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// TCP address, loopback only, or `off`; default `127.0.0.1:9600`. Variable `WEIR_ADMIN_LISTEN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Listen>,
    /// Path of its Unix socket (mode 0600), or `off`; default `weir.sock` in `store.path`. Variable `WEIR_ADMIN_SOCKET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// What other machines may ask; without this section nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<AdminRemote>,
    /// Bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<AdminLimits>,
}

/// Bounds of the admin API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminLimits {
    /// Connections at a time at each address, from 1; default 256. One more is answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections: Option<usize>,
    /// Connections of Weirs that follow, beside those, from 1; default 4096. One more is answered 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub followers: Option<usize>,
    /// Largest request body; above: 413. Default `4MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Size>,
}

/// The DNS server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Addresses for UDP and TCP; `containers:PORT` stands for the gateway of every bridge of the Docker Engine. Default
    /// `["127.0.0.1:8600"]`. Variable `WEIR_DNS_LISTEN`, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<DnsListen>>,
    /// Range of which each service gets a stable address of its own, where Weir serves the ports that the service declares,
    /// such as `198.18.0.0/16`; the machine takes the whole range for its own (CAP_NET_ADMIN). Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_addresses: Option<Network>,
    /// The zone that it is authoritative for; default `weir.internal`. Variable `WEIR_DNS_ZONE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// UDP threads, 1 to 64; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub threads: Option<usize>,
    /// TTL of negative answers, whole seconds up to `1d`; default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<Duration>,
    /// Idle TCP connections are closed after this; default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_idle: Option<Duration>,
    /// Bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<DnsLimits>,
    /// Forwarding of names outside the zone; without this section they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<DnsForward>,
    /// TTL of the answers of a service whose endpoints changed a moment ago, whole seconds; its own where that is shorter.
    /// Default `1s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_ttl: Option<Duration>,
    /// How long that moment is, up to `1d`; default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle: Option<Duration>,
    /// What names look like: `native`, `kubernetes`, `consul`, `docker`; PTR records are in the form of the first. Default
    /// `["native"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schemas: Option<Vec<DnsSchema>>,
    /// Names of Kubernetes, where they are among the schemas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<DnsKubernetes>,
    /// Names of Consul, where they are among the schemas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<DnsConsul>,
    /// Names that stand for other names.
    #[serde(default, rename = "alias", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<DnsAlias>,
    /// What askers may see; without one everybody sees everything.
    #[serde(default, rename = "view", skip_serializing_if = "Vec::is_empty")]
    pub views: Vec<DnsView>,
    /// DNS over TLS and over HTTPS; without this section there is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<DnsTls>,
    /// How many answers over UDP a source network gets for which no cookie shows that it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<DnsRateLimit>,
    /// What the server calls itself to clients that ask (NSID, RFC 5001), 1 to 255 printable ASCII characters. Default: it does
    /// not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsid: Option<String>,
    /// Which questions are logged; without this section none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<DnsLog>,
}

/// Bounds of the DNS server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsLimits {
    /// Largest UDP answer to a client with EDNS, `512B` to `4096B`; default `1232B`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_answer: Option<Size>,
    /// TCP connections at a time, from 1, and as many with TLS; further ones are closed. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tcp_connections: Option<usize>,
    /// Those of one client, from 1; further ones are closed. Default 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tcp_connections_per_client: Option<usize>,
}

/// Where state is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Directory for logs of replicas and the admin socket, relative to the working directory; default `/var/lib/weir` as
    /// root, else `$XDG_STATE_HOME/weir`, else `~/.local/state/weir`. Variable `WEIR_STORE_PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Log and access log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The least important lines that are written, to standard error; default `info`. Variable `WEIR_LOG_LEVEL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// How log lines are written; default `text`. Variable `WEIR_LOG_FORMAT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    /// Whether each request writes a line to standard output; default false. Variable `WEIR_LOG_ACCESS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<bool>,
    /// How access lines are written; default `json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_format: Option<LogFormat>,
    /// Access lines that may wait for the writer, 1 to 1000000; above that they are dropped and counted. Default 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub access_queue: Option<usize>,
}

/// Importance of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// What needs a person.
    Error,
    /// What may need one.
    Warn,
    /// What happens, in few lines.
    Info,
    /// What explains what happens.
    Debug,
    /// Everything.
    Trace,
}

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What holds for every listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// Idle connections that one worker keeps to one endpoint, up to 65536; default 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65_536))]
    pub max_idle_per_endpoint: Option<usize>,
    /// An idle connection to an endpoint is closed after this; default `4s`, below the 5 s of common servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_idle: Option<Duration>,
    /// Bounds on what a client may send or hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ProxyLimits>,
    /// Bounds on one HTTP/2 connection of a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<ProxyHttp2>,
    /// Time limits towards clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<ProxyTimeouts>,
}

/// Bounds on one HTTP/2 connection of a client; a peer that breaks one of the last three is told ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyHttp2 {
    /// Streams open at once, 1 to 10000; above: REFUSED_STREAM. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub streams: Option<usize>,
    /// What is taken of one request's body before the endpoint takes it, `1KiB` to `64MiB`; default `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<Size>,
    /// As `stream_window`, for all streams together, `64KiB` to `256MiB`; default `256KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_window: Option<Size>,
    /// Streams in ten seconds that a client resets before they are answered, or makes Weir reset or refuse, 1 to 1000000; of
    /// more than twice as many streams at most half. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub resets: Option<usize>,
    /// Control frames in ten seconds that move nothing forward, 1 to 1000000; default 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub control_frames: Option<usize>,
    /// CONTINUATION frames of one head, 0 to 1000; default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub continuations: Option<usize>,
}

/// Bounds on what a client may send or hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyLimits {
    /// Connections of one worker, from 1; further ones wait to be accepted. Default 50000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections: Option<usize>,
    /// Size of a request or response head, `1KiB` to `1MiB`; above: 431. Default `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Size>,
    /// Header fields of a head, 1 to 4096; above: 431. Default 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub header_fields: Option<usize>,
    /// Memory for heads that have not come whole, all of one worker together, `64KiB` to `1TiB`; beyond, those with more
    /// than an equal share: 503. Default `64MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial_heads: Option<Size>,
    /// Size of the request target, at most `head`; above: 414. Default `16KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<Size>,
    /// Size of a request body; above: 413. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Size>,
    /// Size of a request body that is kept for a retry, at most `16MiB`; default `64KiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_body: Option<Size>,
    /// Resident memory of the process, from `16MiB`: from 95 % of it new connections are reset, from 98 % requests are answered
    /// 503. Default: the memory limit of the control group that the process is in (a container's), if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// TLS handshakes that one worker does at a time, 1 to 65536; above, the oldest is given up. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub handshakes: Option<usize>,
}

/// Time limits towards clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyTimeouts {
    /// Whole TLS handshake; default `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,
    /// Whole request head, from its first byte; above: 408. Default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Duration>,
    /// Idle keepalive connection; default `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Duration>,
    /// Pause inside a request body; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_idle: Option<Duration>,
    /// After a grace of 5 s a request body must move at least this many bytes a second; default 256, 0: any pace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_min_bytes_per_second: Option<u64>,
    /// A client that has something to take must keep the pace within each such time, or is reset; default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_window: Option<Duration>,
    /// That pace: so many bytes a second, averaged over `answer_window`; default 1024, 0: anything at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_min_bytes_per_second: Option<u64>,
    /// When Weir ends, idle connections are closed after this; default `2s`, at most `drain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_idle: Option<Duration>,
    /// When Weir ends, what still runs is reset after this; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Duration>,
}

/// Registry, health checks and publishing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// New snapshots follow each other at least this far apart, at most `1s`; removals are never delayed. Default `5ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_interval: Option<Duration>,
    /// Lease of a registration that names none, `1s` to `1d`; default `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_lease: Option<Duration>,
    /// A gone or expired instance is listed for this long, at most `1d`; default `1m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gone_listed: Option<Duration>,
    /// Health checks in flight at a time, 1 to 65536; default 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_probes: Option<usize>,
}

/// How containers are run: by a Docker Engine, which is spoken to once a service has `run.image`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Docker {
    /// The engine, `unix://` and the path of its socket; default `unix:///var/run/docker.sock`, or
    /// `$DOCKER_HOST` where that is set. Variable `WEIR_DOCKER_HOST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Network of containers that name none; Weir makes it, a bridge, when it is absent. Default `weir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Time after which a call is given up and the engine is held to be stuck, `1s` to `5m`; default `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_timeout: Option<Duration>,
    /// Folders of the machine that `run.volumes` may name, also what is below them; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binds: Option<Vec<String>>,
    /// Resolvers that containers ask when Weir does not answer, beside it where `dns.listen` has `containers:53`. Default
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Vec<IpAddr>>,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Listens nowhere.
    Off,
    /// Listens there.
    At(Address),
}

impl std::str::FromStr for Listen {
    type Err = <Address as std::str::FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

crate::spec::text!(
    Listen, "Listen",
    expecting "an address with its port, such as \"127.0.0.1:9600\", or \"off\"",
    pattern "^(off|(\\[[0-9a-fA-F:.]+\\]|[0-9.]*):[0-9]{1,5})$",
    example "127.0.0.1:9600"
);
