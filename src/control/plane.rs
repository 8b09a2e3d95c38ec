//! The control plane as one piece: started once by `app/wire.rs`, on the control runtime.
//!
//! Starts the registry with its publisher, the health supervisor and the configuration's contribution; hands out the
//! handles that the admin API uses. Owns no decision. Invariant: when it has started, the first table is published.

use crate::control::Options;
use crate::control::discovery::{Definitions, Discovery};
use crate::control::events::Events;
use crate::control::health::Supervisor;
use crate::control::history::History;
use crate::control::probe::Network;
use crate::control::publisher;
use crate::control::registry::{Handle, RegistryError};
use crate::lifecycle::Signal;
use crate::rng::Rng;
use crate::table;
use std::sync::Arc;

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    /// The registry.
    pub registry: Handle,
    /// The feed of events.
    pub events: Events,
    /// Why instances are judged as they are.
    pub health: History,
    /// Takes later configurations.
    pub discovery: Discovery,
}

impl Control {
    /// Starts the control plane on the current runtime and publishes the first table.
    ///
    /// # Errors
    /// What the registry refused of the definitions; a checked configuration is never refused.
    pub async fn start(
        options: &Options,
        definitions: Definitions,
        events: Events,
        table: table::Publisher,
        signal: Signal,
    ) -> Result<Self, RegistryError> {
        let mut rng = Rng::from_os();
        let registry = publisher::spawn(options, events.clone(), table, Rng::from_seed(rng.next_u64()));
        let supervisor = Supervisor::new(registry.clone(), Arc::new(Network), options.max_probes, rng);
        let health = supervisor.history();
        tokio::spawn(supervisor.run(signal));
        let mut discovery = Discovery::new(registry.clone(), options.node_id());
        discovery.apply(definitions).await?;
        Ok(Self { registry, events, health, discovery })
    }
}

#[cfg(test)]
mod tests {
    use super::Control;
    use crate::control::Options;
    use crate::control::discovery::Definitions;
    use crate::control::events::{EventKind, Events};
    use crate::control::registry::tests::{check, spec};
    use crate::lifecycle::drain;
    use crate::model::StaticEndpoint;
    use crate::table::names::Names;
    use crate::table::{Snapshot, channel};
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_static_endpoint_is_checked_at_once_and_reaches_the_table() {
        let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = backend.local_addr().unwrap();
        let mut service = spec("web", Some(check()));
        service.endpoints = vec![StaticEndpoint { address: address.ip(), ports: vec![address.port()], weight: 1 }];
        let definitions = Definitions { services: vec![Arc::new(service)], ..Definitions::default() };
        let (publisher, table) = channel(Snapshot::empty(Names::default()));
        let (_trigger, signal) = drain();
        let events = Events::default();
        let mut feed = events.subscribe();
        let options = Options::default();
        let control = Control::start(&options, definitions, events, publisher, signal).await.unwrap();
        assert!(table.load().generation >= 1, "the first table is published");
        let ready = async {
            loop {
                let event = feed.recv().await.unwrap();
                if event.kind == EventKind::InstanceReady {
                    return event;
                }
            }
        };
        let ready = tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
        let snapshot = table.load();
        let endpoints = &snapshot.services.iter().next().unwrap().endpoints;
        assert_eq!((endpoints.len(), snapshot.generation), (1, ready.generation));
        assert_eq!(endpoints[0].socket(0), Some(address));
        assert_eq!(control.health.of(&endpoints[0].id)[0].reason, "connect: accepted");
    }
}
