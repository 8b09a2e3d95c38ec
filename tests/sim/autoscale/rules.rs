//! The rules that are compared: Weir's own, those of two well-known autoscalers, and an oracle.

use crate::autoscale::queue::{Model, Rule};
use std::collections::VecDeque;
use std::time::Duration;
use weir::control::autoscale::{Demand, Fleet, Load, Scaler, staff};
use weir::model::{Objective, ScalePolicy, ScaleSpec};

/// Most replicas of any rule.
pub(crate) const MAX: u32 = 1000;
/// What both proportional rules aim at: 70 % of what a replica can.
const TARGET: f64 = 0.7;

/// Weir's defaults with the model's objective.
pub(crate) fn defaults(model: &Model) -> ScaleSpec {
    ScaleSpec {
        min: 1,
        max: MAX,
        policy: ScalePolicy::Objective,
        objective: Objective { quantile_ppm: 990_000, latency: Duration::from_secs_f64(model.objective_s) },
        stabilization_window: Duration::from_secs(20),
        max_stabilization_window: Duration::from_secs(300),
        zero_after: None,
        wake_timeout: Duration::from_secs(30),
    }
}

/// Weir's autoscaler.
pub(crate) struct Own {
    spec: ScaleSpec,
    scaler: Scaler,
}

impl Own {
    pub(crate) fn new(model: &Model, first: u32) -> Self {
        let spec = defaults(model);
        Self { scaler: Scaler::new(&spec, first, 1_000_000), spec }
    }
}

impl Rule for Own {
    fn wanted(&mut self, load: &Load, fleet: &Fleet, now_ms: u64) -> u32 {
        self.scaler.recommend(&self.spec, load, fleet, now_ms).replicas
    }
}

/// The Kubernetes Horizontal Pod Autoscaler, version 2, with its defaults, on utilization.
#[derive(Default)]
pub(crate) struct Hpa {
    busy: f64,
    ready: f64,
    samples: f64,
    /// (milliseconds, recommendation) of the last five minutes.
    recommended: VecDeque<(u64, u32)>,
    wanted: u32,
}

impl Rule for Hpa {
    fn wanted(&mut self, load: &Load, fleet: &Fleet, now_ms: u64) -> u32 {
        self.busy += f64::from(load.in_service) / f64::from(fleet.slots);
        self.ready += f64::from(fleet.ready);
        self.samples += 1.0;
        if !(now_ms / 1000).is_multiple_of(15) {
            return if self.wanted == 0 { fleet.wanted } else { self.wanted };
        }
        let utilization = (self.busy / self.ready.max(1e-9)).min(1.0);
        (self.busy, self.ready, self.samples) = (0.0, 0.0, 0.0);
        let (ready, all) = (f64::from(fleet.ready), f64::from(fleet.wanted));
        let ratio = utilization / TARGET;
        let mut desired = fleet.wanted;
        if (ratio - 1.0).abs() > 0.1 {
            if ratio > 1.0 && all > ready {
                // Pods that are not ready count as idle when scaling up; a change of direction after that is none.
                let with_idle = utilization * ready / all / TARGET;
                if with_idle > 1.1 {
                    desired = (with_idle * all).ceil() as u32;
                }
            } else {
                desired = (ratio * ready).ceil() as u32;
            }
        }
        self.recommended.push_back((now_ms, desired));
        self.recommended.retain(|(at, _)| now_ms - at <= 300_000);
        let highest = self.recommended.iter().map(|(_, n)| *n).max().unwrap_or(desired);
        let desired = if desired < fleet.wanted { highest.min(fleet.wanted) } else { desired };
        let limit = (2 * fleet.wanted).max(fleet.wanted + 4);
        self.wanted = desired.clamp(1, limit.min(MAX));
        self.wanted
    }
}

/// The Knative Pod Autoscaler with its defaults, on concurrency.
#[derive(Default)]
pub(crate) struct Kpa {
    /// Concurrency of the last minute, by second; what waits counts, as it does there.
    concurrency: VecDeque<f64>,
    panic_until_ms: u64,
    panic_most: u32,
    wanted: u32,
}

impl Rule for Kpa {
    fn wanted(&mut self, load: &Load, fleet: &Fleet, now_ms: u64) -> u32 {
        self.concurrency.push_back(f64::from(load.in_service) + f64::from(load.queued));
        if self.concurrency.len() > 60 {
            self.concurrency.pop_front();
        }
        if !(now_ms / 1000).is_multiple_of(2) {
            return if self.wanted == 0 { fleet.wanted } else { self.wanted };
        }
        let target = TARGET * f64::from(fleet.slots);
        let mean = |n: usize| {
            let n = n.min(self.concurrency.len());
            self.concurrency.iter().rev().take(n).sum::<f64>() / n as f64
        };
        let ready = f64::from(fleet.ready.max(1));
        let bounded = |n: f64| n.ceil().clamp((ready / 2.0).floor(), (1000.0 * ready).ceil()).max(1.0) as u32;
        let (stable, panic) = (bounded(mean(60) / target), bounded(mean(6) / target));
        if f64::from(panic) / ready >= 2.0 {
            if now_ms > self.panic_until_ms {
                self.panic_most = 0;
            }
            self.panic_until_ms = now_ms + 60_000;
        }
        self.wanted = if now_ms <= self.panic_until_ms {
            self.panic_most = self.panic_most.max(panic.max(stable)).max(fleet.wanted.min(MAX));
            self.panic_most
        } else {
            stable
        };
        self.wanted = self.wanted.min(MAX);
        self.wanted
    }
}

/// Fewest replicas of each second that hold the objective at the rate of that second.
pub(crate) fn needed(model: &Model, rates: &[f64]) -> Vec<u32> {
    let need = |rate: &f64| {
        let demand = Demand {
            rate: *rate,
            service_s: model.service_s,
            cv: model.cv,
            wait_s: model.objective_s - 2.0 * model.service_s,
            late_share: 0.004,
        };
        staff(&demand, model.slots, MAX).max(1)
    };
    rates.iter().map(need).collect()
}

/// Knows the future: what is needed within a cold start is ordered now, and nothing is kept that is not needed by then.
///
/// It pays for a start as everybody does, from the order on; no rule that serves every second in time can pay less.
#[derive(Clone)]
pub(crate) struct Oracle {
    wanted: Vec<u32>,
}

impl Oracle {
    pub(crate) fn new(model: &Model, needed: &[u32]) -> Self {
        let ahead = (1.1 * model.cold_start_s).ceil() as usize + 1;
        let most =
            |second: usize| needed[second..(second + ahead).min(needed.len())].iter().copied().max().unwrap_or(1);
        Self { wanted: (0..needed.len()).map(most).collect() }
    }

    /// What it pays: replicas times seconds.
    pub(crate) fn replica_s(&self) -> f64 {
        self.wanted.iter().map(|&wanted| f64::from(wanted)).sum()
    }

    /// Replicas that it begins with.
    pub(crate) fn first(&self) -> u32 {
        self.wanted.first().copied().unwrap_or(1)
    }
}

impl Rule for Oracle {
    fn wanted(&mut self, _: &Load, _: &Fleet, now_ms: u64) -> u32 {
        // Asked at the end of a second for the next.
        let second = (now_ms / 1000 - 1000) as usize;
        self.wanted.get(second).or(self.wanted.last()).copied().unwrap_or(1)
    }
}
