//! What is known of this Weir's containers: values only, one short lock.

use crate::control::runtime::{Exit, Known, Running};
use crate::model::{InstanceId, Workload};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is being done with a container whose end has not been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Being made and started; nobody has been told of it.
    Starting,
    /// It ended before its start was done.
    EndedEarly(Exit),
    /// Runs, as far as is known.
    Running,
    /// Being stopped; whoever stops it tells how it ended.
    Stopping,
    /// It was to be stopped, but the engine did not do it: it is removed as soon as the engine answers.
    Doomed,
}

/// What a container's own check (HEALTHCHECK) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Starting,
    Healthy,
    Unhealthy,
}

/// One container.
#[derive(Debug, Clone)]
pub(super) struct Container {
    pub(super) stage: Stage,
    /// Once it is started.
    pub(super) running: Option<Running>,
    /// The engine's time of its start: another one is another life, perhaps at another address.
    pub(super) born: Option<String>,
    /// The signal that somebody had the engine send to it.
    pub(super) killed_by: Option<i32>,
    /// What its own check says; `None` when it has none.
    pub(super) check: Option<Check>,
}

/// All of them by instance.
#[derive(Debug, Default)]
pub(super) struct Containers {
    all: Mutex<BTreeMap<InstanceId, Container>>,
    /// Changes with each container that is forgotten.
    gone: watch::Sender<()>,
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Container>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a container under the lock.
    fn drop_one(&self, all: &mut BTreeMap<InstanceId, Container>, id: &InstanceId) -> Option<Container> {
        let container = all.remove(id);
        self.gone.send_replace(());
        container
    }

    /// Waits until a container is not known any more.
    pub(super) async fn gone(&self, id: &InstanceId) {
        let mut gone = self.gone.subscribe();
        while self.lock().contains_key(id) {
            // The sender is our own.
            let _ = gone.changed().await;
        }
    }

    /// Takes up a container that is about to be made; false when the id is in use.
    pub(super) fn begin(&self, id: &InstanceId) -> bool {
        let mut all = self.lock();
        if all.contains_key(id) {
            return false;
        }
        let stage = Stage::Starting;
        all.insert(id.clone(), Container { stage, running: None, born: None, killed_by: None, check: None });
        true
    }

    /// Takes up a container that runs already.
    pub(super) fn adopt(&self, running: Running, born: Option<String>) {
        let container =
            Container { stage: Stage::Running, running: Some(running.clone()), born, killed_by: None, check: None };
        self.lock().insert(running.id, container);
    }

    /// Notes that a start is done; returns how the container ended when it has already, and then forgets it.
    pub(super) fn started(&self, running: Running, born: Option<String>) -> Option<Exit> {
        let mut all = self.lock();
        let container = all.get_mut(&running.id)?;
        if let Stage::EndedEarly(exit) = container.stage {
            self.drop_one(&mut all, &running.id);
            return Some(exit);
        }
        *container = Container { stage: Stage::Running, running: Some(running), born, ..container.clone() };
        None
    }

    /// Forgets a container; returns what was known of it.
    pub(super) fn forget(&self, id: &InstanceId) -> Option<Container> {
        self.drop_one(&mut self.lock(), id)
    }

    /// Moves a container to another stage; false when it is not known.
    pub(super) fn enter(&self, id: &InstanceId, stage: Stage) -> bool {
        self.lock().get_mut(id).map(|container| container.stage = stage).is_some()
    }

    /// Notes that somebody had the engine send a signal.
    pub(super) fn killed(&self, id: &InstanceId, signal: i32) {
        if let Some(container) = self.lock().get_mut(id) {
            container.killed_by = Some(signal);
        }
    }

    /// Notes what the container's own check says.
    pub(super) fn judge(&self, id: &InstanceId, check: Option<Check>) {
        if let Some(container) = self.lock().get_mut(id) {
            container.check = check;
        }
    }

    /// Takes the news of an end; true when it is to be told, once.
    pub(super) fn ended(&self, id: &InstanceId, exit: Exit) -> bool {
        let mut all = self.lock();
        match all.get_mut(id).map(|container| &mut container.stage) {
            Some(stage @ Stage::Starting) => {
                *stage = Stage::EndedEarly(exit);
                false
            }
            Some(Stage::Running | Stage::Doomed) => self.drop_one(&mut all, id).is_some(),
            Some(Stage::Stopping | Stage::EndedEarly(_)) | None => false,
        }
    }

    /// Notes the time of start of a container that was believed to run.
    pub(super) fn confirm(&self, id: &InstanceId, born: Option<String>) {
        if let Some(container) = self.lock().get_mut(id) {
            container.born = born;
        }
    }

    /// Returns one container.
    pub(super) fn get(&self, id: &InstanceId) -> Option<Container> {
        self.lock().get(id).cloned()
    }

    /// Returns all, ordered by id.
    pub(super) fn all(&self) -> Vec<(InstanceId, Container)> {
        self.lock().iter().map(|(id, container)| (id.clone(), container.clone())).collect()
    }

    /// Returns what runs, ordered by id.
    pub(super) fn running(&self) -> Vec<Running> {
        self.lock().values().filter_map(|container| container.running.clone()).collect()
    }
}

/// Returns what a store remembers as something that runs; `None` when it is no container that was started.
pub(super) fn remembered(known: &Known) -> Option<Running> {
    let started = known.started.clone().filter(|started| matches!(started.workload, Workload::Container(_)))?;
    Some(Running {
        id: known.id.clone(),
        service: known.service.clone(),
        revision: known.revision,
        fingerprint: known.fingerprint,
        slot: known.slot,
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::{Containers, Stage};
    use crate::control::runtime::{Exit, Running, Started};
    use crate::model::{InstanceId, ServiceName, Workload};

    fn id() -> InstanceId {
        InstanceId::parse("web-abcdef").unwrap()
    }

    fn running() -> Running {
        let workload = Workload::Container("c0ffee".into());
        let started = Started { workload, address: "172.18.0.2".parse().unwrap(), ports: vec![8080] };
        let service = ServiceName::parse("web").unwrap();
        Running { id: id(), service, revision: 1, fingerprint: 1, slot: 0, started }
    }

    #[test]
    fn an_end_is_told_once() {
        let containers = Containers::default();
        assert!(containers.begin(&id()) && !containers.begin(&id()));
        assert_eq!(containers.started(running(), None), None);
        assert!(containers.ended(&id(), Exit::Status(1)));
        assert!(!containers.ended(&id(), Exit::Status(1)));
        assert!(containers.running().is_empty());
    }

    #[test]
    fn an_end_during_the_start_is_told_by_the_start() {
        let containers = Containers::default();
        containers.begin(&id());
        assert!(!containers.ended(&id(), Exit::Status(5)));
        assert_eq!(containers.started(running(), None), Some(Exit::Status(5)));
        assert!(containers.begin(&id()), "forgotten");
    }

    #[test]
    fn an_end_during_a_stop_is_told_by_the_stop_and_after_a_failed_one_by_the_news() {
        let containers = Containers::default();
        containers.adopt(running(), Some("then".to_owned()));
        containers.enter(&id(), Stage::Stopping);
        assert!(!containers.ended(&id(), Exit::Signal(15)));
        containers.enter(&id(), Stage::Doomed);
        assert!(containers.ended(&id(), Exit::Signal(15)));
        assert!(!containers.enter(&id(), Stage::Stopping));
    }
}
