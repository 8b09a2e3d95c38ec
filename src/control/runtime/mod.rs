//! What starts and stops instances: one trait, because processes and containers are a real seam.
//!
//! The scheduler decides, a [`Runtime`] does. A runtime owns what the workload needs from the machine (ports, log files,
//! the process or container) and tells when a workload ended. It knows nothing of health, traffic or the registry. The
//! invariant that callers lean on: after `start` succeeded exactly one [`RuntimeEvent::Exited`] follows for that id, and
//! after `stop` returned nothing of the workload runs.
//!
//! `runtimes.rs` picks the runtime of each definition. `docker` runs containers. `process.rs` runs local processes: `command.rs` turns a definition into an argv, `ports.rs` hands out ports,
//! `spawner.rs` starts the `weir exec` shim, `logs.rs` bounds the files. Next on the path: `control/scheduler/reconcile.rs`.

use crate::model::{InstanceId, RunSpec, ServiceName, Workload};
use async_trait::async_trait;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast;

mod claim;
mod command;
pub mod docker;
mod group;
mod logs;
mod ports;
mod process;
mod procfs;
mod runtimes;
mod spawner;

pub use process::{Options, Processes};
pub use procfs::{Birth, birth};
pub use runtimes::Runtimes;

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartRequest {
    /// Id of the new instance, unique on this Weir.
    pub id: InstanceId,
    /// The service that it is a copy of.
    pub service: ServiceName,
    /// How it is run.
    pub run: RunSpec,
    /// Names of the service's ports, in its order.
    pub ports: Vec<Arc<str>>,
    /// Revision of the definition, kept so that `list` can tell.
    pub revision: u64,
    /// How it runs, as a number: a running replica with another one is to be replaced. Kept likewise.
    pub fingerprint: u64,
    /// Which of the wanted copies it is. Kept likewise.
    pub slot: u32,
}

/// What was started, and where it will listen once it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The process or container.
    pub workload: Workload,
    /// The address to connect to.
    pub address: IpAddr,
    /// Port numbers in the order of the request's names.
    pub ports: Vec<u16>,
}

/// A workload that runs now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its instance.
    pub id: InstanceId,
    /// Its service.
    pub service: ServiceName,
    /// Revision of the definition that it was started with.
    pub revision: u64,
    /// Fingerprint of how it runs.
    pub fingerprint: u64,
    /// Which of the wanted copies it is.
    pub slot: u32,
    /// Process or container, address and ports.
    pub started: Started,
}

/// What a store remembers of a replica that an earlier Weir started, or meant to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its instance.
    pub id: InstanceId,
    /// Its service.
    pub service: ServiceName,
    /// Revision that it was started for.
    pub revision: u64,
    /// Fingerprint of how it runs.
    pub fingerprint: u64,
    /// Which of the wanted copies it is.
    pub slot: u32,
    /// What was started; `None`: only the intent was written, and something of it may run.
    pub started: Option<Started>,
    /// Start time and boot of a process, which tell a reused id: field 22 of `/proc/PID/stat` and the boot id.
    pub birth: Option<(u64, Arc<str>)>,
}

/// What a runtime tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A workload ended, by itself or because it was stopped.
    Exited {
        /// Its instance.
        id: InstanceId,
        /// How it ended.
        exit: Exit,
    },
}

/// How a workload ended; its text is shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// By the kernel, for more memory than it may have.
    OutOfMemory,
    /// It was restarted, or cut off from its network, by somebody else; its address is no longer its own.
    Strayed,
    /// Not known: somebody else collected the status.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::OutOfMemory => f.write_str("killed for using more memory than run.memory allows"),
            Self::Strayed => f.write_str("was restarted or cut off from its network by somebody else"),
            Self::Unknown => f.write_str("ended"),
        }
    }
}

/// Why a runtime could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The definition cannot be run: the next try fails the same way.
    #[error("{0}")]
    Definition(String),
    /// Every port of the range is taken.
    #[error("no free port in {}-{}: widen node.port_range", .0.start(), .0.end())]
    NoPort(RangeInclusive<u16>),
    /// The id is in use.
    #[error("instance {0} runs already")]
    Duplicate(InstanceId),
    /// Nothing runs under the id.
    #[error("instance {0} does not run")]
    NotRunning(InstanceId),
    /// The system or the engine refused.
    #[error("{doing}: {source}")]
    System {
        /// What was attempted, as an infinitive.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The engine is away or stuck, whatever the definition says.
    #[error("{doing}: {why}")]
    Away {
        /// What was attempted, as an infinitive.
        doing: String,
        /// What is wrong with the engine.
        why: String,
    },
    /// It ended before its start was done; its log has its last words.
    #[error("it {0} at once")]
    Ended(Exit),
    /// The runtime has ended.
    #[error("the runtime has ended")]
    Closed,
}

impl RuntimeError {
    /// Returns a function that wraps a system error with what was attempted.
    fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

/// What is known of something that a runtime depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineState {
    /// Nothing needed it yet.
    Unused,
    /// It answers.
    Reachable,
    /// It cannot be reached, and why.
    Away(Arc<str>),
    /// It does not answer in time, and what was waited for.
    Stuck(Arc<str>),
}

impl fmt::Display for EngineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unused => "unused",
            Self::Reachable => "reachable",
            Self::Away(_) => "away",
            Self::Stuck(_) => "stuck",
        })
    }
}

/// What people see of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineStatus {
    /// Its name.
    pub name: &'static str,
    /// How it is.
    pub state: EngineState,
    /// Since when, in milliseconds of `clock::now_ms`.
    pub since_ms: u64,
    /// Workloads that it is known to run.
    pub workloads: usize,
}

/// Starts and stops workloads on this node.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync {
    /// Starts one workload and returns where it will listen; it need not listen yet.
    ///
    /// # Errors
    /// [`RuntimeError::Definition`] when trying again is of no use before the definition changes; any other variant may
    /// pass. Nothing runs after an error.
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError>;

    /// Asks the workload to end, waits up to `grace`, kills it; returns when it has ended.
    ///
    /// # Errors
    /// [`RuntimeError::NotRunning`] when it had ended before; else what the system said.
    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError>;

    /// Takes up what an earlier Weir of the same owner left running, and returns all of it, also what no record knows;
    /// called once, before the first start. What is returned is listed, told and stopped like what was started here.
    ///
    /// # Errors
    /// When nothing can be said of what runs.
    async fn adopt(&self, known: &[Known]) -> Result<Vec<Running>, RuntimeError>;

    /// Returns what runs now, ordered by id.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    async fn list(&self) -> Result<Vec<Running>, RuntimeError>;

    /// Subscribes to what happens from now on. A receiver that lagged asks [`Runtime::list`] for what it missed.
    fn watch(&self) -> broadcast::Receiver<RuntimeEvent>;

    /// Returns the existing log files of an instance, running or ended a while ago: standard output oldest first, then
    /// standard error.
    fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf>;

    /// Waits until all that an instance wrote is in its log files, once it has ended.
    async fn written(&self, _id: &InstanceId) {}

    /// Returns what is known of the engines that it depends on.
    fn engines(&self) -> Vec<EngineStatus> {
        Vec::new()
    }

    /// Returns what a workload's own check says, if it brings one: how it passes or why it does not.
    fn own_check(&self, _id: &InstanceId) -> Option<Result<String, String>> {
        None
    }

    /// Leaves everything that runs to another Weir of the same owner: nothing is removed, stopped or told any more.
    fn release(&self) {}
}
