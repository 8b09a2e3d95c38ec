//! A table as another Weir tells it: services with their endpoints, and routes. Values only.

use crate::model::{InstanceId, RouteSpec, ServiceName, ServiceSpec, Traits};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// An endpoint as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FedEndpoint {
    /// Its instance.
    pub id: InstanceId,
    /// Its address.
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports; 0 where it does not offer one.
    pub ports: Vec<u16>,
    /// Relative share, 1..=1000.
    pub weight: u32,
    /// What is said about it; `None`: nothing.
    pub traits: Option<Arc<Traits>>,
    /// The verdict of whoever checks it.
    pub unhealthy: bool,
    /// Withdrawn: it only finishes what it has.
    pub draining: bool,
}

/// A service as it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FedService {
    /// Its definition, without how its endpoints come to be.
    pub spec: Arc<ServiceSpec>,
    /// Its endpoints, withdrawn ones included.
    pub endpoints: Vec<FedEndpoint>,
}

/// A whole table of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FedTable {
    /// What its generations are counted in: another after each start of who tells it.
    pub epoch: Arc<str>,
    /// The Weirs by which it came, who told it first, as their epochs.
    pub by: Arc<[String]>,
    /// Its generation.
    pub generation: u64,
    /// Its services; unchanged ones are shared between tables.
    pub services: BTreeMap<ServiceName, Arc<FedService>>,
    /// Its routes.
    pub routes: Arc<[RouteSpec]>,
}
