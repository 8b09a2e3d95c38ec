//! `weir run` and `weir demo`: load the configuration, then be Weir until a signal.

use crate::app::{self, Ended, Origin, RunOptions};
use crate::cli::args::{DemoArgs, RunArgs};
use crate::cli::check;
use crate::cli::failure::{Code, Failure};
use crate::config::{ConfigError, Environment, Flags, Reader, Source};
use anyhow::Result;
use std::process::ExitCode;

/// The demo's configuration, the same as `config/demo.toml`.
const DEMO: Source = Source::Text { name: "demo.toml", text: include_str!("../../config/demo.toml") };

/// Runs Weir with a configuration file.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    start(&Source::File(args.config.clone()), args.workers.workers, RunOptions { free_ports: false })
}

/// Runs the demo; where a port is taken it takes a free one.
pub(super) fn demo(args: &DemoArgs) -> Result<ExitCode> {
    start(&DEMO, args.workers.workers, RunOptions { free_ports: true })
}

fn start(source: &Source, workers: Option<u16>, options: RunOptions) -> Result<ExitCode> {
    let flags = Flags { workers: workers.map(usize::from) };
    let read = |reader: Reader| -> Result<_, ConfigError> {
        let text = reader.read()?;
        Ok((reader.load(&text)?, Origin::new(reader, &text)))
    };
    let (loaded, origin) = match Reader::open(source, Environment::current(), flags).and_then(read) {
        Ok(read) => read,
        Err(error) => return Ok(check::complain(&error)),
    };
    match app::run(loaded, origin, options)? {
        Ended::Drained => Ok(ExitCode::SUCCESS),
        Ended::Forced => Err(Failure::new(Code::Failure, "stopped before everything was drained").into()),
    }
}
