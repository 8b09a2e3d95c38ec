//! Replicas as local processes.
//!
//! A process is watched through its pidfd: the task wakes within a scheduler tick of the exit, kills what is left of the
//! process group and tells. Numbers of processes are reused by the kernel, so signals are sent and children collected
//! under one lock: no signal can reach a stranger. An adopted process is somebody else's child: its pidfd is asked before
//! each signal, and how it ended is not known. The exit is told before the ports are free again; the next start takes
//! other ports anyway (`ports.rs`). `claim.rs` decides what is adopted.

use crate::control::runtime::claim::{self, Claim, Claims};
use crate::control::runtime::command::resolve;
use crate::control::runtime::group;
use crate::control::runtime::logs::{self, Logs};
use crate::control::runtime::ports::{Ports, is_free};
use crate::control::runtime::procfs::{self, Stat};
use crate::control::runtime::spawner::{self, Job, Spawned, Spawner};
use crate::control::runtime::{Exit, Known, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started};
use crate::model::{InstanceId, OnExit, Workload};
use crate::sys::process::{self, Signal, Watch};
use crate::{clock, rng::Rng};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, watch};

/// Events that a slow receiver may be behind before it must list again.
const EVENTS: usize = 256;
/// Time between looks at the sizes of log files.
const ROTATE_INTERVAL: Duration = Duration::from_secs(1);
/// Looks for a process that was being started when Weir died, and the pause between them: it leads its session within
/// microseconds of its fork.
const CLAIMS: (usize, Duration) = (25, Duration::from_millis(20));

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
    /// Marks what is started here, so that a later Weir on the same store finds it: the store's id.
    pub owner: String,
    /// What becomes of processes when the runtime is dropped or Weir is killed.
    pub on_exit: OnExit,
}

