//! The model that a rule is tried on: replicas of so many slots each, one FIFO queue before them, cold starts.
//!
//! Time runs in seconds of ticks; requests within them are exact. A replica costs from its order to its end, starting
//! included. On the way down those that start are cancelled first; then slots go at once and requests in service finish.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use weir::control::autoscale::{Fleet, Load};
use weir::rng::Rng;

/// What a request is and how fast a replica is there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model {
    /// Mean time in service, seconds; log-normal.
    pub(crate) service_s: f64,
    pub(crate) cv: f64,
    /// Requests that a replica serves at once.
    pub(crate) slots: u32,
    /// A response that takes longer is late, seconds.
    pub(crate) objective_s: f64,
    /// From the order of a replica until it serves, seconds; ± 10 %.
    pub(crate) cold_start_s: f64,
}

/// What decides; asked each second.
pub(crate) trait Rule {
    fn wanted(&mut self, load: &Load, fleet: &Fleet, now_ms: u64) -> u32;
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) late: u64,
    pub(crate) replica_s: f64,
    pub(crate) most: u32,
    /// Changes of the wanted number.
    pub(crate) changes: u32,
}

impl Outcome {
    pub(crate) fn late_percent(&self) -> f64 {
        100.0 * self.late as f64 / self.requests.max(1) as f64
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Instant(f64);

impl Eq for Instant {}

impl PartialOrd for Instant {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Instant {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// One request in service: when it ends, when it came, how long it is served.
type Served = (Reverse<Instant>, Instant, Instant);

struct World {
    model: Model,
    rng: Rng,
    ready: u32,
    /// When those that start will serve.
    starting: Vec<f64>,
    in_service: BinaryHeap<Served>,
    queue: VecDeque<f64>,
    load: Load,
    outcome: Outcome,
}

impl World {
    fn uniform(&mut self) -> f64 {
        self.rng.unit()
    }

    fn normal(&mut self) -> f64 {
        let (a, b) = (self.uniform().max(1e-300), self.uniform());
        (-2.0 * a.ln()).sqrt() * (2.0 * std::f64::consts::PI * b).cos()
    }

    fn service_s(&mut self) -> f64 {
        let variance = (1.0 + self.model.cv * self.model.cv).ln();
        let normal = self.normal();
        (self.model.service_s.ln() - variance / 2.0 + variance.sqrt() * normal).exp()
    }

    fn slots(&self) -> usize {
        (self.ready * self.model.slots) as usize
    }

    /// Serves from the queue while there is room.
    fn fill(&mut self, now: f64) {
        while self.in_service.len() < self.slots() {
            let Some(came) = self.queue.pop_front() else { return };
            let service_s = self.service_s();
            self.in_service.push((Reverse(Instant(now + service_s)), Instant(came), Instant(service_s)));
        }
    }

    /// Ends what ends until `until`, and lets replicas become ready on the way.
    fn advance(&mut self, until: f64) {
        loop {
            let next_end = self.in_service.peek().map_or(f64::INFINITY, |(Reverse(end), ..)| end.0);
            let next_ready = self.starting.iter().copied().fold(f64::INFINITY, f64::min);
            if next_end.min(next_ready) > until {
                return;
            }
            if next_ready < next_end {
                self.starting.retain(|at| *at > next_ready);
                self.ready += 1;
                self.fill(next_ready);
                continue;
            }
            let Some((Reverse(end), came, service_s)) = self.in_service.pop() else { return };
            self.load.served += 1.0;
            self.load.service_s += service_s.0;
            self.load.service_s2 += service_s.0 * service_s.0;
            self.load.ended += 1.0;
            if end.0 - came.0 > self.model.objective_s {
                self.load.late += f64::from(u8::from(service_s.0 <= self.model.objective_s));
                self.outcome.late += 1;
            }
            self.fill(end.0);
        }
    }

    fn order(&mut self, wanted: u32, now: f64) {
        let mut there = self.ready + self.starting.len() as u32;
        while there < wanted {
            let jitter = 0.9 + 0.2 * self.uniform();
            self.starting.push(now + self.model.cold_start_s * jitter);
            there += 1;
        }
        self.starting.sort_by(f64::total_cmp);
        while there > wanted && self.starting.pop().is_some() {
            there -= 1;
        }
        if there > wanted {
            // Those that go finish what they serve.
            self.outcome.replica_s += f64::from(there - wanted) * self.model.service_s;
            self.ready -= there - wanted;
        }
    }
}

/// Runs a rule over arrivals: of each second the times within it. It begins with `first` replicas that serve.
pub(crate) fn run(model: Model, arrivals: &[Vec<f64>], first: u32, seed: u64, rule: &mut dyn Rule) -> Outcome {
    let mut world = World {
        model,
        rng: Rng::from_seed(seed),
        ready: first,
        starting: Vec::new(),
        in_service: BinaryHeap::new(),
        queue: VecDeque::new(),
        load: Load::default(),
        outcome: Outcome::default(),
    };
    let mut wanted = first;
    for (second, times) in arrivals.iter().enumerate() {
        for &at in times {
            world.advance(at);
            world.queue.push_back(at);
            world.outcome.requests += 1;
            world.load.arrivals += 1.0;
            world.fill(at);
        }
        let now = (second + 1) as f64;
        world.advance(now);
        world.outcome.replica_s += f64::from(world.ready) + world.starting.len() as f64;
        let load = Load {
            elapsed_s: 1.0,
            in_service: world.in_service.len() as u32,
            queued: world.queue.len() as u32,
            ..std::mem::take(&mut world.load)
        };
        let fleet = Fleet { wanted, ready: world.ready, slots: model.slots, cold_start_s: 1.08 * model.cold_start_s };
        let now_wanted = rule.wanted(&load, &fleet, 1_000_000 + (second as u64 + 1) * 1000);
        world.outcome.changes += u32::from(now_wanted != wanted);
        world.outcome.most = world.outcome.most.max(now_wanted);
        wanted = now_wanted;
        world.order(wanted, now);
    }
    // What still waits at the end is late when it is already.
    let end = arrivals.len() as f64;
    world.outcome.late += world.queue.iter().filter(|came| end - **came > model.objective_s).count() as u64;
    world.outcome
}
