//! The sharded name table with pre-encoded DNS records.

use crate::table::ServiceChange;

/// The name table of a snapshot; unchanged shards are shared.
#[derive(Debug, Clone, Default)]
pub struct Names {}

impl Names {
    /// Returns the table after some services changed: pairs of the service before and after.
    pub fn apply(&self, _changes: &[ServiceChange]) -> Self {
        self.clone()
    }
}
