//! What others see of the autoscaler: the newest decision for each service.

use crate::control::autoscale::policy::{Because, Recommendation};
use crate::model::ServiceName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A recommendation and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Everything that led to the number.
    pub made: Recommendation,
    /// Replicas that were wanted before it.
    pub wanted: u32,
    /// Replicas that served.
    pub ready: u32,
    /// Requests that one serves at once.
    pub slots: u32,
    /// Whether a number by hand counts instead.
    pub pinned: bool,
    /// Whether the number changed what is wanted.
    pub applied: bool,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
}

/// The decisions for a service: the newest, and the newest that changed something.
#[derive(Debug, Clone, PartialEq)]
pub struct Decisions {
    /// The newest.
    pub newest: Decision,
    /// The newest that changed what is wanted.
    pub changed: Option<Decision>,
    /// How often a replica was ordered because something waited while there was none.
    pub wakes: u64,
}

/// Reads decisions; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Handle {
    /// Short lock: one insertion for each scaled service and second, one copy for a reader.
    decisions: Arc<Mutex<BTreeMap<ServiceName, Decisions>>>,
}

impl Handle {
    /// Returns the decisions for a service; `None` when it is not scaled, or was not looked at yet.
    pub fn of(&self, service: &ServiceName) -> Option<Decisions> {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    /// Returns the decisions for each service.
    pub fn all(&self) -> Vec<(ServiceName, Decisions)> {
        let decisions = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        decisions.iter().map(|(name, decisions)| (name.clone(), decisions.clone())).collect()
    }

    pub(super) fn note(&self, service: &ServiceName, decision: Decision) {
        let mut all = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, wakes) = all.get(service).map_or((None, 0), |known| (known.changed.clone(), known.wakes));
        let wakes = wakes + u64::from(decision.applied && decision.made.because == Because::Wake);
        let changed = if decision.applied { Some(decision.clone()) } else { before };
        all.insert(service.clone(), Decisions { newest: decision, changed, wakes });
    }

    pub(super) fn retain(&self, stays: impl Fn(&ServiceName) -> bool) {
        self.decisions.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| stays(name));
    }
}
