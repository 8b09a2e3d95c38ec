//! Structured log of the control plane, to standard error.

use crate::telemetry::{Format, LogOptions};
use tracing_subscriber::filter::LevelFilter;

/// Sets up the process's log; the only place that does. A second call changes nothing.
pub fn init(options: &LogOptions) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(options.level))
        .with_writer(std::io::stderr)
        .with_target(false);
    let done = match options.format {
        Format::Text => tracing::subscriber::set_global_default(builder.finish()),
        Format::Json => tracing::subscriber::set_global_default(builder.json().finish()),
    };
    if done.is_err() {
        tracing::debug!("the log was set up already");
    }
}
