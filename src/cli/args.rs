//! The command line: commands, flags, help.

use crate::cli::doctor::DoctorArgs;
use crate::cli::exec::ExecArgs;
use crate::cli::global::Global;
use crate::cli::resolve::ResolveArgs;
use crate::cli::sidecar::SidecarArgs;
use crate::cli::whoami::WhoamiArgs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Deploys, names, balances, heals and scales, and never drops a request while doing so.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration, 3 not found, 4 conflict or superseded, 5 forbidden,
6 unreachable, 7 rolled back, 8 failed and not rolled back, 9 timed out while it goes on, 10 diff found changes.")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run Weir with a configuration file.
    Run(RunArgs),
    /// Run the demo: a service with three replicas behind http://127.0.0.1:8080.
    Demo(DemoArgs),
    /// Run beside a workload: follow another Weir's table, register the workload there, lead local ports to services.
    Sidecar(Box<SidecarArgs>),
    /// Check a configuration: print it with every default, or every problem with file, line, key and hint.
    Check(CheckArgs),
    /// Print the JSON schema of the configuration file.
    Schema,
    /// Show which configuration is in use, everything that is wrong with one that is not, and how the store does.
    Status,
    /// Take up the configuration file now, as a whole or not at all; a change of the file does the same by itself.
    Reload,
    /// Run another binary from now on, without losing a connection.
    Upgrade(UpgradeArgs),
    /// Show what a configuration file would change of what runs; ends with 10 when something would.
    Diff(DiffArgs),
    /// List the instances with health, load and age.
    Ps(ServiceArgs),
    /// List the services.
    Services,
    /// List the endpoints as proxy and DNS see them.
    Endpoints(ServiceArgs),
    /// List the certificates that Weir obtains, with issuer, expiry and what is wrong.
    Certificates(CertificatesArgs),
    /// Show what Weir did.
    Events(EventsArgs),
    /// Change how many replicas of a service run.
    Scale(ScaleArgs),
    /// Show where a request would go, or with `explain scale SERVICE` why there are so many replicas.
    Explain(ExplainArgs),
    /// Change a service's definition: a part of it, or whole definitions from a file.
    Deploy(DeployArgs),
    /// Go back to an earlier revision of a service.
    Rollback(RollbackArgs),
    /// List the revisions of a service.
    History(HistoryArgs),
    /// Take an instance out of service without losing a request.
    Drain(DrainArgs),
    /// Remove a service that was made by `weir deploy -f`, without losing a request.
    Remove(RemoveArgs),
    /// Look after what Weir keeps on the disk.
    Store(StoreArgs),
    /// Look a name up in Weir's DNS.
    Resolve(ResolveArgs),
    /// Show who answers a container's questions for names, and what to fix.
    Doctor(DoctorArgs),
    /// Show what a replica wrote to its standard output and error.
    Logs(LogsArgs),
    /// Run the built-in test backend, which says who it is.
    Whoami(WhoamiArgs),
    /// Become a workload: how Weir itself starts processes.
    #[command(hide = true)]
    Exec(ExecArgs),
    /// Print a completion script for a shell.
    Completion(CompletionArgs),
    /// Print the version.
    Version,
}

impl Command {
    /// Returns what to do instead of giving `--addr`, where no running Weir is asked.
    pub(super) fn without_addr(&self) -> Option<&'static str> {
        match self {
            Self::Resolve(args) if !args.asks_weir() => Some(
                "`weir resolve` asks a DNS server: name it by --server (--addr is for --from, --listener and --explain)",
            ),
            Self::Run(_) | Self::Demo(_) => {
                Some("where Weir listens is in its configuration: [[listener]], [dns], [admin]")
            }
            Self::Sidecar(_) => Some("name the Weir to follow by --from"),
            Self::Whoami(_) => Some("name where to listen by --listen"),
            Self::Check(_) | Self::Schema | Self::Store(_) | Self::Doctor(_) | Self::Completion(_) | Self::Version => {
                Some("this command asks no running Weir: leave it out")
            }
            _ => None,
        }
    }
}

/// `weir run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The configuration file; weir.toml or /etc/weir/weir.toml when absent.
    #[arg(short, long, env = "WEIR_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) workers: WorkersArgs,
    #[command(flatten)]
    pub(super) keeper: KeeperArgs,
}

/// `weir demo`.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    #[command(flatten)]
    pub(super) workers: WorkersArgs,
    #[command(flatten)]
    pub(super) keeper: KeeperArgs,
}

/// Which of the two processes this one is.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct KeeperArgs {
    /// Run in one process, for debugging: a crash then refuses connections, and there is no upgrade.
    #[arg(long)]
    pub(super) no_keeper: bool,
    /// Serve on the sockets of the keeper, which is at the other end of standard input.
    #[arg(long, hide = true, conflicts_with = "no_keeper")]
    pub(super) kept: bool,
}

/// How many threads carry traffic.
#[derive(Debug, clap::Args)]
pub(super) struct WorkersArgs {
    /// Threads that carry traffic; as many as there are cores when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) workers: Option<u16>,
}

/// `weir upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct UpgradeArgs {
    /// The binary; where the running one was started from when absent.
    #[arg(long, value_name = "PATH")]
    pub(super) binary: Option<PathBuf>,
}

/// `weir check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The file; when absent, the one that `weir run` would take.
    #[arg(value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

/// `weir diff`.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The file; when absent, the one that the running Weir reads.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
}

