//! Replicas as containers of a Docker Engine.
//!
//! The engine is spoken to once a service names an image, or when an earlier Weir left containers. `link.rs` holds the
//! connection: one negotiated version, a limit for each call, what is known of the engine's state. `prepare.rs` sees to
//! image and network, `body.rs` turns a definition into the engine's words and back, `containers.rs` is what is known of
//! each container, `follow.rs` listens to the engine and compares after every gap, `attend.rs` copies what a container
//! writes and removes it after its end, `output.rs` are its files.
//!
//! What a container is stands in its labels, so that a later Weir finds its own by `weir.owner`. A container is one life: one
//! that somebody else restarts or cuts off from its network counts as ended, since its address may be another's by then, and is
//! removed; the scheduler starts a new one. An engine that is away or stuck stops nothing that runs: traffic goes on, and
//! what was missed is found out when it answers again.

use crate::control::runtime::docker::body::{Names, Order, binds, whole_seconds};
use crate::control::runtime::docker::containers::{Check, Containers, Stage, remembered};
use crate::control::runtime::docker::link::{CallError, Link};
use crate::control::runtime::logs::{self, Logs};
use crate::control::runtime::ports::{Ports, is_free};
use crate::control::runtime::{
    EngineStatus, Exit, Known, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started,
};
use crate::control::{self, DockerOptions};
use crate::model::{ContainerAddress, ContainerSpec, InstanceId};
use crate::rng::Rng;
use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerState, HealthStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};

mod attend;
mod body;
mod containers;
mod follow;
mod link;
mod networks;
mod output;
mod prepare;

pub use networks::{Bridge, follow as follow_bridges};

/// Longest wait of a start for an engine that is away, such as one that is restarted.
const ENGINE_WAIT: Duration = Duration::from_secs(20);

/// Options of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Engine, network, time limit, folders.
    pub docker: DockerOptions,
    /// Whose the containers are: the random id of the store. Others' on the same engine are left alone.
    pub owner: Arc<str>,
    /// Folder of the log files.
    pub logs: PathBuf,
    /// Ports handed to containers that share the machine's network.
    pub port_range: RangeInclusive<u16>,
}

impl Options {
    /// Returns the options of the Weir with these, whose store has this id.
    pub fn new(options: &control::Options, owner: &str) -> Self {
        Self {
            docker: options.docker.clone(),
            owner: owner.into(),
            logs: options.state.join("logs").join("containers"),
            port_range: options.port_range.clone(),
        }
    }
}

/// Runs replicas as containers.
#[derive(Debug)]
pub struct Docker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    link: Link,
    events: broadcast::Sender<RuntimeEvent>,
    containers: Containers,
    /// Containers that an attendant will remove.
    attended: Mutex<BTreeSet<InstanceId>>,
    /// Containers whose output is still copied.
    copying: watch::Sender<BTreeSet<InstanceId>>,
    logs: Mutex<Logs>,
    ports: Mutex<Ports>,
    /// Held while a network is looked for and made: the engine would make two of one name.
    networks: tokio::sync::Mutex<()>,
    is_followed: AtomicBool,
    /// Another Weir looks after the containers now.
    is_released: AtomicBool,
    /// The engine answers again.
    back: Notify,
}

