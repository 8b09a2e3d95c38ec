//! `weir check` and `weir schema`: the configuration as people and editors see it.

use crate::config::{self, ConfigError, Environment, Flags, Source};
use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Exit code for a configuration that is invalid.
const INVALID: u8 = 2;

/// Checks the configuration at `path` (else the one that `weir run` would take) together with the environment. Prints it
/// with every default filled in, or every problem to standard error. Exit codes: 0 valid, 1 not printed, 2 invalid.
pub fn check(path: Option<&Path>) -> ExitCode {
    // `${WEIR}` stays as written: the output must hold on any machine.
    let environment = Environment { executable: None, ..Environment::current() };
    match config::load(&Source::File(path.map(Path::to_owned)), &environment, &Flags::default()) {
        Ok(loaded) => match loaded.to_toml() {
            Ok(text) => print(text.trim_end()),
            Err(error) => refuse(&error),
        },
        Err(error) => complain(&error),
    }
}

/// Prints the JSON schema of the configuration file.
pub fn schema() -> ExitCode {
    match serde_json::to_string_pretty(&config::schema()) {
        Ok(text) => print(&text),
        Err(error) => refuse(&error),
    }
}

/// Prints every problem to standard error, and how many there are.
pub fn complain(error: &ConfigError) -> ExitCode {
    let count = error.problems().len();
    let total = if count == 1 { "1 problem".to_owned() } else { format!("{count} problems") };
    // Nobody is left to tell when standard error is closed; the exit code still says it.
    let _ = writeln!(std::io::stderr().lock(), "{error}\n{total}: the configuration is invalid");
    ExitCode::from(INVALID)
}

fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        // A reader such as `head` may leave early.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &dyn Display) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "weir: failed to print: {error}");
    ExitCode::FAILURE
}
