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

#[path = "../support/proxies/cpu.rs"]
#[allow(dead_code, reason = "shared; a part is for comparisons")]
mod cpu;
#[path = "../support/proxies/load.rs"]
#[allow(dead_code, reason = "shared; a part is for comparisons")]
mod load;
#[path = "../support/proxies/memory.rs"]
mod memory;
#[path = "../support/proxies/message.rs"]
#[allow(dead_code, reason = "shared; a part is for comparisons")]
mod message;
mod parts;
mod weir;

use std::error::Error;
use std::path::PathBuf;

const HELP: &str = "usage: cargo bench --bench footprint -- [options]

  --parts A,B        of start, memory, idle, workers, spread (default: all)
  --connections N    idle keepalive connections (default 5000)
  --idle-seconds S   how long the idle process is watched (default 60)
  --rounds N         rounds for one and for two workers (default 12)
  --weir PATH        another Weir binary
  --check            exit 1 when a bound is missed
";

/// What is measured and how.
pub(crate) struct Options {
    parts: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) idle_seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) weir: PathBuf,
    check: bool,
}

fn main() {
    match options().and_then(|options| measure(&options).map(|good| good || !options.check)) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("footprint: {error}");
            std::process::exit(2);
        }
    }
}

fn options() -> Result<Options, Box<dyn Error>> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut options = Options {
        parts: list("start,memory,idle,workers,spread"),
        connections: 5000,
        idle_seconds: 60.0,
        rounds: 12,
        weir: env!("CARGO_BIN_EXE_weir").into(),
        check: false,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            // Cargo says that it benches.
            "--bench" => {}
            "--help" | "-h" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            "--parts" => options.parts = list(&value()?),
            "--connections" => options.connections = value()?.parse()?,
            "--idle-seconds" => options.idle_seconds = value()?.parse()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--weir" => options.weir = value()?.into(),
            "--check" => options.check = true,
            other => return Err(format!("unknown option {other}; see --help").into()),
        }
    }
    Ok(options)
}

fn measure(options: &Options) -> Result<bool, Box<dyn Error>> {
    memory::raise_descriptors(2 * options.connections as u64 + 1000)?;
    let mut good = true;
    for part in &options.parts {
        good &= match part.as_str() {
            "start" => parts::start(options)?,
            "memory" => parts::memory(options)?,
            "idle" => parts::idle(options)?,
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
