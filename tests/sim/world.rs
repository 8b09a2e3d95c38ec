//! A control plane over simulated backends, and what must always hold of it.

use async_trait::async_trait;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir::clock;
use weir::control::Options;
use weir::control::events::{EventKind, Events};
use weir::control::health::Supervisor;
use weir::control::history::History;
use weir::control::probe::{Prober, Target};
use weir::control::publisher;
use weir::control::registry::{Handle, Registration};
use weir::lifecycle::{Trigger, drain};
use weir::model::{
    HealthCheck, Instance, InstanceId, InstanceState, NodeId, Policy, Probe, ServiceName, ServiceSpec, Source,
};
use weir::rng::Rng;
use weir::table::names::Names;
use weir::table::{Service, Snapshot, Table, channel};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// How a simulated backend answers a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Up,
    /// Refuses at once.
    Down,
    /// Never answers.
    Silent,
    /// Panics: a bug in the check itself.
    Broken,
    /// Answers after a while.
    Slow(Duration),
}

/// The backends by port; all listen on one address. An unknown port refuses.
#[derive(Debug, Default)]
pub(crate) struct Network {
    backends: Mutex<HashMap<u16, Backend>>,
    /// Port and time of each probe.
    pub(crate) probes: Mutex<Vec<(u16, u64)>>,
    in_flight: AtomicUsize,
    pub(crate) most_in_flight: AtomicUsize,
}

impl Network {
    pub(crate) fn set(&self, port: u16, backend: Backend) {
        self.backends.lock().unwrap().insert(port, backend);
    }

    pub(crate) fn get(&self, port: u16) -> Backend {
        self.backends.lock().unwrap().get(&port).copied().unwrap_or(Backend::Down)
    }

    /// Returns the times of the probes of a port.
    pub(crate) fn probed(&self, port: u16) -> Vec<u64> {
        let probes = self.probes.lock().unwrap();
        probes.iter().filter(|(of, _)| *of == port).map(|(_, at_ms)| *at_ms).collect()
    }
}

/// Lets the counter fall also when a probe is cut by its timeout.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Prober for Network {
    async fn probe(&self, target: &Target) -> Result<String, String> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        let _guard = InFlight(&self.in_flight);
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let port = target.address.port();
        self.probes.lock().unwrap().push((port, clock::now_ms()));
        match self.get(port) {
            Backend::Up => Ok("GET /health: 200".to_owned()),
            Backend::Down => Err("connect: connection refused".to_owned()),
            Backend::Silent => std::future::pending().await,
            Backend::Broken => panic!("a simulated bug"),
            Backend::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok("GET /health: 200".to_owned())
            }
        }
    }
}

