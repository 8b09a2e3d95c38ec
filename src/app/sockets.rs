//! The listening sockets: made once, lent to workers, held here until the end.

use crate::admin;
use crate::app::RunOptions;
use crate::dns;
use crate::net::{BindError, bind, bind_more};
use anyhow::Context;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Binds an address once for each worker; takes a free port where that is allowed and the wanted one is taken.
///
/// # Errors
/// When the address cannot be bound.
pub(super) fn open(address: SocketAddr, workers: usize, options: RunOptions) -> Result<Vec<TcpListener>, BindError> {
    match bind(address, workers) {
        Err(error) if options.free_ports && is_taken(&error) => free(address, workers, &error),
        bound => bound,
    }
}

/// Binds further sockets to an address that this process holds.
///
/// # Errors
/// When the address cannot be bound.
pub(super) fn more(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    bind_more(address, count)
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
