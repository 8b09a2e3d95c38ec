//! The vocabulary: values that every other module speaks of.
//!
//! No I/O, no clock, no serde, no locks. A value here is valid by construction: names are parsed once, in
//! [`ServiceName::parse`] and its siblings. The formats that users write live in `spec`, which converts into these types.

mod acme;
mod container;
mod defaults;
mod dns;
mod health;
mod id;
mod instance;
mod rollout;
mod service;
mod stream;
mod tls;

pub use acme::{AcmeDirectory, Challenge};
pub use container::{ContainerAddress, ContainerSpec, Volume};
pub use dns::{DnsSpec, Traits};
pub use health::{HealthState, Outcome, Transition};
pub use id::{InstanceId, NameError, NodeId, ServiceName, parse_label};
pub use instance::{Instance, InstanceState, Source, Verdict, Workload};
pub use rollout::{OnFailure, RolloutSpec, Strategy};
pub use service::{
    EndpointProtocol, HealthCheck, Limits, ListenerProtocol, ListenerSpec, Objective, OnExit, Outliers, Policy,
    PortSpec, Probe, Protocol, ResolveKind, ResolveSpec, RouteSpec, RunSpec, ScalePolicy, ScaleSpec, ServiceSpec,
    StaticEndpoint, Timeouts, ToldSpec,
};
pub use stream::{
    AdmissionSpec, CaptureMode, CaptureSpec, ProxyProtocolSpec, ProxyVersion, SniRoute, StartTls, StreamSpec, UdpSpec,
};
pub use tls::{CertificateFiles, ClientCertificate, TlsSpec, TlsVersion, UpstreamTlsSpec, Verify};
