//! How the sources of the table stand, for people, metrics and whoever waits for a first table.

use crate::clock;
use crate::control::feed::lineage::Lineage;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Longest wait until the other Weirs are told of the end.
const LEAVE: Duration = Duration::from_millis(500);

/// How a source stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// Its address, or its file.
    pub name: String,
    /// Whether its table is in use.
    pub used: bool,
    /// Whether it lives.
    pub live: bool,
    /// The generation of its last table; 0: none.
    pub generation: u64,
    /// Why it does not live.
    pub problem: Option<String>,
    /// When that changed, in milliseconds of `clock::now_ms`.
    pub since_ms: u64,
    /// How often it was lost, by reason, in the order of `Refusal::REASONS`.
    pub losses: [u64; crate::control::feed::Refusal::REASONS.len()],
}

/// What is known of the sources; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    status: Arc<Mutex<Vec<SourceStatus>>>,
    /// Told when a first table is in use.
    pub(super) first: Arc<Notify>,
    /// Tells the subscriptions that this Weir ends.
    pub(super) leaving: Arc<watch::Sender<bool>>,
    lineage: Lineage,
    is_kept: bool,
}

impl Sources {
    /// Knows of none yet; `is_kept`: the table that was kept is in use from the start.
    pub(super) fn new(is_kept: bool) -> Self {
        Self { is_kept, ..Self::default() }
    }

    /// Returns whether the table that was kept was in use from the start.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Returns by which Weirs the table in use came here.
    pub(super) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Returns how each source stands, in the order of preference.
    pub fn status(&self) -> Vec<SourceStatus> {
        self.lock().clone()
    }

    /// Tells the other Weirs that this one uses nothing any more, so that they need not wait for it; takes half a second at most.
    pub async fn leave(&self) {
        self.leaving.send_replace(true);
        // Whoever is not told by then finds out by the silence.
        let _ = timeout(LEAVE, self.leaving.closed()).await;
    }

    /// Waits until a table is in use, at most `limit`; returns whether one is.
    pub async fn first(&self, limit: Duration) -> bool {
        let first = self.first.notified();
        self.status().iter().any(|source| source.used) || timeout(limit, first).await.is_ok()
    }

    /// Adds one that was not heard yet.
    pub(super) fn add(&self, name: String) {
        self.lock().push(SourceStatus {
            name,
            used: false,
            live: false,
            generation: 0,
            problem: None,
            since_ms: clock::now_ms(),
            losses: Default::default(),
        });
    }

    /// Returns the name of a source.
    pub(super) fn name(&self, index: usize) -> String {
        self.lock().get(index).map(|status| status.name.clone()).unwrap_or_default()
    }

    /// Changes what is shown of a source.
    pub(super) fn show(&self, index: usize, change: impl FnOnce(&mut SourceStatus)) {
        if let Some(status) = self.lock().get_mut(index) {
            change(status);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SourceStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
