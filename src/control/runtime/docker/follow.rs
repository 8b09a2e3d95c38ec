//! Listens to the engine: what ended, what was restarted or cut off, what its own checks say. After each gap it compares what
//! is known with what is there, so that each end is told once however it was learned.

use crate::clock;
use crate::control::runtime::Exit;
use crate::control::runtime::docker::containers::{Check, Container, Stage};
use crate::control::runtime::docker::link::CallError;
use crate::control::runtime::docker::{Shared, attend, body, born, check_of, exit_of, exit_of_code};
use crate::control::runtime::{EngineState, RuntimeError};
use crate::model::{InstanceId, Workload};
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_core::Stream;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

/// Pauses before the engine is asked again after it went away: the first, doubling, up to the last.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Time between questions whether the engine lives; each may take as long as the limit of a call.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Events are asked for from so many seconds before a comparison, so that none falls between the two.
const OVERLAP_S: u64 = 2;

/// Starts to follow the engine, once.
pub(super) fn ensure(shared: &Arc<Shared>) {
    if !shared.is_followed.swap(true, Ordering::AcqRel) {
        tokio::spawn(follow(Arc::downgrade(shared)));
        tokio::spawn(watch(Arc::downgrade(shared)));
    }
}

/// Asks now and then whether the engine lives; tells when it does again.
async fn watch(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let Some(alive) = shared.upgrade().filter(|alive| !alive.is_released()) else { return };
        let was_reachable = matches!(alive.link.state().0, EngineState::Reachable);
        let answer =
            alive.link.call("ask the engine whether it lives", |client| async move { client.ping().await }).await;
        if answer.is_ok() && !was_reachable {
            alive.back.notify_one();
        }
    }
}

/// Follows the engine's events until the runtime is gone.
async fn follow(shared: Weak<Shared>) {
    let mut pause = RECONNECT.0;
    loop {
        let Some(alive) = shared.upgrade().filter(|alive| !alive.is_released()) else { return };
        if let Ok(client) = alive.link.client().await {
            drop(alive);
            if session(&shared, &client).await {
                pause = RECONNECT.0;
            }
        } else {
            drop(alive);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Listens until the engine breaks off; true when it was of use.
async fn session(shared: &Weak<Shared>, client: &bollard::Docker) -> bool {
    let since = (clock::unix_ms() / 1000).saturating_sub(OVERLAP_S).to_string();
    let names = ["kill", "die", "start", "destroy", "disconnect", "health_status"];
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned(), "network".to_owned()]),
        ("event".to_owned(), names.map(str::to_owned).to_vec()),
    ]);
    // The stream begins when it is first polled.
    let mut stream = pin!(client.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filters).build())));
    let mut was_of_use = false;
    {
        let Some(alive) = shared.upgrade() else { return false };
        match compare(&alive).await {
            Ok(()) => was_of_use = true,
            Err(error) => tracing::debug!(%error, "failed to compare what runs"),
        }
    }
    loop {
        let Some(alive) = shared.upgrade().filter(|alive| !alive.is_released()) else { return was_of_use };
        let event = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
        let woken = tokio::select! {
            event = event => Some(event),
            () = alive.back.notified() => None,
            // Lets go of the runtime now and then, so that it can end.
            () = tokio::time::sleep(HEARTBEAT) => continue,
        };
        if alive.is_released() {
            return was_of_use;
        }
        match woken {
            Some(Some(Ok(event))) => heard(&alive, event).await,
            Some(Some(Err(_)) | None) => {
                alive.link.reset();
                return was_of_use;
            }
            None => {
                if let Err(error) = compare(&alive).await {
                    tracing::debug!(%error, "failed to compare what runs");
                }
            }
        }
    }
}

