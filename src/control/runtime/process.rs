//! Replicas as local processes.
//!
//! A process is watched through its pidfd: the task wakes within a scheduler tick of the exit, kills what is left of the
//! process group and tells. Numbers of processes are reused by the kernel, so signals are sent and children collected
//! under one lock: no signal can reach a stranger. The exit is told before the ports are free again; the next start takes
//! other ports anyway (`ports.rs`).

use crate::control::runtime::command::resolve;
use crate::control::runtime::logs::{self, Logs};
use crate::control::runtime::ports::{Ports, is_free};
use crate::control::runtime::spawner::{self, Job, Spawned, Spawner};
use crate::control::runtime::{Exit, Known, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started};
use crate::model::{InstanceId, Workload};
use crate::sys::process::{self, Signal, Watch};
use crate::{clock, rng::Rng};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, watch};

/// Events that a slow receiver may be behind before it must list again.
const EVENTS: usize = 256;
/// Time between looks at the sizes of log files.
const ROTATE_INTERVAL: Duration = Duration::from_secs(1);
/// Time between looks at whether a stopped process's group is empty.
const GROUP_INTERVAL: Duration = Duration::from_millis(10);

/// Options of the process runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The program that knows `exec`: this one, also when its file has been replaced.
    pub shim: PathBuf,
    /// What `${WEIR}` stands for.
    pub weir: PathBuf,
    /// Folder of the log files.
    pub logs: PathBuf,
    /// Ports handed to processes.
    pub port_range: RangeInclusive<u16>,
}

impl Options {
    /// Returns the options of a Weir with this state folder and port range.
    pub fn new(state: &std::path::Path, port_range: RangeInclusive<u16>) -> Self {
        let own = PathBuf::from("/proc/self/exe");
        let weir = std::env::current_exe().unwrap_or_else(|_| own.clone());
        Self { shim: own, weir, logs: state.join("logs"), port_range }
    }
}

/// Runs replicas as local processes.
#[derive(Debug)]
pub struct Processes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    spawner: Spawner,
    events: broadcast::Sender<RuntimeEvent>,
    /// Short lock, never across an await: starts, ends and signals of one node.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ports: Ports,
    logs: Logs,
    running: BTreeMap<InstanceId, Record>,
}

/// A process that has not been collected.
#[derive(Debug)]
struct Record {
    running: Running,
    pid: u32,
    /// Until when the group may go on although its leader has ended; set by a stop.
    end_by: Option<Instant>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Processes {
    /// Makes the log folder and starts the spawner thread. Must be called on the control runtime.
    ///
    /// # Errors
    /// When the folder cannot be made or the thread cannot be started.
    pub fn open(options: Options) -> Result<Self, RuntimeError> {
        let doing = format!("make the log folder {}", options.logs.display());
        let logs = Logs::open(&options.logs).map_err(RuntimeError::system(doing))?;
        let spawner = Spawner::start(options.shim.clone()).map_err(RuntimeError::system("start a thread"))?;
        let ports = Ports::new(&options.port_range, &mut Rng::from_os());
        let state = Mutex::new(State { ports, logs, running: BTreeMap::new() });
        let (events, _) = broadcast::channel(EVENTS);
        let shared = Arc::new(Shared { options, spawner, events, state });
        tokio::spawn(rotate_logs(Arc::downgrade(&shared)));
        Ok(Self { shared })
    }
}

impl Processes {
    /// Returns where events go, for a runtime beside this one.
    pub fn events(&self) -> broadcast::Sender<RuntimeEvent> {
        self.shared.events.clone()
    }
}

#[async_trait]
impl Runtime for Processes {
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError> {
        let shared = &self.shared;
        let reservation = Reservation::take(shared, &request)?;
        let options = &shared.options;
        let resolved = resolve(&request, &reservation.ports, &options.weir, |name| std::env::var_os(name))?;
        let job = Job {
            id: request.id.clone(),
            resolved,
            directory: request.run.directory.clone(),
            logs: options.logs.clone(),
        };
        // No await after this one: a started process is always recorded.
        let Spawned { child, handle } = shared.spawner.spawn(job).await?;
        let watch = match Watch::register(handle) {
            Ok(watch) => watch,
            Err(error) => {
                spawner::reap(child);
                return Err(RuntimeError::system("watch a process")(error));
            }
        };
        let ports = reservation.keep();
        let pid = child.id();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let started = Started { workload: Workload::Process(pid), address, ports };
        let running = Running {
            id: request.id,
            service: request.service,
            revision: request.revision,
            fingerprint: request.fingerprint,
            slot: request.slot,
            started: started.clone(),
        };
        shared.follow(running, child, watch);
        Ok(started)
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError> {
        let mut exit = self.shared.begin_stop(id, grace)?;
        let ended = exit.wait_for(Option::is_some);
        let first = tokio::time::timeout(grace, ended).await.map(|ended| ended.map(|exit| *exit));
        let ended = match first {
            Ok(ended) => ended,
            Err(_) => {
                self.shared.kill(id);
                exit.wait_for(Option::is_some).await.map(|exit| *exit)
            }
        };
        ended.ok().flatten().ok_or(RuntimeError::Closed)
    }

    async fn adopt(&self, _known: &[Known]) -> Result<Vec<Running>, RuntimeError> {
        // Processes still end with the Weir that started them.
        Ok(Vec::new())
    }

    async fn list(&self) -> Result<Vec<Running>, RuntimeError> {
        Ok(self.shared.lock().running.values().map(|record| record.running.clone()).collect())
    }

    fn watch(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.shared.events.subscribe()
    }

    fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf> {
        logs::existing(&self.shared.options.logs, id)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a started process and watches it in a task of its own.
    fn follow(self: &Arc<Self>, running: Running, child: Child, watch: Watch) {
        let (exited, exit) = watch::channel(None);
        let id = running.id.clone();
        let record = Record { running, pid: child.id(), end_by: None, exit };
        self.lock().running.insert(id.clone(), record);
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            watch.ended().await;
            collect(shared, id, child, exited).await;
        });
    }

