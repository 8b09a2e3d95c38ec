//! A configuration that was loaded: what the rest of the product takes from it.

use crate::admin::Options as AdminOptions;
use crate::control::Options as ControlOptions;
use crate::dns::Options as DnsOptions;
use crate::model::{ListenerSpec, RouteSpec, ServiceSpec};
use crate::proxy::Options as ProxyOptions;
use crate::telemetry::LogOptions;
use std::sync::Arc;

/// A configuration that is valid as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Options of the control plane.
    pub control: ControlOptions,
    /// Options of the data plane.
    pub proxy: ProxyOptions,
    /// Options of the DNS server; `None`: it does not run.
    pub dns: Option<DnsOptions>,
    /// Options of the admin API.
    pub admin: AdminOptions,
    /// Options of log and access log.
    pub log: LogOptions,
    /// Listeners.
    pub listeners: Vec<ListenerSpec>,
    /// Routes.
    pub routes: Vec<RouteSpec>,
    /// Services.
    pub services: Vec<Arc<ServiceSpec>>,
}

impl Loaded {
    /// Returns what the configuration implies and a reader may not expect, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let implied = |service: &&Arc<ServiceSpec>| service.scale.is_some() && service.limits.concurrency == Some(16);
        let note = |service: &Arc<ServiceSpec>| {
            let name = &service.name;
            format!(
                "service {name} is scaled: a replica is given at most 16 requests at once, more wait; \
                 limits.concurrency sets another number"
            )
        };
        self.services.iter().filter(implied).map(note).collect()
    }
}