/// Draws conclusions from one event.
async fn heard(shared: &Arc<Shared>, event: EventMessage) {
    let Some(actor) = event.actor else { return };
    let (action, attributes) = (event.action.unwrap_or_default(), actor.attributes.unwrap_or_default());
    if action == "disconnect" {
        if let Some(id) = attributes.get("container").and_then(|container| by_container(shared, container)) {
            verify(shared, &id).await;
        }
        return;
    }
    if attributes.get(body::OWNER).map(String::as_str) != Some(&*shared.options.owner) {
        return;
    }
    let Some(id) = body::instance(&attributes) else { return };
    match action.as_str() {
        "die" => {
            let mut exit = exit_of_code(attributes.get("exitCode").and_then(|code| code.parse().ok()));
            if exit == Exit::Signal(9)
                && let Ok(found) = shared.inspect(&id).await
                && exit_of(found.state.as_ref()) == Exit::OutOfMemory
            {
                exit = Exit::OutOfMemory;
            }
            // Whoever stops it by hand has not found it failing, whatever status it chose to end with.
            let signal = shared.containers.get(&id).and_then(|known| known.killed_by);
            if let (Exit::Status(_), Some(signal)) = (exit, signal) {
                exit = Exit::Signal(signal);
            }
            ended(shared, &id, exit);
        }
        "kill" => {
            if let Some(signal) = attributes.get("signal").and_then(|signal| signal.parse().ok()) {
                shared.containers.killed(&id, signal);
            }
        }
        "destroy" => ended(shared, &id, Exit::Unknown),
        "start" => stray(shared, &id).await,
        "health_status: healthy" => shared.containers.judge(&id, Some(Check::Healthy)),
        "health_status: unhealthy" => shared.containers.judge(&id, Some(Check::Unhealthy)),
        _ => {}
    }
}

/// Tells an end, if it is news.
fn ended(shared: &Shared, id: &InstanceId, exit: Exit) {
    if shared.containers.ended(id, exit) {
        shared.send(id.clone(), exit);
    }
}

fn by_container(shared: &Shared, container: &str) -> Option<InstanceId> {
    let is_it = |known: &Container| {
        let running = known.running.as_ref().map(|running| &running.started.workload);
        matches!(running, Some(Workload::Container(id)) if **id == *container)
    };
    shared.containers.all().into_iter().find(|(_, known)| is_it(known)).map(|(id, _)| id)
}

/// Removes a container of ours that nobody knows: one that somebody restarted after its end was told, or one that was made
/// by a call that came too late.
async fn stray(shared: &Shared, id: &InstanceId) {
    let is_known = || shared.containers.get(id).is_some();
    let is_attended = || shared.attended.lock().unwrap_or_else(PoisonError::into_inner).contains(id);
    if is_known() || is_attended() {
        return;
    }
    tracing::warn!(instance = %id, "removing a container that was started by somebody else, or too late");
    if let Err(error) = shared.remove(id).await {
        tracing::warn!(instance = %id, error = %error.into_runtime(), "failed to remove a container");
    }
}

/// Compares what is known with what is there.
async fn compare(shared: &Arc<Shared>) -> Result<(), RuntimeError> {
    let listed = shared.listed().await?;
    for (id, known) in shared.containers.all() {
        match known.stage {
            Stage::Running => verify(shared, &id).await,
            Stage::Doomed => match shared.remove(&id).await {
                Ok(()) => ended(shared, &id, Exit::Signal(9)),
                Err(error) => return Err(error.into_runtime()),
            },
            Stage::Starting | Stage::EndedEarly(_) | Stage::Stopping => {}
        }
    }
    for id in listed {
        stray(shared, &id).await;
    }
    Ok(())
}

/// Looks whether a container is still what it was: the same life at the same address.
async fn verify(shared: &Arc<Shared>, id: &InstanceId) {
    let Some(known) = shared.containers.get(id).filter(|known| known.stage == Stage::Running) else { return };
    let found = match shared.inspect(id).await {
        Ok(found) => found,
        Err(error) if error.is_missing() => return ended(shared, id, Exit::Unknown),
        // Looked at again when the engine answers.
        Err(_) => return,
    };
    let is_running = found.state.as_ref().is_some_and(|state| state.running == Some(true));
    if !is_running {
        return ended(shared, id, exit_of(found.state.as_ref()));
    }
    let (life, running) = (born(&found), body::running(&found));
    let is_same_life = known.born.is_none() || known.born == life;
    let is_same_place = running.map(|running| running.started) == known.running.map(|running| running.started);
    if is_same_life && is_same_place {
        shared.containers.confirm(id, life);
        shared.containers.judge(id, check_of(&found));
    } else {
        // Its attendant removes it.
        attend::attend(shared, id);
        ended(shared, id, Exit::Strayed);
    }
}

impl Shared {
    /// Returns the instances of all containers of this owner, running or not.
    pub(super) async fn listed(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        let label = format!("{}={}", body::OWNER, self.options.owner);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = |client: Arc<bollard::Docker>| async move { client.list_containers(Some(options)).await };
        let found = self.link.call("list containers", list).await.map_err(CallError::into_runtime)?;
        Ok(found.iter().filter_map(|found| body::instance(found.labels.as_ref()?)).collect())
    }
}
