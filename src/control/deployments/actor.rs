//! The single writer of definitions: store first, then the book, then the registry; and what follows the end of a rollout.

use crate::clock;
use crate::control::deployments::book::{Book, Draft, Proposal, is_same};
use crate::control::deployments::handle::Request;
use crate::control::deployments::status::rollout_status;
use crate::control::deployments::{Accepted, DeployError, Handle, Patch, RevisionStatus, RolloutStatus};
use crate::control::discovery::{Definitions, Discovery};
use crate::control::events::Events;
use crate::control::rollout::{Cause, Phase};
use crate::control::scheduler::{self, MAX_REPLICAS, Resume, Rollouts, SchedulerError};
use crate::control::store::{ChangeSource, Contents, Store};
use crate::model::{ListenerProtocol, ServiceName, ServiceSpec};
use crate::spec;
use crate::table::Table;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Requests that may wait.
const MAILBOX: usize = 64;
/// Pause before the end of a rollout is written again that the store refused.
const RETRY: Duration = Duration::from_secs(1);
/// Last lines of a replica that ended, as part of the cause.
const LAST_LINES: usize = 5;
/// Characters of one of them.
const LINE_CHARS: usize = 300;
/// Octets at the end of a log that are looked at.
const TAIL_BYTES: u64 = 4096;

/// What deployments work with.
#[derive(Debug)]
pub struct Parts {
    /// Written before anything is answered.
    pub store: Store,
    /// Takes what counts to the registry.
    pub discovery: Discovery,
    /// Tells the generation of events.
    pub table: Table,
    /// Told what happens.
    pub events: Events,
}

/// Deployments before their task runs.
#[derive(Debug)]
pub struct Deployments {
    parts: Parts,
    book: Book,
    /// What the file contributed last; its services only for their order.
    file: Definitions,
}

impl Deployments {
    /// Takes over what the store holds.
    pub fn open(parts: Parts, contents: &Contents) -> Self {
        let (book, refused) = Book::open(contents);
        for (service, why) in refused {
            tracing::error!(%service, why, "the stored definition cannot be used; the service is left out");
        }
        Self { parts, book, file: Definitions::default() }
    }

    /// Takes up the configuration file of the start; returns the generation that shows what counts.
    ///
    /// # Errors
    /// [`DeployError::Store`], [`DeployError::Registry`].
    pub async fn apply_file(&mut self, definitions: Definitions) -> Result<u64, DeployError> {
        let draft = self.book.file(&definitions.services, clock::unix_ms());
        self.parts.store.commit(draft.changes).await?;
        self.book.accept(draft.next);
        self.file = definitions;
        let generation = self.contribute().await?;
        for (kind, service, message) in draft.events {
            self.parts.events.emit(generation, kind, Some(service), None, message);
        }
        Ok(generation)
    }

    /// Returns what the scheduler must know of what was before.
    pub fn resume(&self) -> BTreeMap<ServiceName, Resume> {
        let resume = |(name, entry): (&ServiceName, &crate::control::deployments::book::Entry)| {
            (name.clone(), Resume { stable: entry.stable(), pin: entry.head.pin })
        };
        self.book.entries().map(resume).collect()
    }

    /// Starts the task on the current runtime.
    pub fn spawn(self, scheduler: scheduler::Handle) -> Handle {
        self.parts.discovery.attach(scheduler.clone());
        let (mailbox, requests) = mpsc::channel(MAILBOX);
        let rollouts = scheduler.rollouts();
        tokio::spawn(Actor { deployments: self, scheduler, requests, rollouts }.run());
        Handle::new(mailbox)
    }

    /// Hands what counts to the registry.
    async fn contribute(&mut self) -> Result<u64, DeployError> {
        let mut services: Vec<Arc<ServiceSpec>> = Vec::new();
        // In the order of the file, which is the order that people see.
        let listed: BTreeSet<&ServiceName> = self.file.services.iter().map(|spec| &spec.name).collect();
        let known = self.file.services.iter().filter_map(|spec| self.book.entry(&spec.name).ok());
        services.extend(known.map(|entry| entry.spec.clone()));
        let others = self.book.entries().filter(|(name, _)| !listed.contains(name));
        services.extend(others.map(|(_, entry)| entry.spec.clone()));
        let definitions = Definitions { services, ..self.file.clone() };
        Ok(self.parts.discovery.apply(definitions).await?)
    }
}

