//! Structured log of the control plane, to standard error.

use crate::telemetry::{Format, LogOptions};
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;

/// Sets up the process's log; the only place that does. A second call changes nothing.
pub fn init(options: &LogOptions) {
    // Colours are for people: not in a file, and not for those who say so (no-color.org).
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(options.level))
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    let done = match options.format {
        Format::Text => tracing::subscriber::set_global_default(builder.finish()),
        Format::Json => tracing::subscriber::set_global_default(builder.json().finish()),
    };
    if done.is_err() {
        tracing::debug!("the log was set up already");
    }
}
