//! A spike: replicas as containers, by the Docker Engine API, to prove that [`Runtime`] fits them.
//!
//! Labels carry what Weir must know of a container (`weir.instance`, `weir.service`, `weir.revision`, `weir.node`), so that
//! `list` needs no memory. Ends come from the engine's event stream; when it breaks, the list tells what was missed, so
//! that each end is told once. Containers get no capability, no new privileges, and bounds on processes and memory. Ports
//! are the container's own: each container has its address, so nothing needs to be reserved. Definitions name no image
//! yet; all containers use one.

use crate::clock;
use crate::control::runtime::command::{Expanded, expand};
use crate::control::runtime::{Exit, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started};
use crate::model::{InstanceId, NodeId, ServiceName, Workload};
use async_trait::async_trait;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerSummary, EndpointSettings, EventMessage, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use futures_core::Stream;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;

/// Events that a slow receiver may be behind before it must list again.
const EVENTS: usize = 256;
/// Time after which the engine is held to be stuck, in seconds; above the longest grace period in use.
const ENGINE_TIMEOUT_S: u64 = 120;
/// Pause before the event stream is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// First port inside a container; the others follow.
const FIRST_PORT: u16 = 8000;
/// Processes and threads in one container: a fork bomb ends there.
const MAX_PROCESSES: i64 = 1024;
/// Memory of one container in bytes, until definitions say.
const MAX_MEMORY_BYTES: i64 = 512 << 20;

/// Options of the Docker runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The engine's socket.
    pub socket: PathBuf,
    /// The image of every container.
    pub image: String,
    /// The network that containers are reached on.
    pub network: String,
    /// This machine; containers of others on the same engine are left alone.
    pub node: NodeId,
}

/// Runs replicas as containers.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What is being done with a container that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody knows of it yet.
    Starting,
    /// It ended before its start was done.
    EndedEarly(Exit),
    Running,
    Stopping,
}

#[derive(Debug)]
struct Shared {
    client: bollard::Docker,
    options: Options,
    events: broadcast::Sender<RuntimeEvent>,
    /// Containers whose end has not been told. Short lock, never across an await.
    known: Mutex<BTreeMap<InstanceId, Stage>>,
}

impl Engine {
    /// Connects, removes what an earlier Weir on this node left, and follows the event stream.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn open(options: Options) -> Result<Self, RuntimeError> {
        let socket = options.socket.to_string_lossy().into_owned();
        let doing = format!("connect to the Docker Engine at {socket}");
        let client = bollard::Docker::connect_with_unix(&socket, ENGINE_TIMEOUT_S, bollard::API_DEFAULT_VERSION);
        let client = client.map_err(failed(&doing))?.negotiate_version().await.map_err(failed(&doing))?;
        let (events, _) = broadcast::channel(EVENTS);
        let shared = Arc::new(Shared { client, options, events, known: Mutex::default() });
        for (id, _) in shared.containers(true).await? {
            shared.remove(&id).await;
        }
        tokio::spawn(follow(Arc::downgrade(&shared)));
        Ok(Self { shared })
    }
}

