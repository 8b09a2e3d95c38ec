//! The composition root: the only code that knows both planes.
//!
//! [`run`] turns a loaded configuration into a running Weir and returns when it has ended. [`wire`] makes the parts and
//! hands each what it needs; [`shutdown`] turns signals into an ordered drain with a deadline.

mod live;
mod shutdown;
mod sockets;
mod wire;

pub use live::{Change, Live, Sockets};

use crate::config::Loaded;
use crate::telemetry;
use anyhow::Context;

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where an address is taken, say by whom and take a free port: the demo.
    pub free_ports: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was drained.
    Drained,
    /// The deadline passed or a second signal came: something was cut off.
    Forced,
}

/// Runs Weir until a signal ends it. Blocks.
///
/// # Errors
/// When an address cannot be bound, a thread cannot be started, or the state directory cannot be written.
pub fn run(loaded: Loaded, options: RunOptions) -> anyhow::Result<Ended> {
    telemetry::init(&loaded.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("failed to start the control runtime")?;
    let drain = loaded.proxy.timeouts.drain;
    let parts = runtime.block_on(wire::build(loaded, options))?;
    let ended = runtime.block_on(shutdown::serve(parts, drain))?;
    runtime.shutdown_background();
    Ok(ended)
}
