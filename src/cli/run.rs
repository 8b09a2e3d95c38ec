//! `weir run` and `weir demo`: load the configuration, then be Weir until a signal.

use crate::app::{self, Ended, RunOptions};
use crate::cli::args::{DemoArgs, KeeperArgs, RunArgs};
use crate::cli::check;
use crate::cli::failure::{Code, Failure};
use crate::config::{ConfigError, Flags, Source};
use crate::sys::signal;
use anyhow::{Context, Result};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

/// The demo's configuration, the same as `config/demo.toml`.
const DEMO: Source = Source::Text { name: "demo.toml", text: include_str!("../../config/demo.toml") };

/// Runs Weir with a configuration file.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    start(&Source::File(args.config.clone()), args.workers.workers, RunOptions { free_ports: false }, args.keeper)
}

/// Runs the demo; where a port is taken it takes a free one.
pub(super) fn demo(args: &DemoArgs) -> Result<ExitCode> {
    start(&DEMO, args.workers.workers, RunOptions { free_ports: true }, args.keeper)
}

fn start(source: &Source, workers: Option<u16>, options: RunOptions, keeper: KeeperArgs) -> Result<ExitCode> {
    let link = match (keeper.kept, keeper.no_keeper) {
        (true, _) => Some(kept().context("failed to reach the keeper")?),
        (false, true) => None,
        // The process that it starts reads the configuration.
        (false, false) => return app::keep().map(ExitCode::from),
    };
    let flags = Flags { workers: workers.map(usize::from) };
    match app::run(source, &flags, options, link) {
        Ok(Ended::Drained | Ended::Companion(_)) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Forced) => Err(Failure::new(Code::Failure, "stopped before everything was drained").into()),
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(refused) => Ok(check::complain(refused)),
            None => Err(error),
        },
    }
}

/// Becomes the process that serves: takes the link to the keeper from standard input.
fn kept() -> io::Result<OwnedFd> {
    // The keeper reads its signals from a descriptor and has them blocked.
    signal::unblock()?;
    // The binary was started by a descriptor: tools would show that instead of a name.
    let _ = std::fs::write("/proc/self/comm", "weir");
    let link = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(link)
}