#[async_trait]
impl Runtime for Engine {
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError> {
        let shared = &self.shared;
        if shared.lock().insert(request.id.clone(), Stage::Starting).is_some() {
            return Err(RuntimeError::Duplicate(request.id));
        }
        let started = shared.create_and_start(&request).await;
        match (started, shared.begun(&request.id)) {
            (Ok(started), None) => Ok(started),
            (Ok(started), Some(exit)) => {
                shared.tell(&request.id, exit);
                shared.remove(&request.id).await;
                Ok(started)
            }
            (Err(error), early) => {
                shared.lock().remove(&request.id);
                shared.remove(&request.id).await;
                // A container that has ended has no address, which is not what is wrong with it.
                let Some(exit) = early else { return Err(error) };
                Err(RuntimeError::system("start a container")(io::Error::other(exit.to_string())))
            }
        }
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError> {
        let shared = &self.shared;
        match shared.lock().get_mut(id) {
            Some(stage) => *stage = Stage::Stopping,
            None => return Err(RuntimeError::NotRunning(id.clone())),
        }
        // The engine counts whole seconds; at least the grace period.
        let grace_s = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(grace_s).build();
        shared.client.stop_container(id.as_str(), Some(options)).await.map_err(failed("stop a container"))?;
        let inspected =
            shared.client.inspect_container(id.as_str(), None).await.map_err(failed("inspect a container"))?;
        let exit = exit_of(inspected.state.and_then(|state| state.exit_code));
        shared.tell(id, exit);
        shared.remove(id).await;
        Ok(exit)
    }

    async fn list(&self) -> Result<Vec<Running>, RuntimeError> {
        let mut running: Vec<Running> =
            self.shared.containers(false).await?.into_iter().filter_map(|(_, running)| running).collect();
        running.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(running)
    }

    fn watch(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.shared.events.subscribe()
    }

    fn log_paths(&self, _id: &InstanceId) -> Vec<PathBuf> {
        // The engine keeps the logs of containers.
        Vec::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Stage>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create_and_start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        let count = u16::try_from(request.ports.len()).unwrap_or(u16::MAX);
        let ports: Vec<u16> = (0..count).map(|index| FIRST_PORT.saturating_add(index)).collect();
        let name = request.id.as_str();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self.client.create_container(Some(options), self.body(request, &ports)).await;
        let created = created.map_err(refused("create a container"))?;
        self.client.start_container(name, None).await.map_err(refused("start a container"))?;
        let inspected = self.client.inspect_container(name, None).await.map_err(failed("inspect a container"))?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks);
        let address = self.address(networks.as_ref()).ok_or_else(|| {
            let none = io::Error::other(format!("it has no address on network {}", self.options.network));
            RuntimeError::system("reach a container")(none)
        })?;
        Ok(Started { workload: Workload::Container(created.id.into()), address, ports })
    }

