//! Control plane: what decides.
//!
//! The registry ([`registry::Handle`]) is the single writer of services and instances; `publisher` turns its effects
//! into the next snapshot; [`health`] judges instances, [`discovery`] feeds what the configuration lists, [`withdraw`]
//! knows when an endpoint is used by nobody any more. Nothing here carries traffic. [`plane`] starts all of it.

#[cfg(feature = "acme")]
pub mod acme;
pub mod addresses;
pub mod autoscale;
pub mod certificates;
mod check;
pub mod configuration;
pub mod deployments;
pub mod discovery;
pub mod events;
pub mod feed;
pub mod gauges;
mod grpc_probe;
pub mod health;
pub mod history;
mod leaving;
mod options;
pub mod plane;
pub mod probe;
pub mod publisher;
pub mod registry;
mod resolve;
pub mod rollout;
pub mod runtime;
pub mod scheduler;
pub mod standing;
pub mod store;
pub mod withdraw;

pub use options::{
    AccountBindingOptions, AcmeOptions, AnnounceOptions, DockerOptions, Options, PlaceOptions, SourceOptions,
};