/// An optional service.
#[derive(Debug, clap::Args)]
pub(super) struct ServiceArgs {
    /// Only those of this service, as `name` or `namespace/name`.
    #[arg(value_name = "SERVICE")]
    pub(super) service: Option<String>,
}

/// `weir events`.
#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Go on with what happens.
    #[arg(short, long)]
    pub(super) follow: bool,
}

/// `weir scale`.
#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    /// The service, as `name` or `namespace/name`.
    pub(super) service: String,
    /// The wanted number of replicas, or `auto`: give it back to the autoscaler, else to the definition.
    #[arg(value_parser = wanted)]
    pub(super) replicas: Wanted,
    /// Wait until as many serve.
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, such as `5m`; exit code 9 after it.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m", requires = "wait")]
    pub(super) timeout: Duration,
}

/// A number of replicas by hand, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// So many.
    Replicas(u32),
    /// As the autoscaler or the definition says.
    Auto,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    match text {
        "auto" => Ok(Wanted::Auto),
        number => number.parse().map(Wanted::Replicas).map_err(|_| "write a number, or `auto`".to_owned()),
    }
}

/// `weir explain`.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The request's method, such as GET; or `scale`.
    pub(super) method: String,
    /// The request's URL, such as `http://app.example.com:8080/api`; or the service.
    #[arg(value_name = "URL")]
    pub(super) target: String,
}

impl ExplainArgs {
    /// Whether a service's number of replicas is asked for.
    pub(super) fn is_scale(&self) -> bool {
        self.method == "scale"
    }
}

/// Whether to wait for the end of a rollout.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct WaitArgs {
    /// Show how the rollout goes and wait for its end; the exit code tells it.
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, such as `10m`; exit code 9 after it, and the rollout goes on.
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "wait")]
    pub(super) timeout: Option<Duration>,
}

/// `weir deploy`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["service", "file"]))]
pub(super) struct DeployArgs {
    /// The service, as `name` or `namespace/name`; what is not named below stays as it is.
    #[arg(conflicts_with = "file")]
    pub(super) service: Option<String>,
    /// Replace the definitions of the services in this file, all or none.
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// The image of its containers.
    #[arg(long, value_name = "IMAGE", conflicts_with = "file")]
    pub(super) image: Option<String>,
    /// Program and arguments as one text, split at blanks; quotes keep blanks.
    #[arg(long, value_name = "COMMAND", conflicts_with = "file")]
    pub(super) command: Option<String>,
    /// Set a variable; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "file")]
    pub(super) env: Vec<String>,
    /// Remove a variable; may be given more than once.
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub(super) unset_env: Vec<String>,
    /// Only if this revision is the wanted one.
    #[arg(long, value_name = "REVISION", conflicts_with = "file")]
    pub(super) if_revision: Option<u64>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// `weir rollback`.
#[derive(Debug, clap::Args)]
pub(super) struct RollbackArgs {
    /// The service, as `name` or `namespace/name`.
    pub(super) service: String,
    /// The revision, as `weir history` shows it; the last one that worked when absent.
    pub(super) revision: Option<u64>,
    #[command(flatten)]
    pub(super) wait: WaitArgs,
}

/// `weir history`.
#[derive(Debug, clap::Args)]
pub(super) struct HistoryArgs {
    /// The service, as `name` or `namespace/name`.
    pub(super) service: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<crate::spec::Duration>().map(crate::spec::Duration::get).map_err(|error| error.to_string())
}

/// `weir certificates`.
#[derive(Debug, clap::Args)]
pub(super) struct CertificatesArgs {
    #[command(subcommand)]
    pub(super) command: Option<CertificatesCommand>,
}

/// What `weir certificates` does.
#[derive(Debug, Subcommand)]
pub(super) enum CertificatesCommand {
    /// List them.
    List,
    /// Print the root of the internal authority, PEM: who trusts it trusts every certificate for a private name.
    Ca,
    /// Renew a certificate now.
    Renew {
        /// The name that it is for.
        name: String,
    },
}

/// `weir drain`.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The instance, as `weir ps` shows it.
    pub(super) instance: String,
    /// Let it take new work again.
    #[arg(long, conflicts_with = "wait")]
    pub(super) undo: bool,
    #[command(flatten)]
    pub(super) end: EndArgs,
}

/// `weir remove`.
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The service, as `name` or `namespace/name`.
    pub(super) service: String,
    #[command(flatten)]
    pub(super) end: EndArgs,
}

/// Whether to wait until nothing goes on any more.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct EndArgs {
    /// Wait until nothing is in flight there any more, and what Weir runs has ended.
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest wait, such as `5m`; exit code 9 after it, and it goes on.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m", requires = "wait")]
    pub(super) timeout: Duration,
}

/// `weir store`.
#[derive(Debug, clap::Args)]
pub(super) struct StoreArgs {
    #[command(subcommand)]
    pub(super) command: StoreCommand,
}

/// What `weir store` does.
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Check the store of a Weir that does not run, or a copy of one; changes nothing.
    Check(StoreCheckArgs),
}

/// `weir store check`.
#[derive(Debug, clap::Args)]
pub(super) struct StoreCheckArgs {
    /// The state directory, or the file; when absent, what `weir run` would take here.
    #[arg(value_name = "PATH")]
    pub(super) path: Option<PathBuf>,
}

/// `weir logs`.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// The instance, as `weir ps` shows it.
    pub(super) instance: String,
    /// Go on with what it writes.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Last lines of each of output and error.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(super) tail: u32,
}

/// `weir completion`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
}
