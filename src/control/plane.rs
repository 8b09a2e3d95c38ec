//! The control plane as one piece: started once by `app/wire.rs`, on the control runtime.
//!
//! Starts the registry with its publisher, the health supervisor, the configuration's contribution, and the scheduler on
//! the process runtime; hands out the handles that the admin API uses. Owns no decision. Invariant: when it has started, the first table is published.

use crate::control::Options;
use crate::control::discovery::{Definitions, Discovery};
use crate::control::events::Events;
use crate::control::health::Supervisor;
use crate::control::history::History;
use crate::control::probe::Network;
use crate::control::publisher;
use crate::control::registry::{Handle, RegistryError};
use crate::control::runtime::{self, Processes, RuntimeError, Runtimes, docker};
use crate::control::scheduler;
use crate::control::store::{OpenError, Store};
use crate::lifecycle::Signal;
use crate::rng::Rng;
use crate::table::{self, Table};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The store's file in the state directory.
const STORE_FILE: &str = "weir.redb";

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the registry refused of the definitions; a checked configuration is never refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The process runtime cannot work on this machine.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The thread that opened the store ended early.
    #[error("failed to open the store")]
    Opening,
}

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    /// The registry.
    pub registry: Handle,
    /// The feed of events.
    pub events: Events,
    /// Why instances are judged as they are.
    pub health: History,
    /// Takes later configurations; `None` once it was handed to who reloads.
    pub discovery: Option<Discovery>,
    /// Keeps replicas running.
    pub scheduler: scheduler::Handle,
    /// What survives.
    pub store: Store,
}

impl Control {
    /// Starts the control plane on the current runtime and publishes the first table.
    ///
    /// # Errors
    /// [`StartError`], before anything runs that outlives it.
    pub async fn start(
        options: &Options,
        definitions: Definitions,
        events: Events,
        publisher: table::Publisher,
        table: Table,
        signal: Signal,
    ) -> Result<Self, StartError> {
        let path = options.state.join(STORE_FILE);
        let (store, _contents) =
            tokio::task::spawn_blocking(move || Store::open(&path)).await.map_err(|_| StartError::Opening)??;
        let processes = Processes::open(runtime::Options::new(&options.state, options.port_range.clone()))?;
        let events_of_both = processes.events();
        let docker = docker::Docker::open(docker::Options::new(options, store.id()), events_of_both)?;
        let runtimes = Runtimes::new(processes, docker);
        let mut rng = Rng::from_os();
        let registry = publisher::spawn(options, events.clone(), publisher, Rng::from_seed(rng.next_u64()));
        let ids = Rng::from_seed(rng.next_u64());
        let supervisor = Supervisor::new(registry.clone(), Arc::new(Network), options.max_probes, rng);
        let health = supervisor.history();
        tokio::spawn(supervisor.run(signal));
        let mut discovery = Discovery::new(registry.clone(), table.clone(), events.clone(), options.node_id());
        discovery.apply(definitions).await?;
        let scheduler = scheduler::spawn(scheduler::Parts {
            registry: registry.clone(),
            runtime: Arc::new(runtimes),
            table,
            events: events.clone(),
            node: options.node_id(),
            rng: ids,
            resume: BTreeMap::new(),
        });
        discovery.attach(scheduler.clone());
        let discovery = Some(discovery);
        Ok(Self { registry, events, health, discovery, scheduler, store })
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
        let state = std::env::temp_dir().join(format!("weir-plane-{}", std::process::id()));
        let options = Options { state: state.clone(), ..Options::default() };
        let control = Control::start(&options, definitions, events, publisher, table.clone(), signal).await.unwrap();
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
        std::fs::remove_dir_all(&state).unwrap();
    }
}
