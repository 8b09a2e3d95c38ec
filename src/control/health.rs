//! The supervisor of health checks: one loop for each instance that needs one.
//!
//! It watches the registry and compares what each instance needs checked with the loop that runs. Owns the loops, the
//! bound on probes in flight and the history; does not decide what an outcome means (`model::HealthState`) nor what a
//! verdict leads to (the registry). Invariant: a draining or gone instance has no loop. Next on the path: `check.rs`.

use crate::control::check::{Check, Plan, Shared};
use crate::control::history::History;
use crate::control::probe::Prober;
use crate::control::registry::{Handle, Listing};
use crate::lifecycle::{Phase, Signal};
use crate::model::{Instance, InstanceId, InstanceState, ServiceName, ServiceSpec};
use crate::rng::Rng;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::{AbortHandle, JoinSet};

/// A loop that runs, or that ended by itself.
struct Watched {
    plan: Plan,
    opened: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts and ends the loops.
pub struct Supervisor {
    shared: Shared,
    /// By service, so that a change of one looks at its instances only.
    watched: HashMap<ServiceName, HashMap<InstanceId, Option<Watched>>>,
    tasks: JoinSet<()>,
    rng: Rng,
}

impl Supervisor {
    /// Makes a supervisor that has at most `max_probes` attempts in flight at a time.
    pub fn new(registry: Handle, prober: Arc<dyn Prober>, max_probes: usize, rng: Rng) -> Self {
        let permits = Arc::new(Semaphore::new(max_probes.clamp(1, Semaphore::MAX_PERMITS)));
        let shared = Shared { registry, prober, permits, history: History::default() };
        Self { shared, watched: HashMap::new(), tasks: JoinSet::new(), rng }
    }

    /// Returns the history of verdicts.
    pub fn history(&self) -> History {
        self.shared.history.clone()
    }

    /// Checks until Weir stops; a drain is served with checks on.
    pub async fn run(mut self, mut signal: Signal) {
        let mut notices = self.shared.registry.watch();
        self.look_at_all().await;
        loop {
            tokio::select! {
                () = signal.reached(Phase::Stopping) => return,
                notice = notices.recv() => match notice {
                    Ok(name) => match burst(name, &mut notices) {
                        Some(names) => self.look_at(names).await,
                        None => self.look_at_all().await,
                    },
                    Err(RecvError::Lagged(_)) => self.look_at_all().await,
                    Err(RecvError::Closed) => return,
                },
                // A loop that panicked is started again, at the pace of a starting instance; others ended as they should.
                Some(ended) = self.tasks.join_next() => if ended.is_err_and(|error| error.is_panic()) {
                    self.look_at_all().await;
                },
            }
        }
    }

    async fn look_at(&mut self, names: BTreeSet<ServiceName>) {
        for name in names {
            let listing = self.shared.registry.service(&name).await;
            self.compare(&name, listing);
        }
    }

    async fn look_at_all(&mut self) {
        let defined = self.shared.registry.specs().await;
        let known: BTreeSet<ServiceName> = self.watched.keys().cloned().collect();
        self.look_at(defined.iter().map(|spec| spec.name.clone()).chain(known).collect()).await;
    }

    /// Makes the loops of one service what its instances need.
    fn compare(&mut self, name: &ServiceName, listing: Option<Listing>) {
        let mut before = self.watched.remove(name).unwrap_or_default();
        let mut after = HashMap::new();
        if let Some(Listing { spec, instances }) = &listing {
            for instance in instances {
                let running = before.remove(&instance.id).flatten();
                after.insert(instance.id.clone(), self.watch(instance, spec, running));
            }
        }
        for id in before.keys() {
            self.shared.history.forget(id);
        }
        if listing.is_some() {
            self.watched.insert(name.clone(), after);
        }
    }

    fn watch(&mut self, instance: &Instance, spec: &ServiceSpec, running: Option<Watched>) -> Option<Watched> {
        let mut plan = Plan::of(instance, spec)?;
        if let Some(running) = running {
            // A gate that was opened is shut again when a lease expired and was revived; or the loop met the expiry and ended.
            let shut_again = instance.state == InstanceState::Starting && running.opened.load(Ordering::Acquire);
            // A gate that was opened for good has nothing more to do.
            let is_open = running.plan.gate_only
                && instance.state == InstanceState::Ready
                && running.opened.load(Ordering::Acquire);
            if running.plan.covers(&plan) && !shut_again && (is_open || !running.task.is_finished()) {
                return Some(running);
            }
            if running.task.is_finished() {
                // What panics must not spin.
                plan = plan.later();
            }
        }
        let opened = Arc::new(AtomicBool::new(false));
        let rng = Rng::from_seed(self.rng.next_u64());
        let check = Check::new(instance, plan.clone(), self.shared.clone(), opened.clone(), rng);
        Some(Watched { plan, opened, task: self.tasks.spawn(check.run()) })
    }
}

/// Returns the names that were sent by now, each once; `None` when some were missed.
fn burst(first: ServiceName, notices: &mut Receiver<ServiceName>) -> Option<BTreeSet<ServiceName>> {
    let mut names = BTreeSet::from([first]);
    loop {
        match notices.try_recv() {
            Ok(name) => names.insert(name),
            Err(TryRecvError::Lagged(_)) => return None,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(names),
        };
    }
}
