#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! What Weir takes when it does little, and what more workers cost: each figure with its bound.
//!
//! `cargo bench --bench footprint -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod parts;
#[path = "../support/proxies/mod.rs"]
mod proxies;
mod sidecar;
mod weir;

use clap::Parser;
use proxies::common::Common;
use proxies::memory;
use std::error::Error;
use std::process::ExitCode;

/// What is measured.
const PARTS: [&str; 6] = ["start", "memory", "idle", "sidecar", "workers", "spread"];

/// What Weir takes when it does little, and what more workers cost.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Parts, parted by commas
    #[arg(long, value_delimiter = ',', default_values = PARTS, value_parser = PARTS)]
    parts: Vec<String>,
    /// Idle keepalive connections
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) connections: usize,
    /// Seconds that the idle process is watched
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub(crate) idle_seconds: f64,
    /// Rounds for one and for two workers
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) rounds: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    options.common.end("footprint", measure(&options))
}

fn measure(options: &Options) -> Result<bool, Box<dyn Error>> {
    memory::raise_descriptors(2 * options.connections as u64 + 1000)?;
    let mut good = true;
    for part in &options.parts {
        good &= match part.as_str() {
            "start" => parts::start(options)?,
            "memory" => parts::memory(options)?,
            "idle" => parts::idle(options)?,
            "sidecar" => sidecar::sidecar(options)?,
            "workers" => parts::workers(options)?,
            "spread" => parts::spread(options)?,
            other => return Err(format!("no part is called {other}").into()),
        };
    }
    Ok(good)
}

/// Prints a figure with its bound; returns whether it is met.
pub(crate) fn figure(what: &str, value: f64, bound: f64, unit: &str) -> bool {
    let word = if value <= bound { "met" } else { "MISSED" };
    println!("  {what}: {value:.3} {unit}, wanted at most {bound}: {word}");
    value <= bound
}