    fn body(&self, request: &StartRequest, ports: &[u16]) -> ContainerCreateBody {
        let Expanded { words, environment } = expand(request, ports, Path::new("/weir"));
        let labels = [
            ("weir.instance", request.id.to_string()),
            ("weir.service", request.service.to_string()),
            ("weir.revision", request.revision.to_string()),
            ("weir.node", self.options.node.to_string()),
            ("weir.ports", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")),
        ];
        let host = HostConfig {
            network_mode: Some(self.options.network.clone()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            pids_limit: Some(MAX_PROCESSES),
            memory: Some(MAX_MEMORY_BYTES),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.options.image.clone()),
            cmd: Some(words),
            env: Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            working_dir: request.run.directory.as_ref().map(|path| path.to_string_lossy().into_owned()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }

    fn filters(&self, more: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
        let label = format!("weir.node={}", self.options.node);
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
        more.chain([("label".to_owned(), vec![label])]).collect()
    }

    /// Returns this node's containers, running ones or all; `None` where the labels were tampered with.
    async fn containers(&self, all: bool) -> Result<Vec<(InstanceId, Option<Running>)>, RuntimeError> {
        let options = ListContainersOptionsBuilder::new().all(all).filters(&self.filters(&[])).build();
        let found = self.client.list_containers(Some(options)).await.map_err(failed("list containers"))?;
        let id =
            |container: &ContainerSummary| InstanceId::parse(container.labels.as_ref()?.get("weir.instance")?).ok();
        Ok(found.iter().filter_map(|container| Some((id(container)?, self.running(container)))).collect())
    }

    fn running(&self, container: &ContainerSummary) -> Option<Running> {
        let labels = container.labels.as_ref()?;
        let networks = container.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let ports = labels.get("weir.ports")?.split(',').filter_map(|port| port.parse().ok()).collect();
        Some(Running {
            id: InstanceId::parse(labels.get("weir.instance")?).ok()?,
            service: ServiceName::parse(labels.get("weir.service")?).ok()?,
            revision: labels.get("weir.revision")?.parse().ok()?,
            started: Started {
                workload: Workload::Container(container.id.as_deref()?.into()),
                address: self.address(networks)?,
                ports,
            },
        })
    }

    fn address(&self, networks: Option<&HashMap<String, EndpointSettings>>) -> Option<IpAddr> {
        networks?.get(&self.options.network)?.ip_address.as_ref()?.parse().ok()
    }

    /// Notes that a start is done; returns how the container ended if it has already.
    fn begun(&self, id: &InstanceId) -> Option<Exit> {
        match self.lock().get_mut(id) {
            Some(Stage::EndedEarly(exit)) => Some(*exit),
            Some(stage) => {
                *stage = Stage::Running;
                None
            }
            None => None,
        }
    }

    /// Tells the end of a container, once.
    fn tell(&self, id: &InstanceId, exit: Exit) {
        if self.lock().remove(id).is_some() {
            // Nobody may be listening.
            let _ = self.events.send(RuntimeEvent::Exited { id: id.clone(), exit });
        }
    }

    async fn remove(&self, id: &InstanceId) {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        match self.client.remove_container(id.as_str(), Some(options)).await {
            Ok(()) | Err(Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
            Err(error) => tracing::warn!(instance = %id, %error, "failed to remove a container"),
        }
    }

    /// Takes the news of an end.
    async fn ended(&self, id: &InstanceId, exit: Exit) {
        match self.lock().get_mut(id) {
            Some(Stage::Running) => {}
            Some(stage @ Stage::Starting) => {
                *stage = Stage::EndedEarly(exit);
                return;
            }
            // Whoever stops it reads its status, tells and removes it.
            Some(Stage::Stopping | Stage::EndedEarly(_)) | None => return,
        }
        self.tell(id, exit);
        self.remove(id).await;
    }

    /// Tells what ended while the event stream was away.
    async fn catch_up(&self) {
        let Ok(running) = self.containers(false).await else { return };
        let is_missed = |id: &InstanceId, stage: &Stage| {
            *stage == Stage::Running && !running.iter().any(|(running, _)| running == id)
        };
        let known = self.lock().clone();
        for (id, _) in known.iter().filter(|(id, stage)| is_missed(id, stage)) {
            let inspected = self.client.inspect_container(id.as_str(), None).await.ok();
            let code = inspected.and_then(|inspected| inspected.state).and_then(|state| state.exit_code);
            self.ended(id, exit_of(code)).await;
        }
    }
}

/// Follows the engine's events until the runtime is gone.
async fn follow(shared: Weak<Shared>) {
    loop {
        let Some(alive) = shared.upgrade() else { return };
        let filters = alive.filters(&[("type", "container"), ("event", "die")]);
        let client = alive.client.clone();
        // The stream begins when it is first polled; with `since` it has what ended while the list was read. An end that
        // both tell is told once.
        let since = (clock::unix_ms() / 1000).to_string();
        let options = EventsOptionsBuilder::new().since(&since).filters(&filters).build();
        let mut stream = pin!(client.events(Some(options)));
        alive.catch_up().await;
        drop(alive);
        while let Some(Ok(message)) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
            let Some(alive) = shared.upgrade() else { return };
            if let Some((id, exit)) = death(message) {
                alive.ended(&id, exit).await;
            }
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

fn death(message: EventMessage) -> Option<(InstanceId, Exit)> {
    let attributes = message.actor?.attributes?;
    let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
    Some((InstanceId::parse(attributes.get("weir.instance")?).ok()?, exit_of(code)))
}

/// The engine reports a signal as 128 and its number, as a shell does.
fn exit_of(code: Option<i64>) -> Exit {
    match code.map(i32::try_from) {
        Some(Ok(code @ 129..=192)) => Exit::Signal(code - 128),
        Some(Ok(code)) => Exit::Status(code),
        Some(Err(_)) | None => Exit::Unknown,
    }
}

fn failed(doing: &str) -> impl FnOnce(Error) -> RuntimeError {
    let doing = doing.to_owned();
    move |error| RuntimeError::system(doing)(io::Error::other(error))
}

/// As [`failed`], but an image or a program that does not exist is the definition's fault.
fn refused(doing: &str) -> impl FnOnce(Error) -> RuntimeError {
    let failed = failed(doing);
    move |error| match error {
        Error::DockerResponseServerError { status_code: 400 | 404, message } => RuntimeError::Definition(message),
        other => failed(other),
    }
}
