//! Names for containers: the DNS server listens on the gateway of each of the engine's bridges.

use crate::control::DockerOptions;
use crate::control::runtime::docker::{Bridge, follow_bridges};
use crate::dns::{Containers, Gateway};
use crate::lifecycle::{Phase, Signal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait at the start for the engine's list: later ones are bound when they are known.
const FIRST_LIST: Duration = Duration::from_millis(500);
/// What could not be bound is tried again after this: somebody may have let go of it.
const RETRY: Duration = Duration::from_secs(5);

/// Listens on the gateways, from now on and as they come and go, until the end of Weir begins.
pub(super) async fn start(mut containers: Containers, docker: &DockerOptions, signal: Signal) {
    let mut bridges = follow_bridges(docker);
    if docker.socket.exists() {
        // Before the keeper hears that this process is ready, and closes what it did not ask for.
        let _ = tokio::time::timeout(FIRST_LIST, bridges.wait_for(Option::is_some)).await;
    }
    let is_whole = set(&mut containers, &mut bridges);
    tokio::spawn(follow(containers, bridges, is_whole, signal));
}

fn set(containers: &mut Containers, bridges: &mut watch::Receiver<Option<Arc<[Bridge]>>>) -> bool {
    let known = bridges.borrow_and_update().clone().unwrap_or_default();
    let gateway = |bridge: &Bridge| Gateway { address: bridge.gateway, network: bridge.network };
    containers.set(&known.iter().map(gateway).collect::<Vec<_>>())
}

async fn follow(
    mut containers: Containers,
    mut bridges: watch::Receiver<Option<Arc<[Bridge]>>>,
    mut is_whole: bool,
    mut signal: Signal,
) {
    loop {
        tokio::select! {
            changed = bridges.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(RETRY), if !is_whole => {}
            () = signal.reached(Phase::Draining) => return,
        }
        is_whole = set(&mut containers, &mut bridges);
    }
}
