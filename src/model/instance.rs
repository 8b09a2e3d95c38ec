//! An instance: one registered copy of a service, and the states it goes through.

use crate::model::{InstanceId, NodeId, ServiceName, Traits};
use std::net::IpAddr;
use std::sync::Arc;

/// Where an instance stands in its life; it only moves down this list, but for an undone drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceState {
    /// Registered, not yet passed its first check: never routed to.
    Starting,
    /// May receive traffic.
    Ready,
    /// Withdrawn: finishes what it has.
    Draining,
    /// Exited, expired or deregistered; kept for a while so that people can see why.
    Gone,
}

/// The verdict of the active health checks, beside the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No check is configured, or none has finished.
    Unknown,
    /// The last verdict was a pass.
    Healthy,
    /// `fall` checks in a row failed: withdrawn, but used when nothing else is left.
    Unhealthy,
}

/// What contributed an instance to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// An endpoint written in the configuration file.
    File,
    /// Registered over the admin API, held by a lease.
    Api,
    /// Started by the scheduler.
    Scheduler,
    /// Listed by the table of another Weir, or by a file of such a table.
    Feed,
}

/// What runs an instance that the scheduler started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Workload {
    /// A local process by its id.
    Process(u32),
    /// A container by its id.
    Container(Arc<str>),
}

/// One registered copy of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Unique on this Weir; also its DNS name below the service.
    pub id: InstanceId,
    /// The service it is a copy of.
    pub service: ServiceName,
    /// Who contributed it.
    pub source: Source,
    /// The machine that runs it.
    pub node: NodeId,
    /// The address that the proxy connects to.
    pub address: IpAddr,
    /// Port numbers in the order of the service's `ports`; 0 where it does not offer one.
    pub ports: Vec<u16>,
    /// Relative share of traffic for weighted policies and DNS, 1..=1000.
    pub weight: u32,
    /// What is said about it; `None`: nothing.
    pub traits: Option<Arc<Traits>>,
    /// Where it stands in its life.
    pub state: InstanceState,
    /// The verdict of its active checks.
    pub verdict: Verdict,
    /// Why it is in this state or has this verdict: the last transition, for people.
    pub reason: Arc<str>,
    /// The process or container, when the scheduler started it.
    pub workload: Option<Workload>,
    /// The revision of the service's definition that it runs.
    pub revision: u64,
    /// When it was registered, in milliseconds of `clock::now_ms`.
    pub created_ms: u64,
    /// When it last became ready, same scale; 0 before.
    pub ready_ms: u64,
}

impl Instance {
    /// Returns one that has just come: starting, of weight 1, neither checked nor run by the scheduler.
    pub fn new(
        id: InstanceId,
        service: ServiceName,
        source: Source,
        node: NodeId,
        address: IpAddr,
        ports: Vec<u16>,
    ) -> Self {
        Self {
            id,
            service,
            source,
            node,
            address,
            ports,
            weight: 1,
            traits: None,
            state: InstanceState::Starting,
            verdict: Verdict::Unknown,
            reason: "".into(),
            workload: None,
            revision: 0,
            created_ms: 0,
            ready_ms: 0,
        }
    }
}
