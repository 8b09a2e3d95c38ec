//! `weir sidecar rules`: what leads a workload's connections to Weir, printed, installed and removed.
//!
//! Everything stands in chains, or a table, of Weir's own: installing twice is the same as once, removing leaves no trace, and
//! nothing of anybody else's is touched but a jump at the end of a chain. Weir's own user is left out, or its connections
//! would come back to it. At every moment of an install the rules before or the new ones capture: what is open between would
//! let a workload go where it must not.
//!
//! `nft.rs` and `iptables.rs` keep the rules, `route.rs` what TPROXY needs besides; `program.rs` runs the programs.

mod args;
mod iptables;
mod nft;
mod program;
mod route;

use crate::cli::output;
use anyhow::{Context, Result, bail};
use args::{Backend, Capture, What};
use program::Failure;
use std::io::{self, Write};
use std::process::ExitCode;

pub(super) use args::RulesArgs;

/// Runs the command.
pub(super) fn rules(args: &RulesArgs) -> Result<ExitCode> {
    match &args.what {
        What::Print(capture) => output::write(&print(capture))?,
        What::Install(capture) => install(capture)?,
        What::Remove { backend } => remove(*backend)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs the rules in place of what was there. All or nothing, but for what goes afterwards.
fn install(capture: &Capture) -> Result<()> {
    // Without rules it leads nothing.
    let fresh = if capture.uses_tproxy() { route::lead()? } else { Vec::new() };
    let installed = match capture.backend {
        Backend::Nft => nft::install(capture),
        Backend::Iptables => iptables::install(capture),
    };
    if let Err(error) = installed {
        route::back(&fresh);
        return Err(error.into());
    }
    let left = || format!("the rules are installed by {}; what was there before is not gone", capture.backend.name());
    remove_other(capture.backend.other()).with_context(left)?;
    if !capture.uses_tproxy() {
        route::leave().with_context(left)?;
    }
    Ok(())
}

/// Removes the rules of whom the new ones are not installed by, as far as that can be seen.
fn remove_other(other: Backend) -> Result<()> {
    let there = match other {
        Backend::Nft => nft::look(),
        Backend::Iptables => iptables::look(),
    };
    match there {
        Ok(true) => Ok(remove_by(other)?),
        // Who never had the program, or not what it needs, has no rules by it.
        Ok(false) | Err(Failure::Missing(_)) => Ok(()),
        Err(error) => {
            let _ = writeln!(io::stderr(), "not looked for rules of {}: {error}", other.name());
            Ok(())
        }
    }
}

fn remove_by(backend: Backend) -> Result<(), Failure> {
    match backend {
        Backend::Nft => nft::remove(),
        Backend::Iptables => iptables::remove(),
    }
}

/// Removes the rules of one, or of whoever is installed here.
fn remove(backend: Option<Backend>) -> Result<()> {
    let all = [Backend::Nft, Backend::Iptables];
    let removed = all.into_iter().filter(|one| backend.is_none_or(|only| *one == only)).map(remove_by);
    // One that fails keeps none of the others.
    let (mut found, mut failed) = (false, None);
    for removed in removed {
        match removed {
            Err(Failure::Missing(_)) if backend.is_none() => {}
            Err(error) => failed = failed.or(Some(error)),
            Ok(()) => found = true,
        }
    }
    match failed {
        // What is left may need its routes.
        Some(error) => Err(error.into()),
        None if !found => bail!("neither nft nor iptables is installed"),
        None => Ok(route::leave()?),
    }
}

fn print(capture: &Capture) -> String {
    let mut text = String::new();
    if capture.uses_tproxy() {
        route::print(&mut text);
    }
    match capture.backend {
        Backend::Nft => nft::print(&mut text, capture),
        Backend::Iptables => iptables::print(&mut text, capture),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::args::{Backend, Capture, Mode};
    use super::print;

    fn capture(backend: Backend, inbound: Option<u16>) -> Capture {
        let (outbound, through, inbound_mode) = (Some(15001), Some(15002), Mode::Redirect);
        Capture { outbound, inbound, inbound_mode, through, user: 1337, exclude: vec![22, 15001], backend }
    }

    #[test]
    fn the_rules_of_both_leave_out_weir_its_ports_and_loopback() {
        let nft = print(&capture(Backend::Nft, None));
        assert!(
            nft.contains("meta skuid 1337 return") && nft.contains("tcp dport { 22, 15001, 15002 } return"),
            "{nft}"
        );
        assert!(nft.contains("redirect to :15001") && !nft.contains("chain in"), "{nft}");
        let replaces = "\nnft -f - <<'EOF'\ntable inet weir\ndelete table inet weir\ntable inet weir {\n";
        assert!(
            nft.contains(replaces) && nft.ends_with("\nEOF\n"),
            "what was there goes in the same transaction: {nft}"
        );
        assert!(nft.starts_with("ip -4 route replace local default dev lo table 87\n"), "{nft}");
        let tables = print(&capture(Backend::Iptables, Some(15006)));
        for program in ["iptables", "ip6tables"] {
            let begin = format!("\n{program}-restore -w --noflush <<'EOF'\n*nat\n");
            let (_, nat) = tables.split_once(&begin).unwrap();
            let (nat, _) = nat.split_once("COMMIT\n").unwrap();
            let of = |words: &str| nat.lines().any(|line| line == words);
            assert!(of("-A WEIR_OUT -m owner --uid-owner 1337 -j RETURN"), "{tables}");
            assert!(of("-A WEIR_OUT -p tcp -j REDIRECT --to-ports 15001") && of("-A PREROUTING -p tcp -j WEIR_IN"));
            assert!(of("-A WEIR_IN -p tcp --dport 22 -j RETURN"), "{tables}");
        }
    }
}
