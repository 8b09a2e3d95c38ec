//! What a worker keeps for itself about each service, by slot: balancer state, counters, retry budget.

use crate::balance::Local;
use crate::rng::Rng;
use crate::table::Service;
use crate::telemetry::{ServiceCounters, Shard};
use std::sync::Arc;

/// Share of a retry that each request earns: 20 %.
const EARNED: f64 = 0.2;
/// Retries that are earned each second whatever the load.
const EARNED_PER_SECOND: f64 = 10.0;
/// Retries that can be saved up: a second of a busy service.
const MAX_SAVED: f64 = 1000.0;

/// Bounds retries to a share of the requests (details: 20 % + 10/s).
#[derive(Debug)]
pub(crate) struct RetryBudget {
    saved: f64,
    at_ms: u64,
}

impl RetryBudget {
    fn new(now_ms: u64) -> Self {
        Self { saved: EARNED_PER_SECOND, at_ms: now_ms }
    }

    /// Counts a request.
    pub(crate) fn earn(&mut self) {
        self.saved = (self.saved + EARNED).min(MAX_SAVED);
    }

    /// Returns whether the budget has a retry left.
    pub(crate) fn affords(&mut self, now_ms: u64) -> bool {
        let seconds = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.at_ms = now_ms;
        self.saved = (self.saved + seconds * EARNED_PER_SECOND).min(MAX_SAVED);
        self.saved >= 1.0
    }

    /// Takes one retry from the budget, if it has one.
    pub(crate) fn allow(&mut self, now_ms: u64) -> bool {
        let allowed = self.affords(now_ms);
        self.saved -= f64::from(u8::from(allowed));
        allowed
    }
}

/// A worker's own state for one service.
#[derive(Debug)]
pub(crate) struct LocalService {
    /// The service as this worker last used it; also proof that the slot was not reused.
    pub(crate) service: Arc<Service>,
    pub(crate) balance: Local,
    pub(crate) counters: Arc<ServiceCounters>,
    pub(crate) budget: RetryBudget,
}

/// A worker's own state for all services it has met.
#[derive(Debug, Default)]
pub(crate) struct Locals {
    by_slot: Vec<Option<Box<LocalService>>>,
}

impl Locals {
    /// Returns the state for a service, following its changes; allocates only when the service is met or changed.
    pub(crate) fn enter(
        &mut self,
        service: &Arc<Service>,
        shard: &Shard,
        rng: &mut Rng,
        now_ms: u64,
    ) -> &mut LocalService {
        if self.by_slot.len() <= service.slot {
            self.by_slot.resize_with(service.slot + 1, || None);
        }
        let fresh = || {
            Box::new(LocalService {
                service: service.clone(),
                balance: Local::default(),
                counters: shard.service(service.name().as_str()),
                budget: RetryBudget::new(now_ms),
            })
        };
        // `resize_with` made the slot; the fallback keeps this total without a panic.
        let index = service.slot.min(self.by_slot.len().saturating_sub(1));
        let place = &mut self.by_slot[index];
        let local = place.get_or_insert_with(fresh);
        if !Arc::ptr_eq(&local.service.stats, &service.stats) {
            *local = fresh();
        }
        if !Arc::ptr_eq(&local.service, service) || local.balance.is_new() {
            local.balance.follow(&service.candidates, rng);
            local.service = service.clone();
        }
        local
    }

    /// Returns the state for a slot, if this worker met the service.
    pub(crate) fn at(&mut self, slot: usize) -> Option<&mut LocalService> {
        self.by_slot.get_mut(slot)?.as_deref_mut()
    }

    /// Exports how picking compares the endpoints of each service, for people.
    pub(crate) fn export(&self, now_ms: u64) {
        for local in self.by_slot.iter().flatten() {
            local.balance.export(&local.service.candidates, now_ms);
        }
    }

    /// Forgets services that are gone.
    pub(crate) fn retain(&mut self, stays: impl Fn(&LocalService) -> bool) {
        for place in &mut self.by_slot {
            if place.as_ref().is_some_and(|local| !stays(local)) {
                *place = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RetryBudget;

    #[test]
    fn the_budget_is_a_fifth_of_the_requests_and_ten_a_second() {
        let mut budget = RetryBudget::new(1000);
        let start = (0..100).filter(|_| budget.allow(1000)).count();
        assert_eq!(start, 10);
        for _ in 0..100 {
            budget.earn();
        }
        assert!((19..=20).contains(&(0..100).filter(|_| budget.allow(1000)).count()));
        assert_eq!((0..100).filter(|_| budget.allow(2000)).count(), 10);
    }
}
