//! Random histories: each step a random command or fault, each step checked, each seed printed and replayable.

use crate::world::{Backend, SECOND, World, http_check, name, registration, spec, state_of, until};
use std::collections::HashMap;
use std::time::Duration;
use weir::clock;
use weir::control::registry::{Registration, RegistryError};
use weir::model::{InstanceId, InstanceState, Source};
use weir::rng::Rng;

const SERVICES: [&str; 3] = ["web", "api", "raw"];
const STEPS: usize = 400;

/// The publish interval that an answer may wait, and the timer's millisecond on either side.
const SLACK: Duration = Duration::from_millis(7);

/// What the simulation knows of an instance, apart from the registry.
struct Known {
    port: u16,
    lease: Option<Duration>,
    /// When it was last registered or renewed.
    fresh: std::time::Instant,
    draining: bool,
}

struct Run {
    world: World,
    known: HashMap<InstanceId, Known>,
    next_port: u16,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed);
        for service in SERVICES {
            let check = (service != "raw").then(http_check);
            world.registry.define(spec(service, check)).await.unwrap();
        }
        Self { world, known: HashMap::new(), next_port: 1 }
    }

    fn any(&mut self) -> Option<InstanceId> {
        let mut ids: Vec<&InstanceId> = self.known.keys().collect();
        ids.sort();
        let at = self.world.rng.below(ids.len());
        ids.get(at).map(|id| (*id).clone())
    }

    async fn step(&mut self) {
        match self.world.rng.below(12) {
            0 | 1 => self.register().await,
            2 | 3 => self.renew().await,
            4 => self.gone().await,
            5 => self.withdraw().await,
            6 => self.restore().await,
            7 | 8 => self.fault(),
            9 => self.redefine().await,
            _ => {
                let ms = self.world.rng.below(4000) as u64;
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        }
        self.check().await;
    }

    async fn register(&mut self) {
        let service = SERVICES[self.world.rng.below(SERVICES.len())];
        let port = self.next_port;
        self.next_port += 1;
        let lease = (self.world.rng.below(2) == 0).then(|| Duration::from_millis(2000 + 500 * u64::from(port % 20)));
        let source = if lease.is_some() { Source::Api } else { Source::Scheduler };
        self.world.network.set(port, Backend::Up);
        let request = Registration { lease, ..registration(service, port, source) };
        let fresh = clock::now();
        let instance = self.world.registry.register(request).await.unwrap();
        self.known.insert(instance.id, Known { port, lease, fresh, draining: false });
    }

    async fn renew(&mut self) {
        let Some(id) = self.any() else { return };
        // The renewal counts from some moment between here and the answer, which may wait for a publish.
        let start = clock::now();
        let answer = self.world.registry.renew(&id).await;
        let known = self.known.get_mut(&id).unwrap();
        let Some(lease) = known.lease else {
            assert!(matches!(answer, Err(RegistryError::Invalid(_))), "{answer:?}");
            return;
        };
        let since = start - known.fresh;
        let listed = lease + 60 * SECOND;
        match answer {
            Ok(length) => {
                assert_eq!(length, lease);
                assert!(since <= listed + SLACK, "revived after {since:?}");
                known.fresh = start;
            }
            Err(RegistryError::UnknownInstance(_)) => {
                assert!(since + SLACK >= listed, "a lease was lost after {since:?}");
                self.known.remove(&id);
                self.world.gone.insert(id);
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn gone(&mut self) {
        let Some(id) = self.any() else { return };
        let (start, routed) = (clock::now(), self.world.routes_to(&id));
        match self.world.registry.gone(&id, "exit 1").await {
            Ok(generation) => assert!(self.world.table.load().generation >= generation),
            Err(error) => assert_eq!(error, RegistryError::UnknownInstance(id.clone())),
        }
        assert!(clock::now() - start <= limit(routed), "a removal is never delayed");
        self.known.remove(&id);
        self.world.gone.insert(id);
    }

    async fn withdraw(&mut self) {
        let Some(id) = self.any() else { return };
        let (start, routed) = (clock::now(), self.world.routes_to(&id));
        if self.world.registry.withdraw(&id, "drain").await.is_ok() {
            assert!(clock::now() - start <= limit(routed), "a withdrawal is never delayed");
            self.known.get_mut(&id).unwrap().draining = true;
            assert!(!self.world.routes_to(&id), "withdrawn, but routed to");
        }
    }

    async fn restore(&mut self) {
        let Some(id) = self.any() else { return };
        if self.world.registry.restore(&id).await.is_ok() {
            self.known.get_mut(&id).unwrap().draining = false;
        }
    }

    fn fault(&mut self) {
        let Some(id) = self.any() else { return };
        let backend = [Backend::Up, Backend::Down, Backend::Silent, Backend::Slow(SECOND)][self.world.rng.below(4)];
        self.world.network.set(self.known.get(&id).unwrap().port, backend);
    }

    async fn redefine(&mut self) {
        let mut changed = http_check();
        changed.interval = Duration::from_millis(1000 + self.world.rng.below(5000) as u64);
        self.world.registry.define(spec("web", Some(changed))).await.unwrap();
    }

    async fn check(&mut self) {
        self.world.check().await;
        let instances = self.world.registry.instances().await;
        let now = clock::now();
        for (id, known) in &self.known {
            let valid = known.lease.is_none_or(|lease| now - known.fresh + SLACK < lease);
            if valid {
                let state = state_of(&instances, id);
                assert!(state.is_some_and(|state| state != InstanceState::Gone), "{id} was lost: {state:?}");
                assert_eq!(state == Some(InstanceState::Draining), known.draining, "{id}");
            }
        }
        for id in &self.world.gone {
            assert!(state_of(&instances, id).is_none_or(|state| state == InstanceState::Gone));
        }
    }

    /// With every backend up and every lease kept, all that lives is used again.
    async fn settle(&mut self) {
        for round in 0..40 {
            let ids: Vec<InstanceId> = self.known.keys().cloned().collect();
            for id in ids {
                self.world.network.set(self.known.get(&id).unwrap().port, Backend::Up);
                if self.known.get(&id).unwrap().lease.is_some() && self.world.registry.renew(&id).await.is_err() {
                    self.known.remove(&id);
                }
            }
            tokio::time::sleep(if round == 0 { Duration::ZERO } else { SECOND }).await;
        }
        let mut expected: Vec<u16> = self.known.values().filter(|k| !k.draining).map(|k| k.port).collect();
        expected.sort_unstable();
        let mut used: Vec<u16> = SERVICES.iter().flat_map(|service| self.world.usable(service)).collect();
        used.sort_unstable();
        assert_eq!(used, expected);
    }
}

impl World {
    /// Returns whether the table routes to an instance now, or would when failing open.
    fn routes_to(&self, id: &InstanceId) -> bool {
        let snapshot = self.table.load();
        snapshot.services.iter().any(|s| s.endpoints.iter().any(|endpoint| endpoint.id == *id))
    }
}

/// What is routed leaves in no time; anything else may wait for the next publish.
fn limit(routed: bool) -> Duration {
    if routed { Duration::ZERO } else { SLACK }
}

fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var("WEIR_SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        return vec![seed];
    }
    let runs = std::env::var("WEIR_SIM_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut rng = Rng::from_os();
    (0..runs).map(|_| rng.next_u64()).collect()
}

#[test]
fn every_random_history_keeps_the_invariants() {
    for seed in seeds() {
        println!("WEIR_SIM_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new(seed).await;
            for _ in 0..STEPS {
                run.step().await;
            }
            run.settle().await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_removed_and_defined_again_starts_empty() {
    let mut world = World::new(1);
    for _ in 0..20 {
        world.registry.define(spec("web", Some(http_check()))).await.unwrap();
        let id = world.start("web", 1).await;
        until(SECOND, async || world.usable("web") == [1]).await;
        world.registry.undefine(&name("web")).await.unwrap();
        assert!(world.table.load().services.get(&name("web")).is_none());
        world.gone.insert(id.clone());
        assert_eq!(world.registry.renew(&id).await, Err(RegistryError::UnknownInstance(id)));
        world.check().await;
    }
}