impl Docker {
    /// Makes the log folder; does not speak to the engine yet. Events go to `events`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(options: Options, events: broadcast::Sender<RuntimeEvent>) -> Result<Self, RuntimeError> {
        let doing = format!("make the log folder {}", options.logs.display());
        let logs = Logs::open(&options.logs).map_err(RuntimeError::system(doing))?;
        let link = Link::new(options.docker.socket.clone(), options.docker.call_timeout);
        let ports = Ports::new(&options.port_range, &mut Rng::from_os());
        let shared = Shared {
            options,
            link,
            events,
            containers: Containers::default(),
            attended: Mutex::default(),
            copying: watch::Sender::default(),
            logs: Mutex::new(logs),
            ports: Mutex::new(ports),
            networks: tokio::sync::Mutex::new(()),
            is_followed: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            back: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError> {
        let shared = &self.shared;
        let id = request.id.clone();
        if !shared.containers.begin(&id) {
            return Err(RuntimeError::Duplicate(id));
        }
        follow::ensure(shared);
        match shared.launch(&request).await {
            Ok(found) => {
                let Some((running, born)) = body::running(&found).map(|running| (running, born(&found))) else {
                    // It has ended, or it has no address.
                    return Err(self.give_up(&id, exit_of(found.state.as_ref())));
                };
                let started = running.started.clone();
                attend::attend(shared, &id);
                shared.containers.judge(&id, check_of(&found));
                if let Some(exit) = shared.containers.started(running, born) {
                    shared.send(id, exit);
                }
                Ok(started)
            }
            Err(error) => {
                // Something of it may have been made, and may still be made by a call that was given up.
                attend::attend(shared, &id);
                shared.containers.forget(&id);
                Err(error)
            }
        }
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError> {
        let shared = &self.shared;
        if !shared.containers.enter(id, Stage::Stopping) {
            return Err(RuntimeError::NotRunning(id.clone()));
        }
        let options = StopContainerOptionsBuilder::new().t(whole_seconds(grace)).build();
        let limit = grace + Duration::from_secs(1) + shared.link.limit();
        let doing = "stop a container";
        let stop =
            |client: Arc<bollard::Docker>| async move { client.stop_container(id.as_str(), Some(options)).await };
        match shared.link.call_within(doing, limit, stop).await {
            Ok(()) => {}
            Err(error) if error.is_missing() => {}
            Err(error) => {
                // Removed when the engine answers.
                shared.containers.enter(id, Stage::Doomed);
                return Err(error.into_runtime());
            }
        }
        let exit = shared.inspect(id).await.map_or(Exit::Unknown, |found| exit_of(found.state.as_ref()));
        if shared.containers.forget(id).is_some() {
            shared.send(id.clone(), exit);
        }
        Ok(exit)
    }

    async fn adopt(&self, known: &[Known]) -> Result<Vec<Running>, RuntimeError> {
        let shared = &self.shared;
        let remembered: Vec<Running> = known.iter().filter_map(remembered).collect();
        let is_open = known.iter().any(|known| known.started.is_none());
        if remembered.is_empty() && !(is_open && shared.options.docker.socket.exists()) {
            return Ok(Vec::new());
        }
        let found = match shared.listed().await {
            Ok(listed) => self.take_up(listed, known).await,
            Err(error) if remembered.is_empty() => {
                tracing::warn!(%error, "failed to look for containers of an earlier Weir");
                return Ok(Vec::new());
            }
            Err(error) => {
                tracing::warn!(%error, containers = remembered.len(), "containers of an earlier Weir are taken for running");
                for running in &remembered {
                    shared.containers.adopt(running.clone(), None);
                }
                remembered
            }
        };
        for running in &found {
            shared.logs.lock().unwrap_or_else(PoisonError::into_inner).revive(&running.id);
            attend::attend(shared, &running.id);
        }
        follow::ensure(shared);
        Ok(found)
    }

    async fn list(&self) -> Result<Vec<Running>, RuntimeError> {
        Ok(self.shared.containers.running())
    }

    fn watch(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.shared.events.subscribe()
    }

    fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf> {
        logs::existing(&self.shared.options.logs, id)
    }

    async fn written(&self, id: &InstanceId) {
        let mut copying = self.shared.copying.subscribe();
        // The sender is our own.
        let _ = copying.wait_for(|copying| !copying.contains(id)).await;
    }

    fn release(&self) {
        self.shared.is_released.store(true, Ordering::Release);
    }

    fn own_check(&self, id: &InstanceId) -> Option<Result<String, String>> {
        Some(match self.shared.containers.get(id)?.check? {
            Check::Starting => Err("HEALTHCHECK: starting".to_owned()),
            Check::Healthy => Ok("HEALTHCHECK: healthy".to_owned()),
            Check::Unhealthy => Err("HEALTHCHECK: unhealthy".to_owned()),
        })
    }

    fn engines(&self) -> Vec<EngineStatus> {
        let (state, since_ms) = self.shared.link.state();
        let containers = self.shared.containers.running().len();
        vec![EngineStatus { name: "docker", state, since_ms, workloads: containers }]
    }
}

impl Docker {
    /// Forgets a container whose start came to nothing; returns why.
    fn give_up(&self, id: &InstanceId, exit: Exit) -> RuntimeError {
        attend::attend(&self.shared, id);
        match self.shared.containers.forget(id).map(|container| container.stage) {
            Some(Stage::EndedEarly(exit)) => RuntimeError::Ended(exit),
            _ => RuntimeError::Ended(exit),
        }
    }

    /// Takes up what runs of the containers that were found, and has the rest removed.
    async fn take_up(&self, listed: Vec<InstanceId>, known: &[Known]) -> Vec<Running> {
        let shared = &self.shared;
        let mut taken = Vec::with_capacity(listed.len());
        for id in listed {
            let Ok(found) = shared.inspect(&id).await else { continue };
            match body::running(&found) {
                Some(running) => {
                    if !known.iter().any(|known| known.id == id) {
                        tracing::warn!(instance = %id, "found a container of this Weir that no record knows");
                    }
                    shared.containers.adopt(running.clone(), born(&found));
                    shared.containers.judge(&id, check_of(&found));
                    taken.push(running);
                }
                // Its output is kept.
                None => attend::attend(shared, &id),
            }
        }
        taken.sort_by(|one, other| one.id.cmp(&other.id));
        taken
    }
}

impl Shared {
    /// Makes and starts a container; returns what the engine says of it then.
    async fn launch(&self, request: &StartRequest) -> Result<ContainerInspectResponse, RuntimeError> {
        let Some(container) = request.run.container.as_ref() else {
            return Err(RuntimeError::Definition("a container needs an image".to_owned()));
        };
        let binds = binds(container, &self.options.docker.binds)?;
        self.link.wait(ENGINE_WAIT).await;
        prepare::image(&self.link, &container.image).await?;
        let network = container.network.as_deref().unwrap_or(&self.options.docker.network);
        let mut gateways = Vec::new();
        if container.address != ContainerAddress::Host {
            let _one_at_a_time = self.networks.lock().await;
            gateways = prepare::network(&self.link, network).await?;
        }
        let names = match container.address {
            // It has the machine's own resolver.
            ContainerAddress::Host => Names::default(),
            _ => Names::new(&self.options.docker, &gateways, &request.service),
        };
        let ports = self.ports(request, container)?;
        let owner = &self.options.owner;
        let order = Order { request, container, owner, network, ports: &ports, binds: &binds, names: &names };
        let name = request.id.as_str();
        let body = order.body();
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let create = |client: Arc<bollard::Docker>| async move { client.create_container(Some(options), body).await };
        self.link.call("make a container", create).await.map_err(CallError::into_definition)?;
        let start = |client: Arc<bollard::Docker>| async move { client.start_container(name, None).await };
        self.link.call("start a container", start).await.map_err(|error| match error {
            // Somebody removed it between our look and this; the next start makes it.
            CallError::Refused { status: 404, ref message, .. } if message.contains("network") => error.into_runtime(),
            // It says so with the status of an error of its own.
            CallError::Refused { message, .. } if message.contains("unable to find user") => {
                RuntimeError::Definition(message)
            }
            other => other.into_definition(),
        })?;
        self.inspect(&request.id).await.map_err(CallError::into_runtime)
    }

    /// Returns the numbers that the container listens on.
    fn ports(&self, request: &StartRequest, container: &ContainerSpec) -> Result<Vec<u16>, RuntimeError> {
        if container.address != ContainerAddress::Host {
            return Ok(container.ports.clone());
        }
        // Not held: the turn goes on round the range, and what is listened on is passed over.
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = ports.reserve(request.ports.len(), is_free);
        let taken = taken.ok_or_else(|| RuntimeError::NoPort(self.options.port_range.clone()))?;
        ports.release(&taken);
        Ok(taken)
    }

    async fn inspect(&self, id: &InstanceId) -> Result<ContainerInspectResponse, CallError> {
        let inspect = |client: Arc<bollard::Docker>| async move { client.inspect_container(id.as_str(), None).await };
        self.link.call("look at a container", inspect).await
    }

    /// Removes a container, running or not.
    async fn remove(&self, id: &InstanceId) -> Result<(), CallError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let remove =
            |client: Arc<bollard::Docker>| async move { client.remove_container(id.as_str(), Some(options)).await };
        match self.link.call("remove a container", remove).await {
            // Gone, or being removed by somebody else.
            Err(CallError::Refused { status: 404 | 409, .. }) => Ok(()),
            other => other,
        }
    }

    /// Tells an end; nobody may be listening.
    fn send(&self, id: InstanceId, exit: Exit) {
        let _ = self.events.send(RuntimeEvent::Exited { id, exit });
    }

    /// Returns true when another Weir looks after the containers.
    fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }

