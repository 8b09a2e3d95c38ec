//! Flags that every command takes: whom to ask, how to print.

use clap::ValueEnum;

/// Flags of all commands.
#[derive(Debug, clap::Args)]
pub(super) struct Global {
    /// Where the running Weir is asked: `unix:PATH`, `HOST:PORT` or `http://HOST:PORT`.
    ///
    /// When absent, these are tried in turn: the socket in the state directory, the socket of a demo in this
    /// directory, 127.0.0.1:9600. A command that asks no running Weir refuses it.
    #[arg(long, global = true, env = "WEIR_ADDR", value_name = "ADDRESS", hide_env_values = true)]
    pub(super) addr: Option<String>,
    /// How lists are printed.
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(super) output: Format,
}

/// How lists are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// JSON for programs.
    Json,
}
