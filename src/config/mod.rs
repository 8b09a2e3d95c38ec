//! The only code that knows the file format.
//!
//! [`load()`] reads a TOML file, lays environment variables and flags over it and builds [`Loaded`]: the `Options` that each
//! module owns, and the services, routes and listeners. Whatever is wrong is reported at once as a [`ConfigError`], each
//! problem with file, line, key and hint. The steps, one file each: `parse.rs` (text → table with places → [`File`], taking
//! out what cannot be read and going on), `environment.rs` (overrides), `build.rs` and `relations.rs` (values, and what
//! they say about each other), `normal.rs` (the way back, every default written out). The definitions themselves live in
//! `spec`. Nothing here opens a socket or starts anything, and no input panics.

mod acme;
mod addresses;
mod bounds;
mod build;
mod changes;
mod dns_log;
mod dns_tls;
mod docker;
mod environment;
mod error;
mod file;
mod forward;
mod http2;
mod load;
mod loaded;
mod naming;
mod normal;
mod parse;
mod places;
mod rate_limit;
mod reader;
mod relations;
mod remote;
mod schema;
mod shape;
mod source;
mod views;

pub use acme::{Acme, AcmeChallenge};
pub use changes::{Difference, differences};
pub use dns_log::DnsLog;
pub use dns_tls::DnsTls;
pub use environment::{Environment, Flags};
pub use error::{ConfigError, Problem};
pub use file::{
    Admin, AdminLimits, Control, Dns, DnsLimits, Docker, File, Level, Listen, Log, LogFormat, Node, OnExit,
};
pub use file::{Proxy, ProxyLimits, ProxyTimeouts, Store};
pub use forward::{DnsForward, DnsForwardZone, Resolver, ResolverError};
pub use load::{Source, load};
pub use loaded::Loaded;
pub use naming::{DnsAlias, DnsConsul, DnsKubernetes, DnsSchema};
pub use places::{DnsListen, DnsListenError};
pub use rate_limit::DnsRateLimit;
pub use reader::{Reader, Text};
pub use remote::AdminRemote;
pub use schema::schema;
pub use source::{Announce, Places, Source as FileSource, SourceFile, SourceWeir};
pub use views::{DnsView, ViewListen, ViewListenError};
