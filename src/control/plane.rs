//! The control plane as one piece: started once by `app/wire.rs`, on the control runtime.
//!
//! Opens the store, takes up what an earlier Weir left running, then starts the registry with its publisher, the health
//! supervisor, the configuration's contribution, and the scheduler; hands out the handles that the admin API uses. Owns no
//! decision. Invariant: when it has started, a table is published that has every endpoint which served before.

use crate::clock;
use crate::control::Options;
use crate::control::addresses::{self, Addresses};
use crate::control::deployments::{self, DeployError, Deployments};
use crate::control::discovery::{Definitions, Discovery};
use crate::control::events::Events;
use crate::control::health::Supervisor;
use crate::control::history::History;
use crate::control::probe::Node;
use crate::control::publisher;
use crate::control::registry::{Handle, RegistryError};
use crate::control::runtime::{self, Processes, Running, Runtime, RuntimeError, Runtimes, docker};
use crate::control::scheduler::{self, Inheritance, Orphan};
use crate::control::standing::Standing;
use crate::control::store::{Contents, OpenError, Store};
use crate::lifecycle::Signal;
use crate::model::{Instance, InstanceState, Source};
use crate::model::{NodeId, OnExit, ServiceName};
use crate::rng::Rng;
use crate::table::{self, Table};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// The store's file in the state directory.
pub const STORE_FILE: &str = "weir.redb";
/// Looks at a store that another process holds: one that was killed lets go within milliseconds.
const LOCK_TRIES: usize = 20;
/// Pause between them.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why the control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What the registry refused of the definitions; a checked configuration is never refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What the configuration contributes could not be stored.
    #[error(transparent)]
    Deploy(#[from] DeployError),
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
    /// Takes later configurations, and changes of definitions.
    pub deployments: deployments::Handle,
    /// Keeps replicas running.
    pub scheduler: scheduler::Handle,
    /// What survives.
    pub store: Store,
    /// What the store holds of certificates, for whoever keeps them.
    pub obtained: Contents,
    /// Ranges of services' own addresses that an earlier Weir used, and this one does not.
    pub earlier_ranges: Vec<addresses::Range>,
    on_exit: OnExit,
}

/// Two publishes follow each other at least this far apart: the default of `Options::publish_interval`.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);

impl Control {
    /// Waits until each endpoint of the configuration has been checked once, at most `limit`: so the first requests after
    /// a start find who answers. One that fails its check takes the whole limit.
    pub async fn first_checks(&self, limit: Duration) {
        let mut notices = self.registry.watch();
        let checked = async {
            loop {
                let instances = self.registry.instances().await;
                let waits = |one: &Instance| one.source == Source::File && one.state == InstanceState::Starting;
                // The registry has ended: nothing more is checked.
                if !instances.iter().any(waits) || matches!(notices.recv().await, Err(RecvError::Closed)) {
                    return;
                }
            }
        };
        // What was not checked by then is served once it is.
        let _ = tokio::time::timeout(limit, checked).await;
        // The publish that shows the last one may be held back for so long.
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }

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
        let (store, mut contents) = open_store(&options.state.join(STORE_FILE)).await?;
        let processes = Processes::open(runtime::Options {
            owner: store.id().to_owned(),
            on_exit: options.on_exit,
            ..runtime::Options::new(&options.state, options.port_range.clone())
        })?;
        let docker = docker::Docker::open(docker::Options::new(options, store.id()), processes.events())?;
        let runtime: Arc<dyn Runtime> = Arc::new(Runtimes::new(processes, docker));
        let running = runtime.adopt(&scheduler::known(&contents)).await?;
        let mut rng = Rng::from_os();
        let (addresses, earlier_ranges) = own_addresses(options, &store, &contents);
        let publisher = publisher::Publisher::new(publisher, events.clone(), options.publish_interval);
        let publisher = publisher.with_addresses(addresses);
        let registry = publisher::spawn_with(options, publisher, Rng::from_seed(rng.next_u64()));
        let registry = registry.durable(store.clone());
        let discovery = Discovery::new(registry.clone(), table.clone(), events.clone(), options.node_id());
        let parts =
            deployments::Parts { store: store.clone(), discovery, table: table.clone(), events: events.clone() };
        let mut deployments = Deployments::open(parts, &contents);
        deployments.apply_file(definitions).await?;
        let inheritance = inherit(&registry, &contents, running, &options.node_id()).await;
        tokio::spawn(Standing::new(registry.clone(), store.clone(), &contents).run());
        let ids = Rng::from_seed(rng.next_u64());
        let supervisor =
            Supervisor::new(registry.clone(), Arc::new(Node::new(runtime.clone())), options.max_probes, rng);
        let health = supervisor.history();
        tokio::spawn(supervisor.run(signal));
        let scheduler = scheduler::spawn(scheduler::Parts {
            registry: registry.clone(),
            runtime,
            table,
            events: events.clone(),
            node: options.node_id(),
            rng: ids,
            resume: deployments.resume(),
            store: Some(store.clone()),
            inheritance,
        });
        let (deployments, on_exit) = (deployments.spawn(scheduler.clone()), options.on_exit);
        let obtained = contents.take_certificates();
        Ok(Self { registry, events, health, deployments, scheduler, store, obtained, earlier_ranges, on_exit })
    }

    /// Ends the control plane for good: workloads are stopped where `workloads_on_exit` says so, else left running.
    pub async fn end(&self) {
        if self.on_exit == OnExit::Stop {
            self.scheduler.shutdown().await;
        }
        self.stop().await;
    }

    /// Ends the control plane, leaves every workload as it is and closes the store, so that another Weir can take over.
    ///
    /// The last table stays published: who serves from it goes on. Waits for what is being started, milliseconds.
    pub async fn stop(&self) {
        self.scheduler.release().await;
        self.store.close().await;
    }
}

