//! `weir check` and `weir schema`: the configuration as people and editors see it.

use crate::app;
use crate::cli::output;
use crate::config::{self, ConfigError, Environment, Flags, Reader, Source};
use anyhow::Result;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Exit code for a configuration that is refused.
const INVALID: u8 = 2;

/// Checks the configuration at `path` (else the one that `weir run` would take) together with the environment: prints it
/// with every default filled in, or every problem to standard error and ends with 2.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn check(path: Option<&Path>) -> Result<ExitCode> {
    let source = Source::File(path.map(Path::to_owned));
    let read = |reader: Reader| {
        let text = reader.read()?;
        let loaded = reader.load(&text)?;
        match app::check_certificates(&loaded) {
            faults if faults.is_empty() => Ok(loaded),
            faults => Err(text.refuse(faults)),
        }
    };
    match Reader::open(&source, Environment::current(), Flags::default()).and_then(read) {
        Ok(loaded) => {
            output::write(&loaded.to_toml()?)?;
            for note in loaded.notes() {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(std::io::stderr().lock(), "note: {note}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(complain(&error)),
    }
}

/// Prints the JSON schema of the configuration file.
///
/// # Errors
/// When it cannot be printed.
pub(super) fn schema() -> Result<ExitCode> {
    output::write(&format!("{}\n", serde_json::to_string_pretty(&config::schema())?))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints every problem to standard error, one block each, and how many there are; returns the exit code that says so.
pub(super) fn complain(error: &ConfigError) -> ExitCode {
    let count = error.problems().len();
    let total = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    // Nobody is left to tell when standard error is closed; the exit code still says it.
    let _ = writeln!(std::io::stderr().lock(), "{error}\n{total}: the configuration is refused");
    ExitCode::from(INVALID)
}
