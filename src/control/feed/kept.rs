//! The last table on disk, and tables in files: the lines of the feed, from the first to an end.
//!
//! Written beside its place and renamed, so that it is whole or the one before. What cannot be read is told and left.

use crate::control::feed::assembly::{Assembly, MAX_LINE, Refusal, Step};
use crate::control::feed::table::FedTable;
use crate::control::feed::wire::{Begin, End, FORMAT, Hello, Line};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a file gave no table.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// What is in it is no whole table.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Returns the file of the last table.
pub(super) fn place_of(state: &Path) -> PathBuf {
    state.join("table.jsonl")
}

/// Reads the last table; `None`, and a warning, where it cannot be used.
pub(super) async fn last(state: &Path) -> Option<Arc<FedTable>> {
    let path = place_of(state);
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read {
        Ok(Ok(table)) => Some(table),
        Ok(Err(FileError::Read(error))) if error.kind() == io::ErrorKind::NotFound => None,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the last table that was kept cannot be used");
            None
        }
        Err(_) => None,
    }
}

/// Reads the table of a file.
///
/// # Errors
/// [`FileError`].
pub(super) fn read(path: &Path) -> Result<Arc<FedTable>, FileError> {
    let mut reader = BufReader::new(fs::File::open(path)?);
    let (mut assembly, mut table, mut line) = (Assembly::new(None, None, None), None, Vec::new());
    loop {
        line.clear();
        let octets = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
        if octets == 0 {
            break;
        }
        if octets > MAX_LINE {
            return Err(Refusal::TooLarge(format!("a line above {MAX_LINE} octets")).into());
        }
        let Some(whole) = line.strip_suffix(b"\n") else { return Err(Refusal::Truncated.into()) };
        if let Step::Table(whole) = assembly.line(whole)? {
            table = Some(whole);
        }
    }
    if let Some(refusal) = assembly.ended(b"") {
        return Err(refusal.into());
    }
    table.ok_or_else(|| Refusal::Truncated.into())
}

/// Writes a table in place of the one before.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, table: &FedTable) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    // For this user only, as the store is.
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let mut file = io::BufWriter::new(opened);
    let mut buffer = Vec::new();
    Line::Hello(Hello {
        format: FORMAT,
        weir: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: table.epoch.to_string(),
        ..Hello::default()
    })
    .write(&mut buffer);
    Line::Begin(Begin { generation: table.generation, ..Begin::default() }).write(&mut buffer);
    for service in table.services.values() {
        Line::fed(service).write(&mut buffer);
        file.write_all(&buffer)?;
        buffer.clear();
    }
    let ports = |route: &crate::model::RouteSpec| {
        table.services.get(&route.service).map_or(&[][..], |service| &service.spec.ports[..])
    };
    Line::of_routes(&table.routes, ports).write(&mut buffer);
    Line::End(End { generation: table.generation, lines: table.services.len() + 1 }).write(&mut buffer);
    file.write_all(&buffer)?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_data()?;
    fs::rename(&beside, path)
}