/// Opens the store; waits a moment for a Weir that is just ending.
async fn open_store(path: &Path) -> Result<(Store, Contents), StartError> {
    let mut tries = 0;
    loop {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await.map_err(|_| StartError::Opening)?;
        tries += 1;
        match opened {
            Err(OpenError::Locked { .. }) if tries < LOCK_TRIES => tokio::time::sleep(LOCK_PAUSE).await,
            opened => return Ok(opened?),
        }
    }
}

/// Takes up the services' own addresses, where they have any; forgets in the store what is of no use. Returns with them the
/// ranges of earlier ones.
fn own_addresses(options: &Options, store: &Store, contents: &Contents) -> (Option<Addresses>, Vec<addresses::Range>) {
    let range = options.service_addresses;
    let addresses = range.map(|range| Addresses::new(range, contents, clock::unix_ms()));
    let forgotten = addresses::forgotten(contents, addresses.as_ref());
    if let Some(addresses) = &addresses {
        addresses.keep(store.clone());
    }
    let store = store.clone();
    // What is still there at the next start is looked at again.
    tokio::spawn(async move { drop(store.note(forgotten).await) });
    (addresses, addresses::earlier_ranges(contents, range))
}

/// Brings what an earlier Weir left into the registry; returns what the scheduler takes up.
async fn inherit(registry: &Handle, contents: &Contents, running: Vec<Running>, node: &NodeId) -> Inheritance {
    let specs = registry.specs().await;
    let is_run = |name: &ServiceName| specs.iter().any(|spec| spec.name == *name && spec.run.is_some());
    let mut inheritance = scheduler::inherit(contents, running, is_run);
    if let Err(error) = registry.adopt(scheduler::registrations(contents, &inheritance.kept, node)).await {
        tracing::warn!(%error, "not everything fits the definitions of now");
    }
    let mut kept = Vec::new();
    for replica in std::mem::take(&mut inheritance.kept) {
        let Running { id, service, .. } = &replica.running;
        match registry.instance(id).await {
            Some(_) => kept.push(replica),
            None => inheritance.orphans.push(Orphan {
                id: id.clone(),
                service: service.clone(),
                why: "it does not fit its service's definition any more",
            }),
        }
    }
    inheritance.kept = kept;
    // Endpoints of the configuration that were drained by hand.
    for id in contents.drains.iter().filter(|id| !contents.replicas.contains_key(*id)) {
        if registry.withdraw(id, "drained by hand").await.is_err() {
            registry.forget(id).await;
        }
    }
    inheritance
}

#[cfg(test)]
mod tests {
    use super::Control;
    use crate::control::Options;
    use crate::control::discovery::Definitions;
    use crate::control::events::{EventKind, Events};
    use crate::control::registry::fixture::{check, spec};
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
        service.endpoints =
            vec![StaticEndpoint { address: address.ip(), ports: vec![address.port()], weight: 1, traits: None }];
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
