//! The composition root: the only code that knows both planes.
//!
//! [`run`] turns a loaded configuration into a running Weir and returns when it has ended. [`wire`] makes the parts and
//! hands each what it needs; [`shutdown`] turns signals into an ordered drain with a deadline. [`keep`] is the parent process
//! that holds the sockets.

mod addresses;
mod asks;
mod beside;
mod companion;
mod containers;
mod keeper;
mod keyring;
mod last_good;
mod live;
mod names;
mod obtain;
mod reload;
mod shutdown;
mod sources;
mod spare;
mod start;
mod tickets;
mod upgrade;
mod watch;
mod wire;

pub use keeper::keep;
pub use keyring::{Keyring, Prepared, check as check_certificates};
pub use live::{AtEnd, Change, Live, Sockets};
pub use wire::names_are_taken;

pub use crate::control::plane::STORE_FILE;
pub use crate::control::store::{OpenError as StoreFailure, Report as StoreReport, check as check_store};

use crate::app::asks::Asks;
use crate::app::last_good::LastGood;
use crate::app::start::{Beginning, Refused};
use crate::app::watch::Watch;
use crate::clock;
use crate::config::{Environment, Flags, Reader, Source, Text};
use crate::control::configuration::{Cause, Failure, Status};
use crate::net::{Binder, Link, Order};
use crate::sys::descriptors;
use crate::telemetry;
use anyhow::Context;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest wait for what a start has begun that did not come to its end.
const GIVE_UP: Duration = Duration::from_secs(1);

/// What the command line adds to the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Where an address is taken, say by whom and take a free port: the demo.
    pub free_ports: bool,
}

/// What runs beside Weir and ends with it.
#[derive(Debug, Clone, Default)]
pub struct Beside {
    /// Program and arguments; `None`: nothing.
    pub command: Option<Vec<OsString>>,
}

/// Where the configuration came from, and comes from again when it changes.
#[derive(Debug)]
struct Origin {
    reader: Reader,
    /// What is in use.
    text: Text,
    /// Why that is not what the file says; `None`: it is.
    refused: Option<Refused>,
    watch: Option<Watch>,
    last_good: LastGood,
}

impl Origin {
    fn status(&self, generation: u64) -> Status {
        let now_ms = clock::unix_ms();
        let failure = self.refused.as_ref().map(|refused| Failure {
            at_unix_ms: now_ms,
            cause: Cause::Start,
            hash: refused.hash.clone(),
            faults: reload::faults(&refused.error),
        });
        Status {
            file: self.reader.path().map(|path| path.display().to_string()),
            hash: self.text.hash(),
            since_unix_ms: now_ms,
            cause: if failure.is_some() { Cause::LastGood } else { Cause::Start },
            generation,
            watch: self.watch.as_ref().map_or("none", Watch::kind),
            failure,
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
    /// The program beside it ended, with this exit code; or a signal came before it was started.
    Companion(u8),
}

/// Runs Weir until a signal ends it; with a link to the keeper, on the keeper's sockets. Blocks.
///
/// A file that is refused is no reason to end where the last good configuration is kept: that is served then.
///
/// # Errors
/// [`crate::config::ConfigError`] when the configuration is refused and there is no earlier one; when an address cannot be
/// bound, a thread cannot be started, or the state directory cannot be written.
pub fn run(source: &Source, flags: &Flags, options: RunOptions, keeper: Option<OwnedFd>) -> anyhow::Result<Ended> {
    start(source, flags, options, (keeper, Beside::default()))
}

/// Runs Weir beside a program, in one process. Blocks.
///
/// # Errors
/// As [`run`], and when the program cannot be started.
pub fn run_beside(source: &Source, flags: &Flags, options: RunOptions, beside: Beside) -> anyhow::Result<Ended> {
    start(source, flags, options, (None, beside))
}

fn start(
    source: &Source,
    flags: &Flags,
    options: RunOptions,
    (keeper, beside): (Option<OwnedFd>, Beside),
) -> anyhow::Result<Ended> {
    let raised = descriptors::raise();
    let (link, mut orders) = keeper.map(Link::open).transpose().context("failed to listen to the keeper")?.unzip();
    let mut beginning = start::read(source, Environment::current(), flags, link.as_ref())?;
    telemetry::init(&beginning.loaded.log);
    if let Err(error) = raised {
        tracing::warn!(%error, "the soft limit of descriptors stays as it is");
    }
    loop {
        let (reader, text) = (beginning.reader.clone(), beginning.text.clone());
        let ended = attempt(beginning, options, (link.clone(), &beside), &mut orders);
        let (Err(error), Some(link)) = (&ended, &link) else { return ended };
        match start::instead(&reader, &text, error, link) {
            Some(instead) => beginning = instead,
            None => return ended,
        }
    }
}

/// Runs with one configuration; returns an error only when it did not come to serve.
fn attempt(
    beginning: Beginning,
    options: RunOptions,
    (link, beside): (Option<Link>, &Beside),
    orders: &mut Option<mpsc::Receiver<Order>>,
) -> anyhow::Result<Ended> {
    let Beginning { reader, text, loaded, refused } = beginning;
    let binder = link.clone().map_or(Binder::Local, Binder::Kept);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("failed to start the control runtime")?;
    let drain = loaded.proxy.timeouts.drain;
    let last_good = LastGood::new(link.clone(), &reader, &loaded.control.state);
    // What changes from now on is noticed. What was read before it is looked at again below.
    let watch = reader.path().map(Watch::new);
    let origin = Origin { reader, text: text.clone(), refused, watch, last_good: last_good.clone() };
    let ended = runtime.block_on(async {
        let mut asks = Asks::new(orders.take())?;
        let parts = tokio::select! {
            parts = wire::build(loaded, origin, options, binder) => parts,
            // What runs beside it has not run.
            _ = asks.ending() => {
                let code = asks.code();
                return Ok(beside.command.as_ref().map_or(Ended::Drained, |_| Ended::Companion(code)));
            }
        };
        match parts {
            Ok(parts) => {
                last_good.keep(&text).await;
                shutdown::serve(parts, asks, link, (drain, beside)).await
            }
            Err(error) => {
                *orders = asks.release();
                Err(error)
            }
        }
    });
    match &ended {
        Ok(_) => runtime.shutdown_background(),
        // Another attempt may follow: what was begun, such as the store, is given up first.
        Err(_) => runtime.shutdown_timeout(GIVE_UP),
    }
    ended
}
