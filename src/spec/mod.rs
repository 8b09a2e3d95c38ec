//! Definitions as users write them: service, route and listener, one struct each for the TOML file and the admin API.
//!
//! Owns the names of keys, their documentation (the JSON schema and the OpenAPI document come from it) and the one
//! conversion into [`crate::model`] values: [`Service::to_model`], [`Route::to_model`], [`Listener::to_model`]. A
//! conversion fills every default and collects *all* problems, each with its key, a message and a hint; the way back,
//! [`Service::from_model`], writes a definition with every default filled in. Nothing is required while reading: what is
//! missing is a [`Problem`] like any other, so that one mistake never hides the next.
//!
//! Values that are texts with a form of their own (`10s`, `64KiB`, `:8080`, `10.0.0.0/8`, `200-399`) are types that
//! parse once: [`Duration`], [`Size`], [`Address`], [`Network`], [`Range`]. `config` adds places in a file to the keys.

mod address;
mod bounds;
mod capture;
mod container;
mod convert;
mod cores;
mod duration;
mod fingerprint;
mod health;
mod listener;
mod naming;
mod objective;
mod problem;
mod resolve;
mod revert;
mod rollout;
mod route;
mod run;
mod scale;
mod section;
mod service;
mod size;
mod sni;
mod stream;
mod suggest;
mod text;
mod tls;

pub use address::{Address, Network, Range};
pub use capture::{Capture, CaptureMode, CaptureTo, Unknown};
pub use cores::Cores;
pub use duration::Duration;
pub use fingerprint::{canonical, fingerprint};
pub use listener::{Listener, ListenerProtocol, PortsOf};
pub use naming::{Said, ServiceDns, written};
pub use objective::{Objective, ObjectiveError};
pub use problem::{Key, KeyPath, Problem, Problems};
pub use resolve::{Resolve, ResolveType};
pub use rollout::{OnFailure, Rollout, Strategy};
pub use route::Route;
pub use run::{ContainerAddress, Run};
pub use scale::{Scale, ScalePolicy};
pub use section::{section_hash, size_hash};
pub use service::{
    Endpoint, EndpointProtocol, Health, Limits, Outliers, Policy, Port, ProbeType, Protocol, Service, Timeouts,
};
pub use size::Size;
pub use sni::{Sni, StartTls};
pub use stream::{ListenerLimits, ProxyMode, ProxyProtocol, ProxyProtocolVersion, Udp};
pub use suggest::nearest;
pub(crate) use text::text;
pub use tls::{CertificateFiles, ClientCertificate, ListenerTls, ServiceTls, TlsVersion, Verify};
