//! The command line: one function per command, errors printed once, exit codes for programs.
//!
//! `args` defines commands and flags; commands that ask a running Weir go through `remote` and print through `output`.
//! An error is one line, `weir: failed to …: …`, that ends with what to do; its exit code comes from `failure`.

mod args;
mod certificates;
mod changes;
mod check;
mod configuration;
mod deploy;
mod diff;
mod doctor;
mod exec;
mod explain;
mod failure;
mod feeds;
mod follow;
mod global;
mod lists;
mod output;
mod remote;
mod resolve;
mod rules;
mod run;
mod sidecar;
mod store;
mod upgrade;
pub mod whoami;

use anyhow::{Context, Result};
use args::{Args, Command};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use global::Global;
use std::borrow::Cow;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

/// Reads the command line, runs the command and returns its exit code.
pub fn main() -> ExitCode {
    // Wrong usage ends here with clap's own message, a suggestion and status 2.
    let Args { global, command } = arguments();
    let (what, done) = dispatch(&global, command);
    let error = match done {
        Ok(code) => return code,
        Err(error) if is_closed_pipe(&error) => return ExitCode::SUCCESS,
        Err(error) => error,
    };
    let chain = format!("{error:#}");
    // What the composition root reports says itself what failed.
    let lead = if chain.starts_with("failed to ") { String::new() } else { format!("failed to {what}: ") };
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "weir: {lead}{chain}");
    ExitCode::from(failure::code_of(&error) as u8)
}

fn arguments() -> Args {
    let matches = Args::command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Args::command()).exit());
    // The variable is for whoever it concerns; what is written is meant for this one.
    let is_written = matches.value_source("addr") == Some(ValueSource::CommandLine);
    if let Some(instead) = args.command.without_addr().filter(|_| is_written) {
        let message = format!("the argument '--addr <ADDRESS>' cannot be used here: {instead}");
        Args::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    args
}

/// Runs a command; the text completes "failed to …".
fn dispatch(global: &Global, command: Command) -> (Cow<'static, str>, Result<ExitCode>) {
    match command {
        Command::Run(args) => ("run".into(), run::run(&args)),
        Command::Sidecar(args) => ("run beside a workload".into(), sidecar::sidecar(&args)),
        Command::Demo(args) => ("run the demo".into(), run::demo(&args)),
        Command::Check(args) => ("check the configuration".into(), check::check(args.file.as_deref())),
        Command::Schema => ("print the schema".into(), check::schema()),
        Command::Status => ("show the status".into(), ask(configuration::status(global))),
        Command::Upgrade(args) => ("upgrade".into(), ask(upgrade::upgrade(global, &args))),
        Command::Reload => ("reload the configuration".into(), ask(configuration::reload(global))),
        Command::Diff(args) => ("compare the configuration".into(), ask_for_code(diff::diff(global, &args))),
        Command::Ps(args) => ("list the instances".into(), ask(lists::ps(global, &args))),
        Command::Services => ("list the services".into(), ask(lists::services(global))),
        Command::Endpoints(args) => ("list the endpoints".into(), ask(lists::endpoints(global, &args))),
        Command::Certificates(args) => ("handle certificates".into(), ask(certificates::certificates(global, &args))),
        Command::Events(args) => ("show the events".into(), ask(feeds::events(global, &args))),
        Command::Exec(args) => ("run the program".into(), Ok(exec::run(&args))),
        Command::Scale(args) => (format!("scale {}", args.service).into(), ask(changes::scale(global, &args))),
        Command::Explain(args) => {
            (format!("explain {} {}", args.method, args.target).into(), ask(explain::explain(global, &args)))
        }
        Command::Deploy(args) => {
            let what =
                args.service.as_deref().map_or_else(|| "deploy".to_owned(), |service| format!("deploy {service}"));
            (what.into(), ask(deploy::deploy(global, &args)))
        }
        Command::Rollback(args) => (format!("roll back {}", args.service).into(), ask(deploy::rollback(global, &args))),
        Command::History(args) => {
            (format!("list the revisions of {}", args.service).into(), ask(deploy::history(global, &args)))
        }
        Command::Drain(args) => (format!("drain {}", args.instance).into(), ask(changes::drain(global, &args))),
        Command::Remove(args) => (format!("remove {}", args.service).into(), ask(changes::remove(global, &args))),
        Command::Store(args) => ("check the store".into(), store::store(global, &args)),
        Command::Logs(args) => (format!("show the log of {}", args.instance).into(), ask(feeds::logs(global, &args))),
        Command::Resolve(args) => (format!("resolve {}", args.name()).into(), ask(resolve::resolve(global, &args))),
        Command::Doctor(args) => ("look after names".into(), ask(doctor::doctor(global, &args))),
        Command::Whoami(args) => ("run whoami".into(), whoami::run(args)),
        Command::Completion(args) => ("print the completion script".into(), completion(args.shell)),
        Command::Version => ("print the version".into(), version()),
    }
}

/// Runs a command that asks a running Weir, on a runtime of its own.
fn ask(command: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    ask_for_code(async { command.await.map(|()| ExitCode::SUCCESS) })
}

/// As [`ask`], with the exit code of the command.
fn ask_for_code(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(command)
}

fn completion(shell: clap_complete::Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "weir", &mut script);
    output::write(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

fn version() -> Result<ExitCode> {
    output::write(concat!("weir ", env!("CARGO_PKG_VERSION"), "\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns whether whoever read our output has gone, as in `weir ps | head -1`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
