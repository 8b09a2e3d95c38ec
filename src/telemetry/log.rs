//! Structured log of the control plane, to standard error.

use crate::telemetry::{Format, LogOptions};
use std::io::IsTerminal;
use std::sync::OnceLock;
use tracing::Level;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, reload};

/// Changes the level of the log that was set up.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Sets up the process's log; the only place that does. A second call changes nothing.
pub fn init(options: &LogOptions) {
    // Colours are for people: not in a file, and not for those who say so (no-color.org).
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (filter, handle) = reload::Layer::new(LevelFilter::from_level(options.level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let done = match options.format {
        Format::Text => tracing::subscriber::set_global_default(registry.with(lines)),
        Format::Json => tracing::subscriber::set_global_default(registry.with(lines.json())),
    };
    match done {
        Ok(()) => drop(LEVEL.set(handle)),
        Err(_) => tracing::debug!("the log was set up already"),
    }
}

/// Changes the level of the log from now on.
pub fn set_level(level: Level) {
    let changed = LEVEL.get().map(|handle| handle.reload(LevelFilter::from_level(level)));
    if let Some(Err(error)) = changed {
        tracing::warn!(%error, "failed to change the level of the log");
    }
}
