//! Which service has an address: an endpoint's, or the service's own.

use crate::table::Snapshot;
use std::collections::HashMap;
use std::net::SocketAddr;

/// Which addresses lead to which service and port, as of one table.
#[derive(Debug, Default)]
pub(crate) struct Known {
    generation: u64,
    addresses: HashMap<SocketAddr, (usize, usize)>,
}

impl Known {
    /// Returns slot and port of the service that has an address.
    pub(crate) fn find(&mut self, snapshot: &Snapshot, address: SocketAddr) -> Option<(usize, usize)> {
        if self.generation != snapshot.generation {
            self.generation = snapshot.generation;
            self.addresses = addresses(snapshot);
        }
        self.addresses.get(&address).copied()
    }
}

fn addresses(snapshot: &Snapshot) -> HashMap<SocketAddr, (usize, usize)> {
    let mut known = HashMap::new();
    let mut services: Vec<_> = snapshot.services.iter().collect();
    // Where two have an address the first by name has it.
    services.sort_by(|one, other| one.name().cmp(other.name()));
    for service in services {
        for (port, number) in service.spec.served() {
            if let Some(ip) = service.address {
                known.entry(SocketAddr::new(ip, number)).or_insert((service.slot, port));
            }
        }
        for endpoint in &service.endpoints {
            for port in 0..service.spec.ports.len() {
                if let Some(address) = endpoint.socket(port) {
                    known.entry(address).or_insert((service.slot, port));
                }
            }
        }
    }
    known
}
