//! Typed options of the DNS server.

use crate::model::{ServiceName, TlsSpec};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Networks as address and prefix length.
pub(crate) type Networks = Vec<(IpAddr, u8)>;

/// Options of the DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Addresses for UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// Port at the gateway of each network of containers; `None`: nobody listens there.
    pub containers: Option<u16>,
    /// The zone, lower case, without the final dot.
    pub zone: String,
    /// UDP threads.
    pub threads: usize,
    /// The range of which services have addresses of their own: nobody else says whose an address of it is. `None`: none.
    pub service_addresses: Option<(Ipv4Addr, u8)>,
    /// TTL of negative answers (SOA minimum), RFC 2308 §4.
    pub negative_ttl: Duration,
    /// Largest UDP answer with EDNS; RFC 9715 advises 1232 octets.
    pub max_udp_bytes: u16,
    /// TCP connections at a time, and as many with TLS; further ones are closed.
    pub tcp_connections: usize,
    /// Those of one client.
    pub tcp_connections_per_client: usize,
    /// Idle TCP connections are closed after this, RFC 7766 §6.2.3.
    pub tcp_idle: Duration,
    /// How names outside the zone are resolved; `None`: they are refused.
    pub forward: Option<ForwardOptions>,
    /// TTL of the answers of a service that changed a moment ago, where it is below the service's own.
    pub changed_ttl: Duration,
    /// How long that moment is.
    pub settle: Duration,
    /// What names look like, and in which zones. PTR records are in the form of the first.
    pub schemas: Vec<SchemaOptions>,
    /// Names that stand for other names.
    pub aliases: Vec<AliasOptions>,
    /// What askers may see; the first that fits is taken, without one everybody sees everything.
    pub views: Vec<ViewOptions>,
    /// Where questions are taken inside of TLS; `None`: nowhere.
    pub tls: Option<TlsOptions>,
    /// How many answers over UDP a source network gets.
    pub rate_limit: RateLimitOptions,
    /// What the server calls itself to who asks (NSID, RFC 5001), up to 255 octets; `None`: it does not say.
    pub nsid: Option<Arc<str>>,
    /// Which questions are logged; `None`: none.
    pub log: Option<QueryLogOptions>,
}

/// Which questions are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLogOptions {
    /// One of so many, drawn by chance; 1: each.
    pub one_in: u32,
    /// Lines in a second; what is above is counted.
    pub max_per_second: u32,
}

impl Default for QueryLogOptions {
    fn default() -> Self {
        // At 10,000 questions a second as many lines as are allowed.
        Self { one_in: 100, max_per_second: 100 }
    }
}

/// How many answers over UDP a source network gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitOptions {
    /// Answers to one network in a second; 0: no limit.
    pub answers_per_second: u32,
    /// Each so-manieth answer above that is an empty one that sends the client to TCP; the others are not sent. 0: none is.
    pub slip: u32,
    /// Length of the prefix that makes an IPv4 network, up to 32.
    pub ipv4_prefix: u8,
    /// The same for IPv6, up to 128.
    pub ipv6_prefix: u8,
    /// Networks without a limit.
    pub exempt: Networks,
}

/// What some askers see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewOptions {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Networks that it is for; empty: all.
    pub networks: Vec<(IpAddr, u8)>,
    /// Listening addresses that it is for; empty: all.
    pub listen: Vec<ListenOptions>,
    /// Namespaces that it sees; `None`: all. What it does not see does not exist for it.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// The namespace in which short names are looked for.
    pub namespace: Arc<str>,
    /// The zone of its askers, for services that prefer near endpoints.
    pub zone: Option<Arc<str>>,
    /// The search domains of its clients, lower case, in their order: names that such a client completed in vain are
    /// answered with what it would ask for next. Empty: they are not.
    pub search: Vec<String>,
}

/// What the names of a zone look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaOptions {
    /// Names of Weir's own, in the zone of the server.
    Native,
    /// Names of the Kubernetes DNS specification.
    Kubernetes {
        /// The zone, lower case, without the final dot.
        zone: String,
    },
    /// Names of Consul.
    Consul {
        /// The zone, lower case, without the final dot.
        zone: String,
        /// The data center, one label.
        datacenter: String,
    },
    /// Short names of Docker, in no zone.
    Docker,
}

/// A name that stands for another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasOptions {
    /// The name in its namespace, lower case: labels, `*`, or `*.` and labels.
    pub name: String,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Where it leads.
    pub to: AliasTargetOptions,
    /// TTL of its record, in whole seconds.
    pub ttl: Duration,
}

/// Where an alias leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AliasTargetOptions {
    /// A service or another alias.
    Service(ServiceName),
    /// Any name, lower case, without the final dot.
    Name(String),
}

/// A listening address of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenOptions {
    /// The gateways of networks of containers.
    Containers,
    /// An address; `None`: any port of it.
    At(IpAddr, Option<u16>),
}

/// Where questions are taken inside of TLS, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// Addresses for DNS over TLS (RFC 7858).
    pub listen: Vec<SocketAddr>,
    /// Addresses for DNS over HTTPS (RFC 8484).
    pub https: Vec<SocketAddr>,
    /// Certificates and versions.
    pub spec: Arc<TlsSpec>,
}