/// The task.
struct Actor {
    deployments: Deployments,
    scheduler: scheduler::Handle,
    requests: mpsc::Receiver<Request>,
    rollouts: watch::Receiver<Rollouts>,
}

impl Actor {
    /// Runs until nobody can ask any more.
    async fn run(mut self) {
        let mut is_settled = self.settle().await;
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                changed = self.rollouts.changed() => {
                    if changed.is_err() {
                        // The scheduler has ended; definitions can still be read.
                        self.rollouts = watch::channel(Rollouts::default()).1;
                        while let Some(request) = self.requests.recv().await {
                            self.answer(request).await;
                        }
                        return;
                    }
                    is_settled = self.settle().await;
                }
                () = tokio::time::sleep(RETRY), if !is_settled => is_settled = self.settle().await,
            }
        }
    }

    async fn answer(&mut self, request: Request) {
        // Whoever asked may have left; what was asked is done all the same.
        match request {
            Request::File(definitions, reply) => drop(reply.send(self.file(definitions).await)),
            Request::Compare(services, reply) => drop(reply.send(self.deployments.book.compare(&services))),
            Request::Patch(name, patch, expected, reply) => {
                drop(reply.send(self.patch(&name, &patch, expected).await));
            }
            Request::Define(definitions, reply) => drop(reply.send(self.define(&definitions).await)),
            Request::Rollback(name, to, reply) => drop(reply.send(self.rollback(&name, to).await)),
            Request::History(name, reply) => drop(reply.send(self.history(&name))),
            Request::Rollout(name, revision, reply) => drop(reply.send(self.rollout(&name, revision))),
            Request::Remove(name, reply) => drop(reply.send(self.remove(&name).await)),
            Request::Pin(name, pin, reply) => drop(reply.send(self.pin(&name, pin).await)),
        }
    }

    async fn file(&mut self, definitions: Definitions) -> Result<u64, DeployError> {
        let book = &self.deployments.book;
        let unpinned = book.file(&definitions.services, clock::unix_ms()).unpinned;
        let generation = self.deployments.apply_file(definitions).await?;
        for name in unpinned {
            self.scheduler.unpin(&name).await?;
        }
        Ok(generation)
    }

    async fn patch(
        &mut self,
        name: &ServiceName,
        patch: &Patch,
        expected: Option<u64>,
    ) -> Result<Accepted, DeployError> {
        let entry = self.deployments.book.entry(name)?;
        if let Some(expected) = expected.filter(|expected| *expected != entry.head.wanted) {
            let (service, found) = (name.clone(), entry.head.wanted);
            return Err(DeployError::Moved { service, expected, found });
        }
        if patch.is_empty() {
            return Err(DeployError::EmptyPatch);
        }
        let written = spec::Service::from_model(&entry.spec);
        let patched = patch.apply(&written).ok_or_else(|| DeployError::NotRun(name.clone()))?;
        self.deploy_one(&patched).await
    }

    async fn deploy_one(&mut self, definition: &spec::Service) -> Result<Accepted, DeployError> {
        let accepted = self.define(std::slice::from_ref(definition)).await?;
        accepted.into_iter().next().ok_or(DeployError::Closed)
    }

    async fn define(&mut self, definitions: &[spec::Service]) -> Result<Vec<Accepted>, DeployError> {
        let (mut proposals, mut seen) = (Vec::new(), BTreeSet::new());
        for definition in definitions {
            let model = definition.to_model().map_err(|p| DeployError::Invalid(definition.full_name(), p))?;
            if !seen.insert(model.name.clone()) {
                return Err(DeployError::Twice(model.name));
            }
            self.check(&model)?;
            let (source, note, undoes) = (ChangeSource::Deploy, None, None);
            proposals.push(Proposal { definition: Arc::new(model), source, note, undoes });
        }
        self.revise(proposals).await
    }

    async fn rollback(&mut self, name: &ServiceName, to: Option<u64>) -> Result<Accepted, DeployError> {
        let to = self.deployments.book.earlier(name, to)?;
        let entry = self.deployments.book.entry(name)?;
        let unknown = || DeployError::UnknownRevision(name.clone(), to);
        let revision = entry.revisions.get(&to).ok_or_else(unknown)?;
        let definition = revision.definition.to_model().map_err(|p| DeployError::Invalid(Some(name.clone()), p))?;
        self.check(&definition)?;
        let (source, note) = (ChangeSource::Rollback, Some(format!("back to revision {to}")));
        let proposal = Proposal { definition: Arc::new(definition), source, note, undoes: None };
        self.revise(vec![proposal]).await?.into_iter().next().ok_or(DeployError::Closed)
    }

    /// Refuses a definition that does not fit what the file says of traffic.
    fn check(&self, spec: &ServiceSpec) -> Result<(), DeployError> {
        let name = &spec.name;
        let before = self.deployments.book.entry(name).ok().map(|entry| entry.spec.clone());
        let endpoints = before.as_ref().map_or(&[] as &[_], |before| &before.endpoints);
        if spec.endpoints != endpoints {
            return Err(DeployError::Endpoints(name.clone()));
        }
        let Some(before) = before else { return Ok(()) };
        for (user, port) in self.users(name) {
            let [was, is] = [&before, &Arc::new(spec.clone())].map(|spec| spec.ports.get(port).map(|p| p.name.clone()));
            if let Some(was) = was.filter(|was| is.as_ref() != Some(was)) {
                return Err(DeployError::PortInUse { service: name.clone(), user, port: was.to_string() });
            }
        }
        Ok(())
    }

    /// Returns the routes and listeners of the file that lead to a service, with the index of the port.
    fn users(&self, name: &ServiceName) -> Vec<(String, usize)> {
        let file = &self.deployments.file;
        let routes = file.routes.iter().filter(|route| route.service == *name);
        let routes = routes.map(|route| (format!("route {:?}", route.name), route.port));
        let listeners = file.listeners.iter().flat_map(|listener| {
            let own = match &listener.protocol {
                ListenerProtocol::Tcp { service, port } | ListenerProtocol::Udp { service, port } => {
                    Some((service, *port))
                }
                ListenerProtocol::Http | ListenerProtocol::Captured | ListenerProtocol::Service { .. } => None,
            };
            let rules = listener.admission.sni.iter().map(|rule| (&rule.service, rule.port));
            let led = own.into_iter().chain(rules).filter(|(service, _)| *service == name);
            led.map(|(_, port)| (format!("listener {:?}", listener.name), port))
        });
        routes.chain(listeners).collect()
    }

    async fn remove(&mut self, name: &ServiceName) -> Result<(), DeployError> {
        let draft = self.deployments.book.removal(name)?;
        if let Some((user, _)) = self.users(name).into_iter().next() {
            return Err(DeployError::InUse { service: name.clone(), user });
        }
        self.carry_out(draft).await
    }

    async fn revise(&mut self, proposals: Vec<Proposal>) -> Result<Vec<Accepted>, DeployError> {
        let draft = self.deployments.book.revise(proposals, clock::unix_ms());
        let accepted = draft.revisions.iter().map(|(service, revision)| Accepted {
            service: service.clone(),
            revision: *revision,
            changed: draft.next.contains_key(service),
        });
        let accepted = accepted.collect();
        self.carry_out(draft).await?;
        Ok(accepted)
    }

    /// Stores a draft, takes it over, and tells registry and people.
    async fn carry_out(&mut self, draft: Draft) -> Result<(), DeployError> {
        let Draft { changes, next, events, .. } = draft;
        let deployments = &mut self.deployments;
        deployments.parts.store.commit(changes).await?;
        let redefines = next.iter().any(|(name, next)| match (deployments.book.entry(name), next) {
            (Ok(before), Some(after)) => {
                before.spec.revision != after.spec.revision || !is_same(&before.spec, &after.spec)
            }
            _ => true,
        });
        deployments.book.accept(next);
        let contributed = if redefines { deployments.contribute().await } else { Ok(0) };
        let generation = deployments.parts.table.load().generation;
        for (kind, service, message) in events {
            deployments.parts.events.emit(generation, kind, Some(service), None, message);
        }
        contributed.map(|_| ())
    }

    async fn pin(&mut self, name: &ServiceName, pin: Option<u32>) -> Result<(), DeployError> {
        if let Some(many) = pin.filter(|pin| *pin > MAX_REPLICAS) {
            return Err(SchedulerError::TooMany(many).into());
        }
        let draft = self.deployments.book.pin(name, pin)?;
        self.carry_out(draft).await?;
        match pin {
            Some(replicas) => self.scheduler.scale(name, replicas).await?,
            None => self.scheduler.unpin(name).await?,
        }
        Ok(())
    }

    fn history(&self, name: &ServiceName) -> Result<Vec<RevisionStatus>, DeployError> {
        let entry = self.deployments.book.entry(name)?;
        let status = |revision: &crate::control::store::Revision| RevisionStatus {
            number: revision.number,
            source: revision.source,
            created_ms: revision.created_ms,
            outcome: revision.outcome,
            cause: revision.cause.clone(),
            note: revision.note.clone(),
            is_wanted: revision.number == entry.head.wanted,
            is_stable: Some(revision.number) == entry.head.stable,
            definition: revision.definition.clone(),
        };
        Ok(entry.revisions.values().map(status).collect())
    }

    fn rollout(&self, name: &ServiceName, revision: Option<u64>) -> Result<RolloutStatus, DeployError> {
        let entry = self.deployments.book.entry(name)?;
        let number = revision.unwrap_or(entry.head.wanted);
        let unknown = || DeployError::UnknownRevision(name.clone(), number);
        let revision = entry.revisions.get(&number).ok_or_else(unknown)?;
        let next = entry.revisions.range(number + 1..).next().map(|(_, next)| next);
        let rollouts = self.rollouts.borrow();
        let progress = rollouts.get(name).filter(|progress| progress.revision == number);
        Ok(rollout_status(name, revision, next, progress))
    }

    /// Writes down how rollouts ended and rolls back; false when the store refused, so that it is to be tried again.
    async fn settle(&mut self) -> bool {
        let rollouts = self.rollouts.borrow_and_update().clone();
        let mut is_settled = true;
        for (name, progress) in rollouts.iter() {
            let book = &self.deployments.book;
            let draft = match &progress.phase {
                Phase::Completed => book.completed(name, progress.revision),
                Phase::Failed(cause) if book.is_progressing(name, progress.revision) => {
                    let cause = self.explain(cause).await;
                    self.deployments.book.failed(name, progress.revision, &cause, clock::unix_ms())
                }
                Phase::Failed(_) | Phase::Progressing | Phase::Monitoring { .. } => None,
            };
            let Some(draft) = draft else { continue };
            if let Err(error) = self.carry_out(draft).await {
                tracing::error!(service = %name, %error, "the end of a rollout cannot be carried out");
                is_settled = matches!(error, DeployError::Registry(_));
            }
        }
        is_settled
    }

    /// Returns a cause for people; of a replica that ended, with its last lines.
    async fn explain(&self, cause: &Cause) -> String {
        let Cause::Exits { instance, .. } = cause else { return cause.to_string() };
        let paths = self.scheduler.log_paths(instance);
        let lines = tokio::task::spawn_blocking(move || last_lines(&paths)).await.unwrap_or_default();
        lines.iter().fold(cause.to_string(), |text, line| format!("{text}\n  {line}"))
    }
}

/// Returns the last lines of what a replica wrote: of standard error, which comes last, else of standard output.
fn last_lines(paths: &[PathBuf]) -> Vec<String> {
    let found = paths.iter().rev().filter_map(|path| tail(path).ok()).find(|text| !text.trim().is_empty());
    let text = found.unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let clean = |line: &&str| line.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect();
    last.iter().map(clean).collect()
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut octets = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut octets)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
