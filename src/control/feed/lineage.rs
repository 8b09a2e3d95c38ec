//! Which Weir this is to those that follow it, and by which Weirs its table came here: so that nobody follows itself.

use crate::rng::Rng;
use std::sync::{Arc, Mutex, PoisonError};

/// What a Weir is called in its feed, and those whose table it uses, the nearest first; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Lineage {
    own: Arc<str>,
    before: Arc<Mutex<Arc<[String]>>>,
}

impl Default for Lineage {
    /// Another one after each start.
    fn default() -> Self {
        Self { own: format!("{:016x}", Rng::from_os().next_u64()).into(), before: Arc::default() }
    }
}

impl Lineage {
    /// Returns what this Weir is called; its generations are counted in that.
    pub(super) fn own(&self) -> &Arc<str> {
        &self.own
    }

    /// Returns by which Weirs the table in use came here.
    pub(super) fn before(&self) -> Arc<[String]> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes by which Weirs the table in use came here.
    pub(super) fn follow(&self, before: Arc<[String]>) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }
}
