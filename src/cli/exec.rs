//! `weir exec`, hidden: sets itself up as a workload and becomes it.
//!
//! The process runtime starts this shim instead of the program, so that no code runs between fork and exec in a process
//! with many threads (`pre_exec`). In its own, single-threaded process it takes what only the process itself can take: the
//! death signal, a session, limits, closed descriptors. Then it execs and is gone. It reads no configuration.

use crate::sys::{descriptors, process};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// First descriptor that is not one of standard input, output and error.
const FIRST_OTHER_DESCRIPTOR: u32 = 3;
/// Added to the score by which the kernel picks a victim when memory is out: a replica goes before Weir.
const OOM_SCORE: &str = "100";
/// Exit status when the set-up failed; env(1) and sh(1) use these three likewise.
const SETUP_FAILED: u8 = 125;
/// Exit status when the program cannot be executed.
const CANNOT_EXECUTE: u8 = 126;
/// Exit status when there is no such program.
const NOT_FOUND: u8 = 127;

/// Flags of `weir exec`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ExecArgs {
    /// Process id of the Weir that starts this: the program ends with it; absent, the program outlives it
    #[arg(long)]
    pub(super) parent: Option<u32>,
    /// It takes the death signal and the limit of descriptors and nothing else: the program stays in the session and with the rights of its parent
    #[arg(long, requires = "parent")]
    pub(super) beside: bool,
    /// Soft limit of the descriptors that it may have
    #[arg(long)]
    pub(super) descriptors: Option<u64>,
    /// Program and arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<OsString>,
}

/// Becomes the program; returns only when that fails, with what env(1) would return.
pub(super) fn run(args: &ExecArgs) -> ExitCode {
    let Some((program, arguments)) = args.command.split_first() else { return ExitCode::from(NOT_FOUND) };
    if let Err(error) = set_up(args) {
        say(&format!("set up the process: {error}"));
        return ExitCode::from(SETUP_FAILED);
    }
    let error = Command::new(program).args(arguments).exec();
    say(&format!("execute {}: {error}", program.display()));
    ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE })
}

fn set_up(args: &ExecArgs) -> std::io::Result<()> {
    if let Some(parent) = args.parent {
        process::die_with_parent(parent)?;
    }
    if let Some(limit) = args.descriptors {
        descriptors::lower(limit)?;
    }
    if args.beside {
        return Ok(());
    }
    process::new_session()?;
    process::forbid_core_dumps()?;
    // Without it a set-user-ID program would also lose the death signal (prctl(2)).
    process::forbid_new_privileges()?;
    // A kernel without the file, or a score already higher: the replica runs all the same.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    process::close_on_exec_from(FIRST_OTHER_DESCRIPTOR)
}

/// Standard error is the replica's log file here.
#[expect(clippy::print_stderr, reason = "the reason belongs into the log of the replica that did not start")]
fn say(text: &str) {
    eprintln!("weir exec: failed to {text}");
}
