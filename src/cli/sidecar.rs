//! `weir sidecar`: Weir beside a workload, without a configuration file and without a privilege.
//!
//! It writes the configuration that says the same and is the ordinary Weir with it, in one process with one worker: the
//! same table, picking, health, DNS and drain.

use crate::app::{self, Ended, RunOptions};
use crate::cli::check;
use crate::cli::failure::{Code, Failure};
use crate::cli::rules::{RulesArgs, rules};
use crate::config::{ConfigError, Environment, Flags, Source};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

/// `weir sidecar`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SidecarArgs {
    #[command(subcommand)]
    pub(super) command: Option<SidecarCommand>,
    #[command(flatten)]
    pub(super) beside: BesideArgs,
}

/// What else a sidecar does.
#[derive(Debug, clap::Subcommand)]
pub(super) enum SidecarCommand {
    /// Rules of the kernel that lead the workload's connections to Weir: print, install, remove.
    Rules(RulesArgs),
    /// Run a program beside it: started when its upstreams are reachable; its signals, its end and its exit code are shared.
    Exec(Box<SidecarExecArgs>),
}

/// `weir sidecar exec`.
#[derive(Debug, clap::Args)]
pub(super) struct SidecarExecArgs {
    #[command(flatten)]
    beside: BesideArgs,
    /// Program and arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What the sidecar is for.
#[derive(Debug, clap::Args)]
pub(super) struct BesideArgs {
    /// The Weir to follow: HOST:PORT or unix:PATH; more than once, the preferred one first. Other machines are spoken to in TLS.
    #[arg(long, value_name = "ADDR")]
    from: Vec<String>,
    /// File with the token that it asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File of the authorities that its certificate is from; those of the system when absent
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The name that its certificate must be for; the host of --from when absent
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// What this sidecar is called there, one DNS label; made up from machine and state directory when absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Register the workload as an instance of a service: SERVICE=IP:PORT, as others reach it, or SERVICE=IP:PORT/PATH to
    /// check it by HTTP; may be given more than once
    #[arg(long, value_name = "SERVICE=IP:PORT")]
    service: Vec<Announced>,
    /// Lead a local port to a service: SERVICE=IP:PORT; may be given more than once
    #[arg(long, value_name = "SERVICE=IP:PORT")]
    upstream: Vec<Pair>,
    /// Where names are answered, or `off`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8600")]
    dns: String,
    /// Directory of the last table and the admin socket; `sidecar` below the usual one when absent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Longest wait at the end until nobody uses the workload and its upstreams any more
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain: String,
}

/// A service and an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    service: String,
    address: SocketAddr,
}

/// A service, an address and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announced {
    pair: Pair,
    path: Option<String>,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?}: write SERVICE=IP:PORT, such as db=127.0.0.1:5432");
        let (service, address) = text.split_once('=').ok_or_else(form)?;
        Ok(Self { service: service.to_owned(), address: address.parse().map_err(|_| form())? })
    }
}

impl FromStr for Announced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The service's name may hold one too.
        let (name, rest) = text.split_once('=').unwrap_or(("", text));
        match rest.split_once('/') {
            Some((address, path)) => {
                Ok(Self { pair: format!("{name}={address}").parse()?, path: Some(format!("/{path}")) })
            }
            None => Ok(Self { pair: text.parse()?, path: None }),
        }
    }
}

/// Runs the sidecar until a signal, or until the program beside it ends.
pub(super) fn sidecar(args: &SidecarArgs) -> Result<ExitCode> {
    let (beside, command) = match &args.command {
        None => (&args.beside, None),
        Some(SidecarCommand::Rules(args)) => return rules(args).context("failed to handle the rules of the kernel"),
        Some(SidecarCommand::Exec(exec)) => (&exec.beside, Some(exec.command.clone())),
    };
    let state = state(beside, &Environment::current())?;
    writable(&state)?;
    let text = configuration(beside, &state)?;
    // Written once; Weir refers to it until it ends.
    let text: &'static str = Box::leak(text.into_boxed_str());
    let source = Source::Text { name: "the sidecar's flags", text };
    let companion = app::Beside { command };
    match app::run_beside(&source, &Flags::default(), RunOptions::default(), companion) {
        Ok(Ended::Companion(code)) => Ok(ExitCode::from(code)),
        Ok(Ended::Drained) => Ok(ExitCode::SUCCESS),
        Ok(Ended::Forced) => Err(Failure::new(Code::Failure, "stopped before everything was drained").into()),
        Err(error) => match error.downcast_ref::<ConfigError>() {
            Some(refused) => Ok(check::complain(refused)),
            None if app::names_are_taken(&error) => Err(error.context(elsewhere(&beside.dns))),
            None => Err(error),
        },
    }
}

