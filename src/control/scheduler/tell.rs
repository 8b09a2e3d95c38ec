//! What others are told of a service after each plan: the proxy whether to wait, the API how its rollout stands.

use crate::control::registry::{Contribution, Handle};
use crate::control::scheduler::Rollouts;
use crate::control::scheduler::service::Service;
use crate::model::ServiceName;
use crate::table::Snapshot;
use std::sync::Arc;
use tokio::sync::watch;

/// Tells the proxy whether a request for a service without a replica is to wait for one. Who waits when it is switched off
/// is refused at once. A service that the table does not show yet is told of later: something is planned for it then.
/// Returns whether that changed, so that other Weirs are to be told.
pub(super) fn proxy(snapshot: &Snapshot, service: &Service) -> bool {
    let Some(shown) = snapshot.services.get(service.name()) else { return false };
    let off = service.is_off();
    let is_news = shown.wake.set_off(off);
    if is_news && off {
        shown.stats.wake(usize::MAX);
    }
    is_news
}

/// Has the table published once more, so that other Weirs are told what changed of a service.
pub(super) fn others(registry: &Handle, name: &ServiceName) {
    let (registry, touch) = (registry.clone(), vec![name.clone()]);
    tokio::spawn(async move {
        // The registry is gone when Weir ends.
        let _ = registry.contribute(Contribution { touch, ..Contribution::default() }).await;
    });
}

/// Publishes how a service's rollout stands, when that changed.
pub(super) fn progress(told: &watch::Sender<Rollouts>, name: &ServiceName, service: Option<&Service>) {
    let progress = service.filter(|service| service.is_run()).map(Service::progress);
    told.send_if_modified(|all| {
        if all.get(name) == progress.as_ref() {
            return false;
        }
        match progress {
            Some(progress) => drop(Arc::make_mut(all).insert(name.clone(), progress)),
            None => drop(Arc::make_mut(all).remove(name)),
        }
        true
    });
}