/// The control plane under test.
pub(crate) struct World {
    pub(crate) registry: Handle,
    pub(crate) table: Table,
    pub(crate) events: Events,
    pub(crate) network: Arc<Network>,
    pub(crate) health: History,
    pub(crate) rng: Rng,
    /// Ids that the registry said are gone: never to be seen in the table again.
    pub(crate) gone: HashSet<InstanceId>,
    /// The serial of each endpoint's counters while it is in the table.
    serials: HashMap<InstanceId, u64>,
    last_generation: u64,
    last_seq: u64,
    _trigger: Trigger,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, Options::default())
    }

    pub(crate) fn with(seed: u64, options: Options) -> Self {
        let mut rng = Rng::from_seed(seed);
        let (publisher, table) = channel(Snapshot::empty(Names::default()));
        let events = Events::default();
        let registry = publisher::spawn(&options, events.clone(), publisher, Rng::from_seed(rng.next_u64()));
        let network = Arc::new(Network::default());
        let (trigger, signal) = drain();
        let ids = Rng::from_seed(rng.next_u64());
        let supervisor = Supervisor::new(registry.clone(), network.clone(), options.max_probes, ids);
        let health = supervisor.history();
        tokio::spawn(supervisor.run(signal));
        Self {
            registry,
            table,
            events,
            network,
            health,
            rng,
            gone: HashSet::new(),
            serials: HashMap::new(),
            last_generation: 0,
            last_seq: 0,
            _trigger: trigger,
        }
    }

    /// Registers a replica on a port whose backend is up.
    pub(crate) async fn start(&self, service: &str, port: u16) -> InstanceId {
        self.network.set(port, Backend::Up);
        self.registry.register(registration(service, port, Source::Scheduler)).await.unwrap().id
    }

    pub(crate) async fn state(&self, id: &InstanceId) -> Option<InstanceState> {
        self.registry.instance(id).await.map(|instance| instance.state)
    }

    pub(crate) fn service(&self, service: &str) -> Arc<Service> {
        self.table.load().services.get(&name(service)).unwrap().clone()
    }

    /// Returns the ports of the endpoints that would be used now.
    pub(crate) fn usable(&self, service: &str) -> Vec<u16> {
        let service = self.service(service);
        service.candidates(clock::now_ms()).map(|index| service.endpoints[index].ports[0]).collect()
    }

    /// Checks what must hold after every step.
    pub(crate) async fn check(&mut self) {
        // Before the table is read: what happens while this checks belongs to the next time.
        let known = self.events.recent().last().map_or(0, |event| event.seq);
        let snapshot = self.table.load();
        assert!(snapshot.generation >= self.last_generation, "generations only rise");
        self.last_generation = snapshot.generation;
        let mut seen = HashMap::new();
        for service in snapshot.services.iter() {
            assert_eq!(service.endpoints.len(), service.candidates.len());
            for (endpoint, candidate) in service.endpoints.iter().zip(&service.candidates) {
                assert!(!self.gone.contains(&endpoint.id), "{} is gone, but in the table", endpoint.id);
                seen.insert(endpoint.id.clone(), candidate.stats.serial());
            }
            for (endpoint, candidate) in &service.draining {
                assert!(!self.gone.contains(&endpoint.id), "{} is gone, but listed as draining", endpoint.id);
                seen.insert(endpoint.id.clone(), candidate.stats.serial());
            }
            self.check_order(service).await;
        }
        for (id, serial) in &seen {
            let kept = self.serials.get(id).is_none_or(|before| before == serial);
            // A lease that ran out and was renewed between two checks took the endpoint out of the table and back.
            let left = self.events.recent().iter().any(|event| {
                event.seq > self.last_seq
                    && event.kind == EventKind::LeaseExpired
                    && event.instance.as_ref() == Some(id)
            });
            assert!(kept || left, "the counters of {id} were lost while it was in the table");
        }
        self.serials = seen;
        let events = self.events.recent();
        self.last_seq = known;
        for pair in events.windows(2) {
            assert!(pair[0].seq + 1 == pair[1].seq && pair[0].generation <= pair[1].generation, "{pair:?}");
        }
    }

    /// The table keeps the order of registration.
    async fn check_order(&self, service: &Service) {
        let listing = self.registry.service(service.name()).await.unwrap();
        let order: HashMap<_, _> = listing.instances.iter().enumerate().map(|(at, i)| (&i.id, at)).collect();
        let places: Vec<_> = service.endpoints.iter().filter_map(|endpoint| order.get(&endpoint.id)).collect();
        assert!(places.is_sorted(), "the order of registration was lost: {places:?}");
    }
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

/// An HTTP check each 5 s, 1 s while changing; down after 3, up after 2.
pub(crate) fn http_check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Http { path: "/health".into(), host: None, status: 200..=399 },
        port: 0,
        interval: 5 * SECOND,
        fast_interval: SECOND,
        timeout: 2 * SECOND,
        rise: 2,
        fall: 3,
    }
}

pub(crate) fn spec(service: &str, health: Option<HealthCheck>) -> Arc<ServiceSpec> {
    Arc::new(ServiceSpec { policy: Policy::RoundRobin, health, replicas: 0, ..ServiceSpec::new(name(service)) })
}

pub(crate) fn registration(service: &str, port: u16, source: Source) -> Registration {
    let (node, address) = (NodeId::parse("sim").unwrap(), SocketAddr::from(([127, 0, 0, 1], port)).ip());
    Registration { revision: 1, ..Registration::new(name(service), source, node, address, vec![port]) }
}

/// Waits (in virtual time) until `holds`, at most `limit`; returns how long it took.
pub(crate) async fn until<F: AsyncFnMut() -> bool>(limit: Duration, mut holds: F) -> Duration {
    let start = clock::now();
    while !holds().await {
        assert!(clock::now() - start < limit, "not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    clock::now() - start
}

pub(crate) fn state_of(instances: &[Instance], id: &InstanceId) -> Option<InstanceState> {
    instances.iter().find(|instance| instance.id == *id).map(|instance| instance.state)
}