/// How names outside the zone are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Resolvers that are asked for names of no zone below.
    pub servers: Vec<ServerOptions>,
    /// Zones with resolvers of their own; the longest that fits counts.
    pub zones: Vec<ForwardZoneOptions>,
    /// Authorities that certificates of resolvers are checked against; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// The file of the system that names its resolvers; read again when it has changed.
    pub system_file: PathBuf,
    /// A file of names and addresses, as `/etc/hosts`, that is asked first; read again when it has changed.
    pub hosts: Option<PathBuf>,
    /// Room for answers that are kept, in octets; 0 keeps none.
    pub cache_bytes: usize,
    /// How long after its TTL an answer is still given when no resolver answers, RFC 8767; zero: never.
    pub stale: Duration,
    /// Questions that wait for upstream at a time; further ones get SERVFAIL.
    pub max_in_flight: usize,
    /// Those of one client's address; further ones get SERVFAIL.
    pub max_in_flight_per_client: usize,
    /// One try; SERVFAIL comes after twice this.
    pub timeout: Duration,
    /// Networks whose clients may have names resolved; others get REFUSED.
    pub allow: Networks,
    /// Networks that no answer from upstream may name, against DNS rebinding.
    pub deny_answers: Networks,
}

/// A zone with resolvers of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardZoneOptions {
    /// The zone, lower case, without the final dot.
    pub zone: String,
    /// Its resolvers.
    pub servers: Vec<ServerOptions>,
}

/// A resolver and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerOptions {
    /// Those that the system's file names, over UDP and TCP.
    System,
    /// Over UDP, and TCP where an answer is truncated.
    Plain(SocketAddr),
    /// DNS over TLS, RFC 7858; `name` is what its certificate must be for.
    Tls {
        /// Where it listens.
        address: SocketAddr,
        /// Name or address in its certificate.
        name: Arc<str>,
    },
    /// DNS over HTTPS, RFC 8484.
    Https {
        /// Where it listens.
        address: SocketAddr,
        /// Name or address in its certificate, and the authority of requests.
        name: Arc<str>,
        /// Path of requests.
        path: Arc<str>,
    },
}

/// Questions that may wait for other resolvers at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) all: usize,
    /// Those of one address.
    pub(crate) of_client: usize,
}

impl ForwardOptions {
    /// Returns how many questions may wait at a time.
    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight { all: self.max_in_flight, of_client: self.max_in_flight_per_client }
    }
}

impl ServerOptions {
    /// Returns where the resolver listens; `None` for those of the system.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::System => None,
            Self::Plain(address) | Self::Tls { address, .. } | Self::Https { address, .. } => Some(*address),
        }
    }
}

impl fmt::Display for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Plain(address) => address.fmt(f),
            Self::Tls { address, name } => write!(f, "tls://{address}#{name}"),
            Self::Https { address, name, path } => write!(f, "https://{address}{path}#{name}"),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8600))],
            containers: None,
            zone: "weir.internal".to_owned(),
            threads: 1,
            service_addresses: None,
            negative_ttl: Duration::from_secs(5),
            max_udp_bytes: 1232,
            tcp_connections: 1024,
            tcp_connections_per_client: 256,
            tcp_idle: Duration::from_secs(10),
            forward: None,
            changed_ttl: Duration::from_secs(1),
            settle: Duration::from_secs(10),
            schemas: vec![SchemaOptions::Native],
            aliases: Vec::new(),
            views: Vec::new(),
            tls: None,
            rate_limit: RateLimitOptions::default(),
            nsid: None,
            log: None,
        }
    }
}

impl Default for RateLimitOptions {
    fn default() -> Self {
        Self {
            answers_per_second: 200,
            slip: 2,
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            // Nobody forges these from outside: routers at the border drop them (RFC 2827).
            exempt: private_networks(),
        }
    }
}

impl Default for ForwardOptions {
    fn default() -> Self {
        Self {
            servers: vec![ServerOptions::System],
            zones: Vec::new(),
            ca: None,
            system_file: PathBuf::from("/etc/resolv.conf"),
            hosts: Some(PathBuf::from("/etc/hosts")),
            // Some 40,000 names.
            cache_bytes: 16 * 1024 * 1024,
            stale: Duration::from_secs(3600),
            // As Docker's resolver; at 2 s each this is 500 questions a second with every upstream down.
            max_in_flight: 1024,
            // A quarter: who floods, or asks for names that nobody answers, leaves room for others.
            max_in_flight_per_client: 256,
            timeout: Duration::from_secs(2),
            allow: private_networks(),
            deny_answers: Vec::new(),
        }
    }
}

/// Returns loopback, private (RFC 1918, RFC 4193), shared (RFC 6598) and link-local networks.
fn private_networks() -> Networks {
    let v4 = |a, b, c, d, prefix| (IpAddr::from([a, b, c, d]), prefix);
    let v6 = |first: u16, last: u16, prefix| (IpAddr::from([first, 0, 0, 0, 0, 0, 0, last]), prefix);
    vec![
        v4(127, 0, 0, 0, 8),
        v4(10, 0, 0, 0, 8),
        v4(172, 16, 0, 0, 12),
        v4(192, 168, 0, 0, 16),
        v4(100, 64, 0, 0, 10),
        v4(169, 254, 0, 0, 16),
        v6(0, 1, 128),
        v6(0xfc00, 0, 7),
        v6(0xfe80, 0, 10),
    ]
}
