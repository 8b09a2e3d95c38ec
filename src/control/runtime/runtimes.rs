//! All runtimes of a node behind one: a definition with an image goes to the engine, any other is a process.

use crate::control::runtime::docker::Docker;
use crate::control::runtime::{
    EngineStatus, Exit, Known, Processes, Running, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started,
};
use crate::model::{InstanceId, Workload};
use async_trait::async_trait;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast;

/// Processes and containers.
#[derive(Debug)]
pub struct Runtimes {
    processes: Processes,
    docker: Docker,
}

impl Runtimes {
    /// Joins the two; `docker` sends its events where `processes` sends its own.
    pub fn new(processes: Processes, docker: Docker) -> Self {
        Self { processes, docker }
    }
}

#[async_trait]
impl Runtime for Runtimes {
    async fn start(&self, request: StartRequest) -> Result<Started, RuntimeError> {
        match request.run.container {
            Some(_) => self.docker.start(request).await,
            None => self.processes.start(request).await,
        }
    }

    async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<Exit, RuntimeError> {
        match self.processes.stop(id, grace).await {
            Err(RuntimeError::NotRunning(_)) => self.docker.stop(id, grace).await,
            other => other,
        }
    }

    async fn adopt(&self, known: &[Known]) -> Result<Vec<Running>, RuntimeError> {
        // What was only intended may be either.
        let of = |is_container: bool| -> Vec<Known> {
            let fits = |known: &&Known| match known.started.as_ref().map(|started| &started.workload) {
                Some(Workload::Container(_)) => is_container,
                Some(Workload::Process(_)) => !is_container,
                None => true,
            };
            known.iter().filter(fits).cloned().collect()
        };
        let mut running = self.processes.adopt(&of(false)).await?;
        running.extend(self.docker.adopt(&of(true)).await?);
        running.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(running)
    }

    async fn list(&self) -> Result<Vec<Running>, RuntimeError> {
        let mut running = self.processes.list().await?;
        running.extend(self.docker.list().await?);
        running.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(running)
    }

    fn watch(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.processes.watch()
    }

    fn log_paths(&self, id: &InstanceId) -> Vec<PathBuf> {
        let mut paths = self.processes.log_paths(id);
        paths.extend(self.docker.log_paths(id));
        paths
    }

    async fn written(&self, id: &InstanceId) {
        self.docker.written(id).await;
    }

    fn release(&self) {
        self.processes.release();
        self.docker.release();
    }

    fn own_check(&self, id: &InstanceId) -> Option<Result<String, String>> {
        self.docker.own_check(id)
    }

    fn engines(&self) -> Vec<EngineStatus> {
        self.docker.engines()
    }
}