    fn folder(&self) -> &Path {
        &self.options.logs
    }
}

/// Returns the time of start, as the engine writes it.
fn born(found: &ContainerInspectResponse) -> Option<String> {
    found.state.as_ref()?.started_at.clone()
}

/// Returns what the container's own check says, if it has one.
fn check_of(found: &ContainerInspectResponse) -> Option<Check> {
    match found.state.as_ref()?.health.as_ref()?.status? {
        HealthStatusEnum::STARTING => Some(Check::Starting),
        HealthStatusEnum::HEALTHY => Some(Check::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(Check::Unhealthy),
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
    }
}

/// Returns how a container ended.
fn exit_of(state: Option<&ContainerState>) -> Exit {
    match state {
        Some(state) if state.oom_killed == Some(true) => Exit::OutOfMemory,
        Some(state) => exit_of_code(state.exit_code),
        None => Exit::Unknown,
    }
}

/// The engine reports a signal as 128 and its number, as a shell does.
fn exit_of_code(code: Option<i64>) -> Exit {
    match code.map(i32::try_from) {
        Some(Ok(code @ 129..=192)) => Exit::Signal(code - 128),
        Some(Ok(code)) => Exit::Status(code),
        Some(Err(_)) | None => Exit::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{exit_of, exit_of_code};
    use crate::control::runtime::Exit;
    use bollard::models::ContainerState;

    #[test]
    fn reads_how_a_container_ended() {
        assert_eq!(exit_of_code(Some(0)), Exit::Status(0));
        assert_eq!(exit_of_code(Some(127)), Exit::Status(127));
        assert_eq!(exit_of_code(Some(137)), Exit::Signal(9));
        assert_eq!(exit_of_code(Some(255)), Exit::Status(255));
        assert_eq!(exit_of_code(None), Exit::Unknown);
        let killed = ContainerState { oom_killed: Some(true), exit_code: Some(137), ..ContainerState::default() };
        assert_eq!(exit_of(Some(&killed)), Exit::OutOfMemory);
        assert_eq!(exit_of(None), Exit::Unknown);
    }
}
