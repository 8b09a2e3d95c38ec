//! What handlers answer from: handles into the control plane, and the table.

use crate::admin::rates::Rates;
use crate::admin::resolve::NameServer;
use crate::admin::upgrade::Upgrader;
use crate::control::autoscale;
use crate::control::certificates;
use crate::control::events::Events;
use crate::control::feed::{Outgoing, Sources};
use crate::control::history::History;
use crate::control::store::Store;
use crate::control::{configuration, deployments, registry, scheduler};
use crate::lifecycle::Signal;
use crate::model::NodeId;
use crate::table::Table;
use crate::table::certificates::Report;
use crate::telemetry::Metrics;

/// Everything that the API reads and changes; each part is a cheap clone of a handle.
#[derive(Clone)]
pub struct State {
    /// The backend table, as proxy and DNS see it.
    pub table: Table,
    /// The registry of instances.
    pub registry: registry::Handle,
    /// Definitions and their revisions.
    pub deployments: deployments::Handle,
    /// Wanted replicas, drains, logs of replicas.
    pub scheduler: scheduler::Handle,
    /// The newest decisions of the autoscaler.
    pub autoscaler: autoscale::Handle,
    /// The last verdicts of each instance.
    pub history: History,
    /// What control did.
    pub events: Events,
    /// The exported metrics.
    pub metrics: Metrics,
    /// Requests per second; [`Rates::run`] keeps them.
    pub rates: Rates,
    /// This machine's name, given to instances that register here.
    pub node: NodeId,
    /// Which configuration is in use; takes up another.
    pub configuration: configuration::Handle,
    /// How certificates stand.
    pub certificates: Report,
    /// What survives; `None`: nothing does.
    pub store: Option<Store>,
    /// Obtains certificates; `None`: nothing does.
    pub obtained: Option<certificates::Handle>,
    /// Answers names as the DNS server does, where one runs.
    pub names: NameServer,
    /// Replaces this process by another binary.
    pub upgrader: Upgrader,
    /// Tells the table to other Weirs.
    pub feed: Outgoing,
    /// Where the table comes from, where it comes from others.
    pub sources: Sources,
    /// How far the end of the process has come.
    pub signal: Signal,
}