/// Says what to do where somebody else answers names: on a machine with a Weir it is that one, which knows the same names.
fn elsewhere(dns: &str) -> String {
    format!("names cannot be answered at {dns}: name another address with --dns, or none with --dns off")
}

/// Returns the directory of the last table and the admin socket.
fn state(args: &BesideArgs, environment: &Environment) -> Result<PathBuf> {
    match &args.state {
        Some(state) => Ok(state.clone()),
        None => {
            Ok(environment.default_state().context("no directory for state: name one with --state")?.join("sidecar"))
        }
    }
}

/// Makes sure that the directory can be written; who is started without a home has to name another.
fn writable(state: &Path) -> Result<()> {
    let probe = state.join(format!(".writable-{}", std::process::id()));
    let tried = std::fs::create_dir_all(state).and_then(|()| std::fs::write(&probe, ""));
    tried.with_context(|| format!("failed to write in {}: name another directory with --state", state.display()))?;
    // What is left of it is an empty file.
    let _ = std::fs::remove_file(&probe);
    if UnixStream::connect(state.join("weir.sock")).is_ok() {
        bail!("another sidecar uses {}: name another directory with --state", state.display());
    }
    Ok(())
}

/// Writes the configuration that says the same as the flags.
fn configuration(args: &BesideArgs, state: &Path) -> Result<String> {
    if args.from.is_empty() {
        let message = "name the Weir to follow: --from HOST:PORT or --from unix:PATH";
        return Err(Failure::new(Code::Usage, message).into());
    }
    let mut text = format!(
        "[node]\nworkers = 1\n\n[store]\npath = {}\n\n[admin]\nlisten = \"off\"\n",
        quoted(&state.to_string_lossy())
    );
    let list: Vec<String> = args.from.iter().map(|place| quoted(place)).collect();
    write!(text, "\n[source.weir]\nfrom = [{}]\n", list.join(", "))?;
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    for (key, value) in [
        ("token_file", args.token_file.as_ref().map(path)),
        ("ca", args.ca.as_ref().map(path)),
        ("server_name", args.server_name.clone()),
        ("name", args.name.clone()),
    ] {
        if let Some(value) = value {
            writeln!(text, "{key} = {}", quoted(&value))?;
        }
    }
    for Announced { pair, path } in &args.service {
        write!(
            text,
            "\n[[source.weir.announce]]\nservice = {}\naddress = \"{}\"\n",
            quoted(&pair.service),
            pair.address
        )?;
        if let Some(path) = path {
            writeln!(text, "path = {}", quoted(path))?;
        }
    }
    if args.dns != "off" {
        write!(text, "\n[dns]\nlisten = [{}]\n", quoted(&args.dns))?;
    }
    write!(text, "\n[proxy.timeouts]\ndrain = {}\ndrain_idle = \"0s\"\n", quoted(&args.drain))?;
    for (i, Pair { service, address }) in args.upstream.iter().enumerate() {
        let service = quoted(service);
        write!(
            text,
            "\n[[listener]]\nname = \"upstream-{i}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\nservice = {service}\n"
        )?;
    }
    Ok(text)
}

/// Returns a text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Announced, Pair};

    #[test]
    fn reads_services_with_their_addresses() {
        let pair: Pair = "staging/db=127.0.0.1:5432".parse().unwrap();
        assert_eq!((pair.service.as_str(), pair.address.port()), ("staging/db", 5432));
        let web: Announced = "web=[::1]:80/health?x=1".parse().unwrap();
        assert_eq!((web.pair.address.to_string(), web.path.as_deref()), ("[::1]:80".to_owned(), Some("/health?x=1")));
        let plain: Announced = "staging/web=127.0.0.1:80".parse().unwrap();
        assert_eq!((plain.pair.service.as_str(), plain.path), ("staging/web", None));
        for bad in ["", "db", "db=", "db=127.0.0.1", "db=localhost:1", "=:1"] {
            assert!(bad.parse::<Pair>().is_err(), "{bad}");
        }
    }
}
