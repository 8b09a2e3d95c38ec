//! `weir sidecar`: Weir beside a workload.

use crate::cli::rules::{RulesArgs, rules};
use anyhow::Result;
use std::process::ExitCode;

/// `weir sidecar`.
#[derive(Debug, clap::Args)]
pub(super) struct SidecarArgs {
    #[command(subcommand)]
    pub(super) command: SidecarCommand,
}

/// What else a sidecar does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SidecarCommand {
    /// Rules of the kernel that lead the workload's connections to Weir: print, install, remove.
    Rules(RulesArgs),
}

/// Does what is asked for beside a workload.
pub(super) fn sidecar(args: &SidecarArgs) -> Result<ExitCode> {
    match &args.command {
        SidecarCommand::Rules(args) => rules(args),
    }
}
