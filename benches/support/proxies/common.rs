//! What the programs of this folder have in common on their command lines: options, and how they end.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Options of every comparison.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Another Weir binary
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_weir"), hide_default_value = true)]
    pub(crate) weir: PathBuf,
    /// Exit 1 when a bound is missed
    #[arg(long)]
    pub(crate) check: bool,
    /// Cargo says that it benches.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Common {
    /// How the program ends: 0, 1 when something was wrong that is to be checked, 2 when it could not be measured.
    pub(crate) fn end(&self, name: &str, good: Result<bool, Box<dyn Error>>) -> ExitCode {
        match good {
            Ok(good) if good || !self.check => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(error) => {
                eprintln!("{name}: {error}");
                ExitCode::from(2)
            }
        }
    }
}

/// A temporary folder of configurations and logs, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Makes one for a program of this name.
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("weir-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
