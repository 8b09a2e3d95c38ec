//! Whose a service is that the table in use has: what the configuration or somebody else defines here stays theirs.

use crate::control::feed::table::FedTable;
use crate::control::registry::Handle;
use crate::model::{ServiceName, ServiceSpec};
use std::sync::Arc;

/// Whose a service of the table is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// There is none.
    Nobodys,
    /// As the table said.
    Own,
    /// Defined by the configuration or by somebody else.
    Anothers,
}

/// Returns whose each of these services is here, of which some were brought in from a table; one question to the registry for all
/// of them. Nothing when the registry ended.
pub(super) async fn whose(
    registry: &Handle,
    imported: &FedTable,
    names: Vec<ServiceName>,
) -> Vec<(ServiceName, Whose)> {
    if names.is_empty() {
        return Vec::new();
    }
    let there = registry.definitions(names.clone()).await;
    let of = |(name, there): (ServiceName, Option<Arc<ServiceSpec>>)| {
        let own = imported.services.get(&name).map(|own| &own.spec);
        let whose = match there {
            None => Whose::Nobodys,
            Some(there) if own.is_some_and(|own| Arc::ptr_eq(own, &there) || *own == there) => Whose::Own,
            Some(_) => Whose::Anothers,
        };
        (name, whose)
    };
    names.into_iter().zip(there).map(of).collect()
}
