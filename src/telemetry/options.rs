//! Typed options of log and access log.

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Options of the log and the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: tracing::Level,
    /// How log lines are written, to standard error.
    pub format: Format,
    /// Whether each request writes an access line to standard output.
    pub access: bool,
    /// How access lines are written.
    pub access_format: Format,
    /// Access lines that may wait for the writer; above that they are dropped and counted.
    pub access_queue: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            level: tracing::Level::INFO,
            format: Format::Text,
            access: false,
            access_format: Format::Json,
            access_queue: 8192,
        }
    }
}
