//! What is said about connections as such, whatever they carry.

use crate::model::ServiceName;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Who may connect to a listener, and how many.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdmissionSpec {
    /// What is asked of proxies in front; `None`: nothing is read before the traffic.
    pub proxy_protocol: Option<ProxyProtocolSpec>,
    /// Connections at a time, of all workers together; `None`: no bound.
    pub connections: Option<u32>,
    /// Of them those of one client address; `None`: no bound.
    pub connections_per_client: Option<u32>,
    /// Only for TCP: what clients' TLS asks for → service.
    pub sni: Vec<SniRoute>,
    /// Only for TCP: whoever fits no rule is refused, instead of led to the listener's service.
    pub named_only: bool,
    /// Only for TCP: how clients begin TLS.
    pub starttls: Option<StartTls>,
    /// Only for TCP: connections that rules of the kernel lead here go where they were going.
    pub capture: Option<CaptureSpec>,
    /// Only for UDP: its flows.
    pub udp: UdpSpec,
}

/// Connections that rules of the kernel lead to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSpec {
    /// How they are led there.
    pub mode: CaptureMode,
    /// Whether what the table knows is not asked: all go where they were going.
    pub original_only: bool,
    /// Whether connections to what the table does not know go where they were going.
    pub allow_all: bool,
    /// Else only those to these networks, as address and prefix length.
    pub allow: Vec<(IpAddr, u8)>,
    /// Whether endpoints see the client's own address.
    pub keep_source: bool,
}

/// How the kernel leads connections to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CaptureMode {
    /// By changing their destination (NAT).
    Redirect,
    /// As they are (TPROXY).
    Tproxy,
}

impl AdmissionSpec {
    /// Returns whether nothing of a TCP connection is looked at.
    pub fn is_blind(&self) -> bool {
        self.sni.is_empty() && self.starttls.is_none() && self.capture.is_none()
    }
}

/// What a client's TLS asks for → service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniRoute {
    /// Hosts in lower case, or `*.example.com`; empty: any.
    pub names: Vec<Arc<str>>,
    /// Protocols of ALPN, of which one must be offered; empty: any.
    pub alpn: Vec<Box<[u8]>>,
    /// The service.
    pub service: ServiceName,
    /// Index of the port in the service's ports.
    pub port: usize,
}

/// How clients begin TLS inside of a protocol of clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartTls {
    /// PostgreSQL's SSLRequest.
    Postgres,
}

/// Flows of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpSpec {
    /// Longest pause of a flow.
    pub idle: Duration,
    /// Flows at a time, from 1; each has a socket.
    pub flows: u32,
    /// Of them those of one client address, from 1.
    pub flows_per_client: u32,
}

impl Default for UdpSpec {
    /// A minute, which NAT gives a flow too; 10,000; a tenth of them.
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), flows: 10_000, flows_per_client: 1000 }
    }
}

/// What proxies in front say of their clients with the PROXY protocol, and whether they must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocolSpec {
    /// Whether a connection without a header is closed.
    pub required: bool,
    /// Networks of the proxies that are believed, as address and prefix length; not empty.
    pub from: Vec<(IpAddr, u8)>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary, with what is known of TLS.
    V2,
}

/// What is said about a service's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSpec {
    /// The version in which endpoints are told of the client; `None`: they are not.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Longest life of a TCP stream or tunnel; `None`: no bound.
    pub session: Option<Duration>,
    /// TCP streams and UDP flows at a time; `None`: no bound.
    pub open: Option<u32>,
}
