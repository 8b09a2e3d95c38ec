//! The composition root: the only code that knows both planes.
//!
//! [`run`] turns a loaded configuration into a running Weir and returns when it has ended. [`wire`] makes the parts and
//! hands each what it needs; [`shutdown`] turns signals into an ordered drain with a deadline. [`keep`] is the parent process
//! that holds the sockets.

mod asks;
mod keeper;
mod keyring;
mod live;
mod obtain;
mod reload;
mod shutdown;
mod upgrade;
mod watch;
mod wire;

pub use keeper::keep;
pub use keyring::{Keyring, Prepared, check as check_certificates};
pub use live::{AtEnd, Change, Live, Sockets};

use crate::app::asks::Asks;
use crate::app::watch::Watch;
use crate::clock;
use crate::config::{Loaded, Reader, Text};
use crate::control::configuration::{Cause, Status};
use crate::net::{Binder, Link};
use crate::telemetry;
use anyhow::Context;
use std::os::fd::OwnedFd;

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where an address is taken, say by whom and take a free port: the demo.
    pub free_ports: bool,
}

/// Where the configuration came from, and comes from again when it changes.
#[derive(Debug)]
pub struct Origin {
    reader: Reader,
    hash: String,
    watch: Option<Watch>,
}

impl Origin {
    /// Takes note of a text that was loaded, and begins to watch its file: what changes from now on is noticed.
    pub fn new(reader: Reader, text: &Text) -> Self {
        let watch = reader.path().map(Watch::new);
        Self { reader, hash: text.hash(), watch }
    }

    fn status(&self, generation: u64) -> Status {
        Status {
            file: self.reader.path().map(|path| path.display().to_string()),
            hash: self.hash.clone(),
            since_unix_ms: clock::unix_ms(),
            cause: Cause::Start,
            generation,
            watch: self.watch.as_ref().map_or("none", Watch::kind),
            failure: None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was drained.
    Drained,
    /// The deadline passed or a second signal came: something was cut off.
    Forced,
}

/// Runs Weir until a signal ends it; with a link to the keeper, on the keeper's sockets. Blocks.
///
/// # Errors
/// When an address cannot be bound, a thread cannot be started, or the state directory cannot be written.
pub fn run(loaded: Loaded, origin: Origin, options: RunOptions, keeper: Option<OwnedFd>) -> anyhow::Result<Ended> {
    telemetry::init(&loaded.log);
    let (link, orders) = keeper.map(Link::open).transpose().context("failed to listen to the keeper")?.unzip();
    let binder = link.clone().map_or(Binder::Local, Binder::Kept);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("failed to start the control runtime")?;
    let drain = loaded.proxy.timeouts.drain;
    let ended = runtime.block_on(async {
        let mut asks = Asks::new(orders)?;
        let parts = tokio::select! {
            parts = wire::build(loaded, origin, options, binder) => parts?,
            _ = asks.ending() => return Ok(Ended::Drained),
        };
        anyhow::Ok(shutdown::serve(parts, asks, link, drain).await)
    })?;
    runtime.shutdown_background();
    Ok(ended)
}
