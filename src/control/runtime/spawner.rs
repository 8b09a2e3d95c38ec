//! The thread that starts processes.
//!
//! The kernel sends a death signal when the *thread* that started the child ends (prctl(2)), so children that are to end
//! with Weir are started by one thread that lives exactly as long as the runtime: when the runtime is dropped, or Weir is
//! killed, the thread is gone and so are the children. Others get no death signal. The thread also keeps fork and exec,
//! which block, away from the control thread.

use crate::control::runtime::RuntimeError;
use crate::control::runtime::command::Resolved;
use crate::control::runtime::logs;
use crate::model::{InstanceId, OnExit};
use crate::sys::descriptors;
use crate::sys::process::{self, Signal};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Starts waiting at a time; the scheduler bounds its own below that.
const QUEUE: usize = 64;

/// One process to start.
#[derive(Debug)]
pub(super) struct Job {
    /// Its instance, which names its log files.
    pub id: InstanceId,
    /// What to execute.
    pub resolved: Resolved,
    /// Its working directory.
    pub directory: Option<PathBuf>,
    /// Folder of its log files.
    pub logs: PathBuf,
}

/// A started process.
#[derive(Debug)]
pub(super) struct Spawned {
    /// The child, to collect it.
    pub child: Child,
    /// Becomes readable when it ends.
    pub handle: OwnedFd,
}

type Reply = oneshot::Sender<Result<Spawned, RuntimeError>>;

/// The sending end; the thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: mpsc::SyncSender<(Job, Reply)>,
}

impl Spawner {
    /// Starts the thread; `shim` is the program that knows `exec`, `on_exit` says whether children end with Weir.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(shim: PathBuf, on_exit: OnExit) -> io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<(Job, Reply)>(QUEUE);
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            while let Ok((job, reply)) = queue.recv() {
                if let Err(Ok(abandoned)) = reply.send(spawn(&shim, on_exit, &job)) {
                    reap(abandoned.child);
                }
            }
        })?;
        Ok(Self { jobs })
    }

    /// Starts one process. When the future is dropped before it is ready, the process is killed.
    pub(super) async fn spawn(&self, job: Job) -> Result<Spawned, RuntimeError> {
        let (reply, spawned) = oneshot::channel();
        self.jobs.try_send((job, reply)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => RuntimeError::System {
                doing: "start a process".to_owned(),
                source: io::Error::new(io::ErrorKind::WouldBlock, "too many starts at once"),
            },
            mpsc::TrySendError::Disconnected(_) => RuntimeError::Closed,
        })?;
        spawned.await.map_err(|_| RuntimeError::Closed)?
    }
}

fn spawn(shim: &PathBuf, on_exit: OnExit, job: &Job) -> Result<Spawned, RuntimeError> {
    let (stdout, stderr) = logs::create(&job.logs, &job.id)
        .map_err(RuntimeError::system(format!("open log files in {}", job.logs.display())))?;
    let mut command = Command::new(shim);
    command.arg("exec");
    if on_exit == OnExit::Stop {
        command.args(["--parent", &std::process::id().to_string()]);
    }
    if let Some(limit) = descriptors::found() {
        command.args(["--descriptors", &limit.to_string()]);
    }
    command.arg("--").arg(&job.resolved.program).args(&job.resolved.arguments);
    command.env_clear().envs(&job.resolved.environment);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    if let Some(directory) = &job.directory {
        command.current_dir(directory);
    }
    let child = command.spawn().map_err(RuntimeError::system(format!("start {}", job.resolved.program.display())))?;
    match process::open_handle(child.id()) {
        Ok(handle) => Ok(Spawned { child, handle }),
        Err(error) => {
            reap(child);
            Err(RuntimeError::system("open a process handle")(error))
        }
    }
}

/// Kills a child that nobody will watch, with its group, and collects it.
pub(super) fn reap(mut child: Child) {
    // It may have ended already.
    let _ = process::signal_child(child.id(), Signal::Kill);
    let _ = child.wait();
}
