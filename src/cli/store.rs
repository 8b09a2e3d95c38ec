//! `weir store check`: whether the store of a Weir that does not run is whole, and what it holds.

use crate::app::{self, StoreFailure, StoreReport};
use crate::cli::args::{StoreArgs, StoreCheckArgs, StoreCommand};
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::config::{Environment, Flags, Reader, Source};
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    path: String,
    bytes: u64,
    format: u32,
    id: &'a str,
    records: BTreeMap<&'a str, usize>,
    problems: &'a [String],
}

/// Does what is asked of the store.
pub(super) fn store(global: &Global, args: &StoreArgs) -> Result<ExitCode> {
    match &args.command {
        StoreCommand::Check(args) => check(global, args),
    }
}

/// Checks the store: 0 it is whole, 1 it is not, 3 there is none, 4 a Weir has it open or a newer one wrote it.
fn check(global: &Global, args: &StoreCheckArgs) -> Result<ExitCode> {
    let path = match &args.path {
        Some(path) => path.clone(),
        None => state()?,
    };
    let path = if path.is_dir() { path.join(app::STORE_FILE) } else { path };
    let report = app::check_store(&path).map_err(|error| {
        let code = match &error {
            StoreFailure::Locked { .. } | StoreFailure::Newer { .. } => Code::Conflict,
            StoreFailure::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::NotFound,
            StoreFailure::Io { .. } | StoreFailure::Damaged { .. } => Code::Failure,
        };
        Failure::new(code, error.to_string())
    })?;
    print(global, &report)?;
    Ok(if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(Code::Failure as u8) })
}

fn print(global: &Global, report: &StoreReport) -> Result<()> {
    let StoreReport { path, bytes, format, id, counts, problems } = report;
    let path = path.display().to_string();
    if global.output == Format::Json {
        let records = counts.iter().copied().collect();
        return output::json(&Checked { path, bytes: *bytes, format: *format, id, records, problems });
    }
    let held: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    let verdict = if problems.is_empty() { "whole" } else { "readable, with problems" };
    let mut text = format!("{path} ({bytes} bytes): {verdict}\nformat {format}, id {id}: {}\n", held.join(", "));
    for problem in problems {
        text += &format!("problem: {problem}\n");
    }
    Ok(output::write(&text)?)
}

/// Returns the state directory that `weir run` would take here.
fn state() -> Result<PathBuf> {
    let environment = Environment::current();
    let reader = Reader::open(&Source::File(None), environment.clone(), Flags::default()).ok();
    let text = reader.as_ref().and_then(|reader| reader.read().ok());
    let state = reader.and_then(|reader| reader.state(text.as_ref())).or_else(|| environment.default_state());
    let unknown = || Failure::new(Code::Usage, "no state directory is known here: name it, or the store's file");
    Ok(state.ok_or_else(unknown)?)
}
