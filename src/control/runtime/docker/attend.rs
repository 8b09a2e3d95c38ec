//! One attendant for each container: copies what it writes while it lives, and removes it after its end.

use crate::control::runtime::docker::Shared;
use crate::control::runtime::docker::output::{CopyError, Output};
use crate::control::runtime::logs;
use crate::model::InstanceId;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

/// Pause before the output is asked for again after the engine broke off.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for the last output of a container that has ended: an engine may be busy, but a stuck one holds up nothing.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Longest pause between tries to remove a container while the engine is away.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Time between looks at the sizes of log files.
const ROTATE_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the attendant of a container, known or ended; there is one at most.
pub(super) fn attend(shared: &Arc<Shared>, id: &InstanceId) {
    if shared.attended.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
        shared.copying.send_if_modified(|copying| copying.insert(id.clone()));
        tokio::spawn(run(Arc::downgrade(shared), id.clone()));
    }
}

async fn run(shared: Weak<Shared>, id: InstanceId) {
    let Some(alive) = shared.upgrade() else { return };
    let mut output = match Output::open(alive.folder(), &id) {
        Ok(output) => Some(output),
        Err(error) => {
            tracing::warn!(instance = %id, %error, "failed to open log files: the output is not kept");
            None
        }
    };
    if let Some(output) = &mut output {
        tokio::select! {
            () = alive.containers.gone(&id) => {}
            () = copy(&alive, &id, output) => {}
        }
        // Who asks in vain says so.
        if tokio::time::timeout(LAST_WORDS, last_words(&alive, &id, output)).await.is_err() {
            tracing::warn!(instance = %id, "the last output of a container was not to be had within {LAST_WORDS:?}");
        }
    } else {
        alive.containers.gone(&id).await;
    }
    alive.copying.send_if_modified(|copying| copying.remove(&id));
    remove(&alive, &id).await;
    alive.logs.lock().unwrap_or_else(PoisonError::into_inner).retire(&id);
    alive.attended.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
}

/// Copies what is left of the output of a container that has ended.
async fn last_words(shared: &Shared, id: &InstanceId, output: &mut Output) {
    while !shared.is_released() {
        let copied = match shared.link.client().await {
            Ok(client) => output.copy(&client, id.as_str(), false).await,
            Err(error) => Err(CopyError::Broken(error.to_string())),
        };
        match copied {
            Ok(()) => return,
            Err(error @ CopyError::None(_)) => {
                return tracing::debug!(instance = %id, %error, "the last output is not copied");
            }
            Err(error) => tracing::debug!(instance = %id, %error, "failed to copy the last output"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Copies for ever.
async fn copy(shared: &Shared, id: &InstanceId, output: &mut Output) {
    let mut rotate = tokio::time::interval(ROTATE_INTERVAL);
    rotate.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // It cannot be followed before it is made.
        if shared.containers.get(id).is_some_and(|container| container.running.is_some())
            && let Ok(client) = shared.link.client().await
        {
            let mut copying = std::pin::pin!(output.copy(&client, id.as_str(), true));
            loop {
                tokio::select! {
                    copied = &mut copying => {
                        if let Err(error) = copied {
                            tracing::debug!(instance = %id, %error, "the output broke off");
                        }
                        break;
                    }
                    _ = rotate.tick() => if let Err(error) = logs::rotate(shared.folder(), id) {
                        tracing::warn!(instance = %id, %error, "failed to rotate log files");
                    }
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Removes the container, however long the engine is away.
async fn remove(shared: &Shared, id: &InstanceId) {
    let mut pause = AGAIN;
    while !shared.is_released()
        && let Err(error) = shared.remove(id).await
    {
        tracing::debug!(instance = %id, error = %error.into_runtime(), "failed to remove a container");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}
