//! The HTTP API on its own port: what people and programs ask of a running Weir, and how they change it.
//!
//! One file per resource with its wire types; `router` lists them all and makes the OpenAPI document, `guard` holds what
//! each request passes first, `listen` and `server` own the sockets. Handlers answer from [`State`]: the published
//! snapshot for what is routed, the registry for what is registered, the scheduler for what is wanted. Nothing here
//! decides anything. Invariant: reachable from this machine only, loopback TCP and a Unix socket of mode 0600, but for what
//! `remote` offers to who shows a token.
//!
//! Errors are RFC 9457 [`Problem`]s with a stable code. Lists are objects with one member, so that they can grow.

#![expect(unused_qualifications, reason = "utoipa's expansion of `params(T)` names T by a path")]

mod certificates;
mod configuration;
mod deployments;
mod endpoints;
mod error;
mod events;
mod explain;
mod extract;
mod guard;
mod instances;
mod listen;
mod logs;
mod openapi;
mod options;
mod rates;
mod refusal;
mod remote;
mod resolve;
mod router;
mod routes;
mod scale;
mod seats;
mod server;
mod services;
mod state;
mod status;
mod stream;
mod table;
mod upgrade;

pub use certificates::{Certificate, CertificateFile, Certificates};
pub use configuration::{
    Candidate, Configuration, ConfigurationChange, ConfigurationProblem, Differences, RefusedConfiguration, Reloaded,
    Reloads,
};
pub use deployments::{Deploy, DeployAll, Deployed, DeployedAll, Revision, Revisions, Rollback, Rollout};
pub use endpoints::{Endpoint, Endpoints};
pub use error::Problem;
pub use events::{Event, Events};
pub use explain::{Candidacy, Explanation};
pub use instances::{History, Instance, Instances, Judgement, Lease, NewInstance, RunBy};
pub use listen::{BindError, Listeners, bind};
pub use options::{Options, RemoteOptions};
pub use rates::Rates;
pub use remote::{TokenGauge, Tokens};
pub use resolve::{NameCandidate, NameQuestion, NameServer, Names, Resolution, ResolvedRecord};
pub use routes::{Route, Routes};
pub use scale::{Autoscaler, ScaleDecision, ScaleState};
pub use server::serve;
pub use services::{Port, Scale, Service, Services};
pub use state::State;
pub use status::{Engine, Status, StoreStatus};
pub use table::{
    Acknowledgement, Acknowledger, EndpointUse, LoadOfService, LoadReport, Subscriber, SubscriberLoad, Table,
    TableSource,
};
pub use upgrade::{NewUpgrade, Upgrade, UpgradeRequest, Upgrader};
