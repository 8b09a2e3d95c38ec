//! The services' own addresses: the route that leads them here, and the listeners on them.
//!
//! The listeners follow the table: what a service declares is bound when the service comes, changed with its definition,
//! closed when it goes. They are ordinary listeners, so picking, drain and hold are those of every other.

use crate::app::live::Live;
use crate::control::events::{EventKind, Events};
use crate::lifecycle::{Phase, Signal};
use crate::model::{ListenerProtocol, ListenerSpec};
use crate::net::{RouteError, Routed, add_local_route, remove_local_route};
use crate::table::{Service, Snapshot, Table};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// What could not be bound is tried again after this: somebody may have let go of it.
const RETRY: Duration = Duration::from_secs(5);

/// The local route; removed when dropped, but what was found stays until [`Route::own`].
#[derive(Debug)]
pub(super) struct Route {
    range: (Ipv4Addr, u8),
    is_own: bool,
}

impl Route {
    /// Makes the route of a range.
    ///
    /// # Errors
    /// [`RouteError`], with what to do.
    pub(super) fn add(range: (Ipv4Addr, u8)) -> Result<Self, RouteError> {
        let (network, prefix) = range;
        let routed = add_local_route(network, prefix)?;
        let found =
            if routed == Routed::Found { "; the route was there: left behind, or of a Weir that ends" } else { "" };
        tracing::info!("services have their addresses in {network}/{prefix}{found}");
        Ok(Self { range, is_own: routed == Routed::Made })
    }

    /// Takes the route over for good: whoever made it does not serve any more.
    pub(super) fn own(&mut self) {
        self.is_own = true;
    }

    /// Leaves it to the process that goes on.
    pub(super) fn leave(mut self) {
        self.is_own = false;
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        if self.is_own {
            remove(self.range);
        }
    }
}

/// Removes the route of a range, which may be gone.
pub(super) fn remove((network, prefix): (Ipv4Addr, u8)) {
    if let Err(error) = remove_local_route(network, prefix) {
        tracing::warn!(%error, "failed to remove a route");
    }
}

/// Returns the listeners that a table asks for, in the order of their names.
pub(super) fn listeners(snapshot: &Snapshot) -> Vec<ListenerSpec> {
    let mut all: Vec<ListenerSpec> = snapshot.services.iter().flat_map(|service| of(service)).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

fn of(service: &Service) -> impl Iterator<Item = ListenerSpec> + '_ {
    let served = service.address.into_iter().flat_map(|address| service.spec.served().map(move |port| (address, port)));
    served.filter_map(|(address, (port, number))| {
        let declared = service.spec.ports.get(port)?;
        let name = service.name().clone();
        Some(ListenerSpec {
            name: format!("{name}:{}", declared.name).into(),
            address: SocketAddr::new(address, number),
            protocol: match declared.http {
                true => ListenerProtocol::Service { service: name, port },
                false => ListenerProtocol::Tcp { service: name, port },
            },
            trusted_proxies: Vec::new(),
            tls: None,
            redirect_https: false,
            admission: Default::default(),
        })
    })
}

/// Keeps the listeners as the table wants them, until the end of Weir begins.
pub(super) async fn follow(live: Live, table: Table, events: Events, mut signal: Signal) {
    let mut feed = events.subscribe();
    // Something may have changed since those of the start were bound.
    let mut is_whole = live.serve(listeners(&table.load())).await;
    loop {
        let is_due = tokio::select! {
            event = feed.recv() => match event {
                Ok(event) => matches!(event.kind, EventKind::ServiceDefined | EventKind::ServiceRemoved),
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(RETRY), if !is_whole => true,
            () = signal.reached(Phase::Draining) => return,
        };
        if is_due {
            is_whole = live.serve(listeners(&table.load())).await;
        }
    }
}