impl Options {
    /// Returns the options of a Weir with this state folder and port range, whose processes end with it.
    pub fn new(state: &std::path::Path, port_range: RangeInclusive<u16>) -> Self {
        let own = PathBuf::from("/proc/self/exe");
        let weir = std::env::current_exe().unwrap_or_else(|_| own.clone());
        let logs = state.join("logs");
        Self { shim: own, weir, logs, port_range, owner: String::new(), on_exit: OnExit::Stop }
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
    /// Another Weir looks after what runs: it is only collected here.
    is_released: AtomicBool,
    /// Something runs, whose output has to be looked at.
    started: Arc<Notify>,
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
    /// Set for one that is not our child.
    adopted: Option<Adopted>,
    /// Until when the group may go on although its leader has ended; set by a stop.
    end_by: Option<Instant>,
    exit: watch::Receiver<Option<Exit>>,
}

/// What stands in for being the parent.
#[derive(Debug)]
struct Adopted {
    handle: OwnedFd,
    stat: Stat,
}

impl Record {
    /// Signals the process and its group, unless the number may be a stranger's by now.
    fn signal(&self, signal: Signal) {
        if self.adopted.as_ref().is_none_or(|adopted| process::is_alive(&adopted.handle)) {
            // It may have ended this moment; the watching task says so.
            let _ = process::signal_child(self.pid, signal);
        }
    }
}

impl Processes {
    /// Makes the log folder and starts the spawner thread. Must be called on the control runtime.
    ///
    /// # Errors
    /// When the folder cannot be made or the thread cannot be started.
    pub fn open(options: Options) -> Result<Self, RuntimeError> {
        let doing = format!("make the log folder {}", options.logs.display());
        let logs = Logs::open(&options.logs).map_err(RuntimeError::system(doing))?;
        let spawner =
            Spawner::start(options.shim.clone(), options.on_exit).map_err(RuntimeError::system("start a thread"))?;
        let ports = Ports::new(&options.port_range, &mut Rng::from_os());
        let state = Mutex::new(State { ports, logs, running: BTreeMap::new() });
        let (events, _) = broadcast::channel(EVENTS);
        let (is_released, started) = (AtomicBool::new(false), Arc::new(Notify::new()));
        let shared = Arc::new(Shared { options, spawner, events, is_released, started: started.clone(), state });
        tokio::spawn(rotate_logs(Arc::downgrade(&shared), started));
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
        let who = (options.weir.as_path(), options.owner.as_str());
        let resolved = resolve(&request, &reservation.ports, who, |name| std::env::var_os(name))?;
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
        let started = started(child.id(), ports);
        let running = Running {
            id: request.id,
            service: request.service,
            revision: request.revision,
            fingerprint: request.fingerprint,
            slot: request.slot,
            started: started.clone(),
        };
        shared.follow(running, watch, Held::Child(child));
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

    async fn adopt(&self, known: &[Known]) -> Result<Vec<Running>, RuntimeError> {
        let claims = self.shared.claims(known).await?;
        for stray in &claims.strays {
            tracing::warn!(pid = stray.pid, "killing what an ended replica left behind");
            group::kill(stray);
        }
        let mut adopted = Vec::new();
        for claim in claims.claims {
            let known = known.iter().find(|known| known.id == claim.id);
            adopted.extend(self.shared.take_up(claim, known)?);
        }
        Ok(adopted)
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

    fn release(&self) {
        self.shared.is_released.store(true, Ordering::Release);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what runs until everything that was being started has become somebody.
    async fn claims(&self, known: &[Known]) -> Result<Claims, RuntimeError> {
        let records: Vec<claim::Record> = known.iter().filter_map(record_of).collect();
        let (owner, boot) = (self.options.owner.clone(), procfs::boot());
        let (most, pause) = CLAIMS;
        let look = move || claim::claim(&records, &procfs::scan(&owner), &boot);
        let look = Arc::new(look);
        for _ in 1..most {
            let look = look.clone();
            let claims = tokio::task::spawn_blocking(move || look()).await.map_err(|_| RuntimeError::Closed)?;
            if !claims.is_unsettled {
                return Ok(claims);
            }
            tokio::time::sleep(pause).await;
        }
        tokio::task::spawn_blocking(move || look()).await.map_err(|_| RuntimeError::Closed)
    }

    /// Watches a process of an earlier Weir; `None` when it has ended meanwhile.
    fn take_up(self: &Arc<Self>, claim: Claim, known: Option<&Known>) -> Result<Option<Running>, RuntimeError> {
        let Claim { id, leader: stat, service, ports, .. } = claim;
        let Ok(handle) = process::open_handle(stat.pid) else { return Ok(None) };
        // Asked after the handle was opened: the handle is of this very process.
        if procfs::stat(stat.pid).is_none_or(|now| now.start_ticks != stat.start_ticks || now.is_zombie) {
            return Ok(None);
        }
        let recorded = known.and_then(|known| known.started.as_ref());
        let ports = recorded.map_or(ports, |started| started.ports.clone());
        let Some(service) = known.map(|known| known.service.clone()).or(service) else { return Ok(None) };
        let watched = handle.try_clone().and_then(Watch::register);
        let watch = watched.map_err(RuntimeError::system("watch an adopted process"))?;
        let running = Running {
            id: id.clone(),
            service,
            revision: known.map_or(0, |known| known.revision),
            fingerprint: known.map_or(0, |known| known.fingerprint),
            slot: known.map_or(0, |known| known.slot),
            started: started(stat.pid, ports.clone()),
        };
        {
            let mut state = self.lock();
            state.ports.hold(&ports);
            state.logs.revive(&id);
        }
        self.follow(running.clone(), watch, Held::Adopted(Adopted { handle, stat }));
        Ok(Some(running))
    }

    /// Records a running process and watches it in a task of its own.
    fn follow(self: &Arc<Self>, running: Running, watch: Watch, held: Held) {
        let (exited, exit) = watch::channel(None);
        let id = running.id.clone();
        let (pid, adopted, child) = match held {
            Held::Child(child) => (child.id(), None, Some(child)),
            Held::Adopted(adopted) => (adopted.stat.pid, Some(adopted), None),
        };
        let record = Record { running, pid, adopted, end_by: None, exit };
        self.lock().running.insert(id.clone(), record);
        self.started.notify_one();
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
        record.signal(Signal::Terminate);
        Ok(record.exit.clone())
    }

    fn kill(&self, id: &InstanceId) {
        if let Some(record) = self.lock().running.get(id) {
            record.signal(Signal::Kill);
        }
    }

    /// Collects a child under the lock, so that nobody signals its number afterwards.
    fn take_ended(&self, id: &InstanceId, child: Option<&mut Child>) -> (Exit, Option<Record>) {
        let mut state = self.lock();
        let record = state.running.remove(id);
        let by_itself = record.as_ref().is_none_or(|record| record.end_by.is_none());
        let exit = child.map_or(Exit::Unknown, |child| {
            if by_itself {
                // The number is the group's until the child is collected. Usually nobody is left in it.
                let _ = process::signal_child(child.id(), Signal::Kill);
            }
            child.try_wait().ok().flatten().map_or(Exit::Unknown, exit_of)
        });
        state.logs.retire(id);
        (exit, record)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.options.on_exit == OnExit::Keep || self.is_released.load(Ordering::Acquire) {
            return;
        }
        // The kernel kills the leaders when the spawner thread ends; what they have started would live on.
        for record in self.lock().running.values() {
            record.signal(Signal::Kill);
        }
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    let signal = status.signal().map(Exit::Signal);
    signal.or_else(|| status.code().map(Exit::Status)).unwrap_or(Exit::Unknown)
}

/// Tells of the end of a process and cleans up after it.
async fn collect(shared: Weak<Shared>, id: InstanceId, mut child: Option<Child>, exited: watch::Sender<Option<Exit>>) {
    let Some(shared) = shared.upgrade() else { return };
    if shared.is_released.load(Ordering::Acquire) {
        // What is left of its group, and who hears of it, is the other Weir's business.
        drop(child.as_mut().map(Child::try_wait));
        return;
    }
    let (exit, record) = shared.take_ended(&id, child.as_mut());
    // Nobody may be listening.
    let _ = shared.events.send(RuntimeEvent::Exited { id, exit });
    if let Some(Record { running, pid, adopted, end_by, .. }) = record {
        match adopted {
            Some(adopted) => group::end_adopted(adopted.stat, end_by).await,
            None => {
                if let Some(end_by) = end_by {
                    group::end(pid, end_by).await;
                }
            }
        }
        shared.lock().ports.release(&running.started.ports);
    }
    exited.send_replace(Some(exit));
}

fn started(pid: u32, ports: Vec<u16>) -> Started {
    Started { workload: Workload::Process(pid), address: IpAddr::V4(Ipv4Addr::LOCALHOST), ports }
}

/// Returns what is known of a process; `None` for a container.
fn record_of(known: &Known) -> Option<claim::Record> {
    let process = match known.started.as_ref().map(|started| &started.workload) {
        Some(Workload::Container(_)) => return None,
        Some(Workload::Process(pid)) => known.birth.clone().map(|birth| (*pid, birth)),
        None => None,
    };
    Some(claim::Record { id: known.id.clone(), process })
}

/// What is watched.
enum Held {
    Child(Child),
    Adopted(Adopted),
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

/// Looks at the sizes of log files while something runs, until the runtime is gone.
async fn rotate_logs(shared: Weak<Shared>, started: Arc<Notify>) {
    let mut interval = tokio::time::interval(ROTATE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.is_released.load(Ordering::Acquire)) else {
            return;
        };
        let ids: Vec<_> = shared.lock().running.keys().cloned().collect();
        let folder = shared.options.logs.clone();
        drop(shared);
        if ids.is_empty() {
            started.notified().await;
            continue;
        }
        let rotated = tokio::task::spawn_blocking(move || {
            ids.iter().filter_map(|id| Some((id.clone(), logs::rotate(&folder, id).err()?))).collect::<Vec<_>>()
        });
        for (id, error) in rotated.await.unwrap_or_default() {
            tracing::warn!(instance = %id, %error, "failed to rotate log files");
        }
    }
}
