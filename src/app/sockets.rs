//! The listening sockets: made once, lent to workers, held here until the end.

use crate::admin;
use crate::app::RunOptions;
use crate::dns;
use crate::model::ListenerSpec;
use crate::net::{BindError, bind};
use crate::proxy::Lent;
use anyhow::Context;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Binds each listener once for each worker; returns the sockets by worker. The listeners' addresses are made exact.
///
/// # Errors
/// [`BindError`] of the first address that is taken, unless free ports are allowed instead.
pub(super) fn lend(
    listeners: &mut [ListenerSpec],
    workers: usize,
    options: RunOptions,
) -> anyhow::Result<Vec<Vec<Lent>>> {
    let mut by_worker: Vec<Vec<Lent>> = (0..workers).map(|_| Vec::new()).collect();
    for listener in listeners {
        let sockets = match bind(listener.address, workers) {
            Err(error) if options.free_ports && is_taken(&error) => free(listener.address, workers, &error),
            bound => bound,
        };
        let sockets: Vec<TcpListener> = sockets.with_context(|| format!("listener {}", listener.name))?;
        if let Some(first) = sockets.first() {
            listener.address = first.local_addr().context("failed to read a listener's address")?;
        }
        tracing::info!(listener = %listener.name, address = %listener.address, "listening");
        for (lent, socket) in by_worker.iter_mut().zip(sockets) {
            lent.push(Lent {
                name: listener.name.clone(),
                protocol: listener.protocol.clone(),
                trusted: listener.trusted_proxies.clone(),
                socket,
            });
        }
    }
    Ok(by_worker)
}

fn is_taken(error: &BindError) -> bool {
    error.source.kind() == io::ErrorKind::AddrInUse
}

fn free(address: SocketAddr, workers: usize, taken: &BindError) -> Result<Vec<TcpListener>, BindError> {
    let sockets = bind(SocketAddr::new(address.ip(), 0), workers)?;
    let instead = sockets.first().and_then(|s| s.local_addr().ok());
    tracing::warn!("{taken}; taking {} instead", instead.map(|a| a.to_string()).unwrap_or_default());
    Ok(sockets)
}

/// Opens the admin API's sockets; takes a free port where that is allowed and the wanted one is taken.
///
/// # Errors
/// When an address or the Unix socket cannot be bound.
pub(super) fn admin(wanted: &mut admin::Options, options: RunOptions) -> anyhow::Result<admin::Listeners> {
    match admin::bind(wanted) {
        Err(error) if options.free_ports && wanted.listen.is_some() => {
            let address = wanted.listen.map(|a| SocketAddr::new(a.ip(), 0));
            let doors = admin::bind(&admin::Options { listen: address, ..wanted.clone() }).context("admin")?;
            tracing::warn!("{error}; taking a free port instead");
            wanted.listen = address;
            Ok(doors)
        }
        bound => bound.context("admin"),
    }
}

/// Binds the DNS addresses; takes a free port where that is allowed and the wanted one is taken.
///
/// # Errors
/// When an address cannot be bound.
pub(super) fn dns(wanted: &mut dns::Options, options: RunOptions) -> anyhow::Result<dns::Sockets> {
    match dns::bind(wanted) {
        Err(error) if options.free_ports => {
            let free = |address: &SocketAddr| SocketAddr::new(address.ip(), 0);
            let listen = wanted.listen.iter().map(free).collect();
            let sockets = dns::bind(&dns::Options { listen, ..wanted.clone() }).context("dns")?;
            tracing::warn!("{error}; taking {:?} instead", sockets.addresses());
            Ok(sockets)
        }
        bound => bound.context("dns"),
    }
}
