//! Captured connections that speak HTTP, and so are served as at their service's own address: what they share.
//!
//! They belong to their listener and to their service: when one of these is removed, they end with their next response, as
//! connections of a removed listener do.

use crate::model::{ListenerProtocol, ListenerSpec, ServiceName};
use crate::proxy::entry::Entry;
use crate::table::Snapshot;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The entries of one worker that stand for a service at a listener that captures.
#[derive(Debug, Default)]
pub(crate) struct Apart(RefCell<Vec<Rc<Entry>>>);

impl Apart {
    /// Returns what connections to a service's port share that come through a listener.
    pub(crate) fn entry(&self, of: &Rc<Entry>, (service, port): (ServiceName, usize)) -> Rc<Entry> {
        let mut entries = self.0.borrow_mut();
        let protocol = ListenerProtocol::Service { service, port };
        let spec = ListenerSpec { protocol, ..ListenerSpec::clone(&of.spec()) };
        if let Some(known) = entries.iter().find(|entry| *entry.spec() == spec && entry.removed_since().is_none()) {
            return known.clone();
        }
        entries.retain(is_used);
        let entry = Rc::new(of.view(Arc::new(spec)));
        entries.push(entry.clone());
        entry
    }

    /// Follows the table; returns whether a service is gone that connections are open to, which must look at it.
    pub(crate) fn follow(&self, snapshot: &Snapshot, now_ms: u64) -> bool {
        let is_gone = |entry: &Entry| {
            let only = entry.only.borrow();
            let port = only.as_ref().and_then(|(name, port)| snapshot.services.get(name)?.spec.ports.get(*port));
            !port.is_some_and(|port| port.http)
        };
        let mut entries = self.0.borrow_mut();
        let before = entries.len();
        entries.retain(|entry| {
            let is_gone = is_gone(entry);
            if is_gone {
                entry.remove(now_ms);
            }
            !is_gone
        });
        let ended = entries.len() < before;
        entries.retain(is_used);
        ended
    }
}

/// Whether a connection has the entry.
fn is_used(entry: &Rc<Entry>) -> bool {
    Rc::strong_count(entry) > 1
}
