//! Loads that are held: wherever the need stands between two numbers of replicas, the number settles and stays.

use crate::autoscale::MODEL;
use crate::autoscale::queue::{Model, Rule, run};
use crate::autoscale::rules::{Own, needed};
use std::ops::RangeInclusive;
use weir::control::autoscale::{Fleet, Load};
use weir::rng::Rng;

/// Seconds at a third of the load, after which it steps up and is held; a minute later the number has settled.
const BEFORE_S: usize = 60;
const HELD_S: usize = 600;
const SETTLED_S: u64 = BEFORE_S as u64 + 60;
/// Replicas at whose edges loads stand: as parts of the rate at which one more is needed.
const REPLICAS: RangeInclusive<u32> = 2..=24;
const PARTS: [f64; 2] = [0.94, 1.0];
const SEEDS: RangeInclusive<u64> = 1..=2;

/// How the arrivals of a held load are spread.
#[derive(Debug, Clone, Copy)]
enum Spread {
    /// By chance: counts scatter as Poisson's.
    Chance,
    /// Evenly, as a client with a clock makes them.
    Even,
}

fn arrivals(rate: f64, spread: Spread, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Rng::from_seed(seed);
    let mut at = 0.0;
    let mut times = vec![Vec::new(); BEFORE_S + HELD_S];
    loop {
        let now = if at < BEFORE_S as f64 { rate / 3.0 } else { rate };
        at += match spread {
            Spread::Chance => -rng.unit().max(1e-300).ln() / now,
            Spread::Even => 1.0 / now,
        };
        let Some(second) = times.get_mut(at as usize) else { return times };
        second.push(at);
    }
}

/// Weir's rule; counts how often it orders again what it took away, once it has settled.
struct Counted {
    own: Own,
    fell: bool,
    flaps: usize,
}

impl Rule for Counted {
    fn wanted(&mut self, load: &Load, fleet: &Fleet, now_ms: u64) -> u32 {
        let wanted = self.own.wanted(load, fleet, now_ms);
        if now_ms >= 1_000_000 + SETTLED_S * 1000 {
            self.flaps += usize::from(self.fell && wanted > fleet.wanted);
            self.fell = wanted < fleet.wanted || (self.fell && wanted == fleet.wanted);
        }
        wanted
    }
}

/// The rate at which `replicas` are only just enough.
fn edge(model: &Model, replicas: u32) -> f64 {
    let (mut low, mut high) = (0.0, 2.0 * f64::from(replicas * model.slots) / model.service_s);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if needed(model, &[middle])[0] <= replicas { low = middle } else { high = middle }
    }
    low
}

/// Runs every edge with every seed; returns how many runs flapped so often, by number of flaps.
fn flaps(name: &str, model: Model, spread: Spread) -> Vec<usize> {
    let mut counts: Vec<usize> = Vec::new();
    for replicas in REPLICAS {
        for part in PARTS {
            let rate = part * edge(&model, replicas);
            for seed in SEEDS {
                let mut rule = Counted { own: Own::new(&model, 1), fell: false, flaps: 0 };
                run(model, &arrivals(rate, spread, seed), replicas.div_ceil(3), seed, &mut rule);
                counts.resize(counts.len().max(rule.flaps + 1), 0);
                counts[rule.flaps] += 1;
            }
        }
    }
    let runs: usize = counts.iter().sum();
    println!("{name}: of {runs} loads held for ten minutes so many flapped 0, 1, ... times: {counts:?}");
    counts
}

/// As `weir demo` and tests make a load: evenly spread, of requests that take equally long.
#[test]
fn an_even_load_that_is_held_never_flaps() {
    let even = Model { service_s: 0.05, cv: 0.1, slots: 2, cold_start_s: 0.5, ..MODEL };
    assert_eq!(flaps("even, equal requests", even, Spread::Even).len(), 1);
}

/// Where both the arrivals and the work are up to chance nobody can tell at once what is needed: a number that was tried
/// and did not do is not tried over and over.
#[test]
fn a_load_that_is_held_but_for_chance_hardly_flaps() {
    let chance = flaps("by chance", MODEL, Spread::Chance);
    assert!(chance.len() <= 3 && 2 * chance[0] > chance[1..].iter().sum(), "{chance:?}");
    let even = flaps("evenly, unequal requests", MODEL, Spread::Even);
    assert!(even.len() <= 3 && even[0] > even[1..].iter().sum(), "{even:?}");
}
