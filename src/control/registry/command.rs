//! What can be asked of the registry, and what an accepted command leads to: plain values.

use crate::control::events::EventKind;
use crate::control::store::StoreError;
use crate::model::{
    Instance, InstanceId, ListenerSpec, NodeId, RouteSpec, ServiceName, ServiceSpec, Source, StaticEndpoint, Traits,
    Transition, Verdict, Workload,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A request to register one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// Its id; made up from the service's name when absent.
    pub id: Option<InstanceId>,
    /// The service that it is a copy of; it must be defined.
    pub service: ServiceName,
    /// Who contributes it.
    pub source: Source,
    /// Where it is reached.
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports; missing ones count as not offered, as does 0.
    pub ports: Vec<u16>,
    /// Relative share of traffic, 1..=1000.
    pub weight: u32,
    /// What is said about it; `None`: nothing.
    pub traits: Option<Arc<Traits>>,
    /// The process or container, when the scheduler started it.
    pub workload: Option<Workload>,
    /// The revision of the definition that it runs.
    pub revision: u64,
    /// How long it lives without a renewal; over the API the default applies when absent, else it lives until told.
    pub lease: Option<Duration>,
    /// The machine that runs it.
    pub node: NodeId,
}

impl Registration {
    /// Returns one of weight 1, whose id is made up, and that lives until told.
    pub fn new(service: ServiceName, source: Source, node: NodeId, address: IpAddr, ports: Vec<u16>) -> Self {
        Self {
            id: None,
            service,
            source,
            address,
            ports,
            weight: 1,
            traits: None,
            workload: None,
            revision: 0,
            lease: None,
            node,
        }
    }

    /// Returns that of an endpoint that the configuration lists, or that DNS names for it.
    pub fn listed(service: &ServiceName, id: InstanceId, endpoint: &StaticEndpoint, node: &NodeId) -> Self {
        let ports = endpoint.ports.clone();
        let weight = endpoint.weight;
        let traits = endpoint.traits.clone();
        let plain = Self::new(service.clone(), Source::File, node.clone(), endpoint.address, ports);
        Self { id: Some(id), weight, traits, ..plain }
    }
}

/// An instance that an earlier Weir knew and that is still there, or that another Weir's table lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    /// What it is; with its id.
    pub registration: Registration,
    /// It served when last heard of, so it serves at once; it is checked at once too.
    pub ready: bool,
    /// It was drained by hand, or is withdrawn where it is listed.
    pub drained: bool,
}

/// Changes that become visible in one publish: what a configuration contributes.
#[derive(Debug, Clone, Default)]
pub struct Contribution {
    /// Where it is named, what others contributed is left as it is, whatever ids they have.
    pub only: Option<Source>,
    /// Services to remove, with all their instances.
    pub undefine: Vec<ServiceName>,
    /// Services to define or change.
    pub define: Vec<Arc<ServiceSpec>>,
    /// Instances that are gone.
    pub gone: Vec<InstanceId>,
    /// Instances that are no longer listed: they finish what they have.
    pub withdraw: Vec<InstanceId>,
    /// Instances to register.
    pub register: Vec<Registration>,
    /// Instances to take over from an earlier Weir.
    pub adopt: Vec<Adopted>,
    /// Withdrawn instances that take new work again.
    pub restore: Vec<InstanceId>,
    /// Verdicts that somebody else came to.
    pub judge: Vec<(InstanceId, Verdict)>,
    /// Services of which something changed that other Weirs are told, but this table does not show.
    pub touch: Vec<ServiceName>,
    /// New routes of the configuration, when they changed.
    pub routes: Option<Arc<[RouteSpec]>>,
    /// New routes of another Weir's table, when they changed; where both match, the configuration's is taken.
    pub fed_routes: Option<Arc<[RouteSpec]>>,
    /// New listeners, when they changed.
    pub listeners: Option<Arc<[ListenerSpec]>>,
}

/// An instance of a contribution that is left out: another that was registered before has its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clash {
    /// The id.
    pub id: InstanceId,
    /// The service that it was contributed to.
    pub service: ServiceName,
    /// The service of the other.
    pub holder: ServiceName,
    /// Whether the other is a copy of the same service at the same place.
    pub is_same: bool,
}

/// What came of a contribution that changes only what one source contributed.
#[derive(Debug)]
pub struct TakenIn {
    /// The generation that shows it.
    pub generation: u64,
    /// Who was left out.
    pub clashes: Vec<Clash>,
    /// The first other refusal.
    pub refused: Option<RegistryError>,
}

/// Why the registry refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No such service is defined.
    #[error("service {0} is not defined")]
    UnknownService(ServiceName),
    /// No such instance is registered, or it is gone.
    #[error("instance {0} is not registered")]
    UnknownInstance(InstanceId),
    /// The instance's lease ran out; a renewal brings it back.
    #[error("the lease of instance {0} expired; renew it or register again")]
    Expired(InstanceId),
    /// The id is taken by an instance that lives.
    #[error("instance {0} is registered already; renew or deregister it")]
    Duplicate(InstanceId),
    /// The request contradicts itself or the service.
    #[error("{0}")]
    Invalid(String),
    /// It could not be written down, so it was not done.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry ended.
    #[error("the registry has ended")]
    Closed,
}

/// Why an instance that the configuration no longer lists is withdrawn; `control::leaving` knows it by this.
pub(crate) const NO_LONGER_LISTED: &str = "no longer in the configuration";

/// One command to the registry.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Contribute(Box<Contribution>),
    Register(Registration),
    Renew(InstanceId),
    Gone {
        id: InstanceId,
        reason: String,
    },
    Withdraw {
        id: InstanceId,
        reason: String,
    },
    Restore(InstanceId),
    Report {
        id: InstanceId,
        transition: Transition,
        reason: String,
    },
    /// Time passed: leases may have run out and listings may have ended.
    Expire,
}

impl Command {
    /// Makes the command of a contribution.
    pub(crate) fn contribute(contribution: Contribution) -> Self {
        Self::Contribute(Box::new(contribution))
    }
}

/// What a command achieved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Done {
    /// Nothing else to say.
    Applied,
    /// The instance as registered.
    Registered(Arc<Instance>),
    /// The length of the renewed lease.
    Renewed(Duration),
    /// The instance drains.
    Withdrawn(ServiceName, InstanceId),
    /// What came of a contribution of one source.
    TakenIn { clashes: Vec<Clash>, refused: Option<RegistryError> },
}

/// An event before its generation is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) kind: EventKind,
    pub(crate) service: ServiceName,
    pub(crate) instance: Option<InstanceId>,
    pub(crate) message: String,
}

/// What a command changed.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Services whose endpoints in the table change.
    pub(crate) touched: Vec<ServiceName>,
    /// Services of which anything changed, for watchers.
    pub(crate) noticed: Vec<ServiceName>,
    /// Whether an endpoint must leave the table at once.
    pub(crate) removal: bool,
    /// New routes.
    pub(crate) routes: Option<Arc<[RouteSpec]>>,
    /// New listeners.
    pub(crate) listeners: Option<Arc<[ListenerSpec]>>,
    /// Events to emit once it is published, in order.
    pub(crate) drafts: Vec<Draft>,
}

impl Effects {
    /// Returns whether the table changes.
    pub(crate) fn changes_table(&self) -> bool {
        !self.touched.is_empty() || self.routes.is_some() || self.listeners.is_some()
    }
}