    /// Sends SIGTERM and allows the group to go on for `grace` after its leader.
    fn begin_stop(&self, id: &InstanceId, grace: Duration) -> Result<watch::Receiver<Option<Exit>>, RuntimeError> {
        let mut state = self.lock();
        let record = state.running.get_mut(id).ok_or_else(|| RuntimeError::NotRunning(id.clone()))?;
        record.end_by = Some(clock::now() + grace);
        // It may have ended this moment; the watching task says so.
        let _ = process::signal_child(record.pid, Signal::Terminate);
        Ok(record.exit.clone())
    }

    fn kill(&self, id: &InstanceId) {
        if let Some(record) = self.lock().running.get(id) {
            // As above.
            let _ = process::signal_child(record.pid, Signal::Kill);
        }
    }

    /// Collects the child under the lock, so that nobody signals its number afterwards.
    fn take_ended(&self, id: &InstanceId, child: &mut Child) -> (Exit, Option<Record>) {
        let mut state = self.lock();
        let record = state.running.remove(id);
        if record.as_ref().is_none_or(|record| record.end_by.is_none()) {
            // The number is the group's until the child is collected. Usually nobody is left in it.
            let _ = process::signal_child(child.id(), Signal::Kill);
        }
        let exit = child.try_wait().ok().flatten().map_or(Exit::Unknown, exit_of);
        state.logs.retire(id);
        (exit, record)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The kernel kills the leaders when the spawner thread ends; what they have started would live on.
        for record in self.lock().running.values() {
            // It may have ended this moment; it is not collected, so the number is still its own.
            let _ = process::signal_child(record.pid, Signal::Kill);
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    let signal = status.signal().map(Exit::Signal);
    signal.or_else(|| status.code().map(Exit::Status)).unwrap_or(Exit::Unknown)
}

/// Tells of the end of a process and cleans up after it.
async fn collect(shared: Weak<Shared>, id: InstanceId, mut child: Child, exited: watch::Sender<Option<Exit>>) {
    let Some(shared) = shared.upgrade() else { return };
    let (exit, record) = shared.take_ended(&id, &mut child);
    let end_by = record.as_ref().and_then(|record| record.end_by);
    // Nobody may be listening.
    let _ = shared.events.send(RuntimeEvent::Exited { id, exit });
    if let Some(end_by) = end_by {
        end_group(child.id(), end_by).await;
    }
    if let Some(record) = record {
        shared.lock().ports.release(&record.running.started.ports);
    }
    exited.send_replace(Some(exit));
}

/// Waits until the group of an ended leader is empty, then kills the rest: children that a shell left to finish.
async fn end_group(leader: u32, end_by: Instant) {
    let empty = async {
        while process::group_exists(leader) {
            tokio::time::sleep(GROUP_INTERVAL).await;
        }
    };
    if tokio::time::timeout_at(end_by.into(), empty).await.is_err() {
        // The last member may have ended this moment.
        let _ = process::signal_group(leader, Signal::Kill);
    }
}

/// Ports that go back unless the process was started.
struct Reservation {
    shared: Arc<Shared>,
    ports: Vec<u16>,
}

impl Reservation {
    fn take(shared: &Arc<Shared>, request: &StartRequest) -> Result<Self, RuntimeError> {
        let mut state = shared.lock();
        if state.running.contains_key(&request.id) {
            return Err(RuntimeError::Duplicate(request.id.clone()));
        }
        let ports = state.ports.reserve(request.ports.len(), is_free);
        let ports = ports.ok_or_else(|| RuntimeError::NoPort(shared.options.port_range.clone()))?;
        Ok(Self { shared: shared.clone(), ports })
    }

    fn keep(mut self) -> Vec<u16> {
        std::mem::take(&mut self.ports)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.ports.is_empty() {
            self.shared.lock().ports.release(&self.ports);
        }
    }
}

/// Looks at the sizes of log files until the runtime is gone.
async fn rotate_logs(shared: Weak<Shared>) {
    let mut interval = tokio::time::interval(ROTATE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let ids: Vec<_> = shared.lock().running.keys().cloned().collect();
        let folder = shared.options.logs.clone();
        drop(shared);
        let rotated = tokio::task::spawn_blocking(move || {
            ids.iter().filter_map(|id| Some((id.clone(), logs::rotate(&folder, id).err()?))).collect::<Vec<_>>()
        });
        for (id, error) in rotated.await.unwrap_or_default() {
            tracing::warn!(instance = %id, %error, "failed to rotate log files");
        }
    }
}
