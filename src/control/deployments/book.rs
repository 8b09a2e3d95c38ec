//! Which definition of each service counts: a request → what must be stored, and what follows from it. Pure.
//!
//! A [`Draft`] is made from the book without changing it, stored, and only then accepted into it; so what the store refuses
//! never happened.

use crate::control::deployments::{DeployError, SectionChange};
use crate::control::events::EventKind;
use crate::control::store::{Change, ChangeSource, Contents, Head, Outcome, Revision};
use crate::model::{ServiceName, ServiceSpec};
use crate::spec::{self, fingerprint, section_hash, size_hash};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Revisions of one service that are kept; the wanted and the stable one always are.
const MAX_REVISIONS: usize = 50;

/// One service.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) head: Head,
    pub(super) revisions: BTreeMap<u64, Revision>,
    /// The wanted definition, ready for use.
    pub(super) spec: Arc<ServiceSpec>,
}

/// A new revision.
#[derive(Debug, Clone)]
pub(super) struct Proposal {
    pub(super) definition: Arc<ServiceSpec>,
    pub(super) source: ChangeSource,
    pub(super) note: Option<String>,
    /// The revision whose failure this undoes.
    pub(super) undoes: Option<u64>,
}

/// What a request leads to.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// For the store, in one commit.
    pub(super) changes: Vec<Change>,
    /// Entries as they will be; `None`: gone.
    pub(super) next: BTreeMap<ServiceName, Option<Entry>>,
    /// Services whose number by hand is dropped.
    pub(super) unpinned: Vec<ServiceName>,
    /// What to tell once it is done.
    pub(super) events: Vec<(EventKind, ServiceName, String)>,
    /// The revisions that are wanted after it, of services that were named.
    pub(super) revisions: Vec<(ServiceName, u64)>,
}

/// All services that are defined.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    services: BTreeMap<ServiceName, Entry>,
}

impl Book {
    /// Takes over what the store holds; a service whose definition this build refuses is left out, with the reason.
    pub(super) fn open(contents: &Contents) -> (Self, Vec<(ServiceName, String)>) {
        let (mut book, mut refused) = (Self::default(), Vec::new());
        for (name, head) in &contents.heads {
            let revisions = contents.revisions.get(name).cloned().unwrap_or_default();
            let spec = revisions.get(&head.wanted).map(|revision| model(&revision.definition, head.wanted));
            match spec {
                Some(Ok(spec)) => {
                    drop(book.services.insert(name.clone(), Entry { head: head.clone(), revisions, spec }))
                }
                Some(Err(why)) => refused.push((name.clone(), why)),
                None => refused.push((name.clone(), format!("revision {} is missing", head.wanted))),
            }
        }
        (book, refused)
    }

    /// Drafts what a configuration file contributes.
    pub(super) fn file(&self, services: &[Arc<ServiceSpec>], now_ms: u64) -> Draft {
        let mut draft = Draft::default();
        let listed: BTreeSet<&ServiceName> = services.iter().map(|spec| &spec.name).collect();
        for (name, entry) in &self.services {
            if entry.head.file_hash.is_some() && !listed.contains(name) {
                draft.remove(name, entry);
            }
        }
        for spec in services {
            let (hash, size) = (section_hash(spec), size_hash(spec));
            let before = self.services.get(&spec.name);
            if before.is_some_and(|entry| entry.head.file_hash.as_ref() == Some(&hash)) {
                continue;
            }
            let proposal = Proposal { definition: spec.clone(), source: ChangeSource::File, note: None, undoes: None };
            let mut entry = match before {
                Some(entry) if is_same(&entry.spec, spec) => entry.clone(),
                _ => draft.revise(before, &proposal, now_ms),
            };
            if entry.head.pin.is_some() && entry.head.size_hash.as_ref() != Some(&size) {
                entry.head.pin = None;
                let message = "the file changed the number of replicas; the number set by hand is dropped".to_owned();
                draft.events.push((EventKind::PinDropped, spec.name.clone(), message));
                draft.unpinned.push(spec.name.clone());
            }
            (entry.head.file_hash, entry.head.size_hash) = (Some(hash), Some(size));
            draft.put(&spec.name, entry);
        }
        draft
    }

    /// Returns what a configuration file would change.
    pub(super) fn compare(&self, services: &[Arc<ServiceSpec>]) -> Vec<SectionChange> {
        let draft = self.file(services, 0);
        let changes = draft.next.iter().filter_map(|(name, next)| match (self.services.get(name), next) {
            (_, None) => Some(SectionChange::Removed(name.clone())),
            (None, Some(_)) => Some(SectionChange::Added(name.clone())),
            (Some(before), Some(after)) if before.head.wanted != after.head.wanted => Some(SectionChange::Changed {
                service: name.clone(),
                replaces: fingerprint(&before.spec) != fingerprint(&after.spec),
                unpins: draft.unpinned.contains(name),
            }),
            (Some(_), Some(_)) => None,
        });
        changes.collect()
    }

    /// Drafts new revisions of services, all or none; a definition that is wanted already and works, or is on its way,
    /// makes none.
    pub(super) fn revise(&self, proposals: Vec<Proposal>, now_ms: u64) -> Draft {
        let mut draft = Draft::default();
        for proposal in proposals {
            let name = &proposal.definition.name;
            let before = self.services.get(name);
            if let Some(entry) = before
                && is_same(&entry.spec, &proposal.definition)
                && matches!(entry.outcome(), Outcome::Progressing | Outcome::Completed)
            {
                draft.revisions.push((name.clone(), entry.head.wanted));
                continue;
            }
            let entry = draft.revise(before, &proposal, now_ms);
            draft.put(name, entry);
        }
        draft
    }

    /// Returns the revision that a rollback by hand goes to.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::UnknownRevision`], [`DeployError::NothingEarlier`].
    pub(super) fn earlier(&self, name: &ServiceName, to: Option<u64>) -> Result<u64, DeployError> {
        let entry = self.entry(name)?;
        if let Some(to) = to {
            let known = entry.revisions.contains_key(&to);
            return if known { Ok(to) } else { Err(DeployError::UnknownRevision(name.clone(), to)) };
        }
        let wanted = entry.wanted();
        let differs = |revision: &&Revision| wanted.is_none_or(|wanted| wanted.definition != revision.definition);
        let stable = entry.head.stable.and_then(|stable| entry.revisions.get(&stable)).filter(differs);
        let worked = || {
            let earlier = entry.revisions.range(..entry.head.wanted).rev().map(|(_, revision)| revision);
            earlier.filter(|revision| revision.outcome == Outcome::Completed).find(differs)
        };
        let found = stable.or_else(worked).map(|revision| revision.number);
        found.ok_or_else(|| DeployError::NothingEarlier(name.clone()))
    }

    /// Drafts the end of a service that was made over the API.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::InFile`].
    pub(super) fn removal(&self, name: &ServiceName) -> Result<Draft, DeployError> {
        let entry = self.entry(name)?;
        if entry.head.file_hash.is_some() {
            return Err(DeployError::InFile(name.clone()));
        }
        let mut draft = Draft::default();
        draft.remove(name, entry);
        Ok(draft)
    }

    /// Drafts a number of replicas set by hand, or given back.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`], [`DeployError::NotRun`].
    pub(super) fn pin(&self, name: &ServiceName, pin: Option<u32>) -> Result<Draft, DeployError> {
        let mut entry = self.entry(name)?.clone();
        if entry.spec.run.is_none() {
            return Err(DeployError::NotRun(name.clone()));
        }
        let mut draft = Draft::default();
        if entry.head.pin != pin {
            entry.head.pin = pin;
            draft.put(name, entry);
        }
        Ok(draft)
    }

    /// Drafts that the wanted revision works.
    pub(super) fn completed(&self, name: &ServiceName, revision: u64) -> Option<Draft> {
        let mut entry = self.services.get(name).filter(|entry| entry.head.wanted == revision)?.clone();
        if entry.outcome() == Outcome::Completed && entry.head.stable == Some(revision) {
            return None;
        }
        let mut draft = Draft::default();
        let record = entry.revisions.get_mut(&revision)?;
        (record.outcome, record.cause) = (Outcome::Completed, None);
        draft.changes.push(Change::PutRevision(name.clone(), record.clone()));
        let message = match record.undoes {
            Some(undone) => format!("revision {revision} serves; revision {undone} is rolled back"),
            None => format!("revision {revision} serves"),
        };
        draft.events.push((EventKind::RolloutCompleted, name.clone(), message));
        entry.head.stable = Some(revision);
        draft.put(name, entry);
        Some(draft)
    }

    /// Drafts that the wanted revision failed, and the rollback where there is one; `None` when that is known.
    pub(super) fn failed(&self, name: &ServiceName, revision: u64, cause: &str, now_ms: u64) -> Option<Draft> {
        let mut entry = self.services.get(name).filter(|entry| entry.head.wanted == revision)?.clone();
        if entry.outcome() != Outcome::Progressing {
            return None;
        }
        let mut draft = Draft::default();
        // A log line has one line.
        let brief = cause.lines().next().unwrap_or_default();
        let back = entry.way_back();
        let record = entry.revisions.get_mut(&revision)?;
        record.outcome = if back.is_some() { Outcome::RolledBack } else { Outcome::Failed };
        record.cause = Some(cause.to_owned());
        draft.changes.push(Change::PutRevision(name.clone(), record.clone()));
        draft.events.push((EventKind::RolloutFailed, name.clone(), format!("revision {revision} failed: {brief}")));
        let entry = match back {
            None => entry,
            Some((to, definition)) => {
                let note = Some(format!("back to revision {to}; revision {revision} failed: {brief}"));
                let undoes = Some(revision);
                draft.events.pop();
                let message = format!("revision {revision} failed and is rolled back: {brief}");
                draft.events.push((EventKind::RolledBack, name.clone(), message));
                let proposal = Proposal { definition, source: ChangeSource::Rollback, note, undoes };
                draft.revise(Some(&entry), &proposal, now_ms)
            }
        };
        draft.put(name, entry);
        Some(draft)
    }

    /// Returns true when the revision is the wanted one and its rollout is not known to be over.
    pub(super) fn is_progressing(&self, name: &ServiceName, revision: u64) -> bool {
        let entry = self.services.get(name);
        entry.is_some_and(|entry| entry.head.wanted == revision && entry.outcome() == Outcome::Progressing)
    }

    /// Takes over what was stored.
    pub(super) fn accept(&mut self, next: BTreeMap<ServiceName, Option<Entry>>) {
        for (name, entry) in next {
            match entry {
                Some(entry) => drop(self.services.insert(name, entry)),
                None => drop(self.services.remove(&name)),
            }
        }
    }

    /// Returns one service.
    ///
    /// # Errors
    /// [`DeployError::UnknownService`].
    pub(super) fn entry(&self, name: &ServiceName) -> Result<&Entry, DeployError> {
        self.services.get(name).ok_or_else(|| DeployError::UnknownService(name.clone()))
    }

    /// Returns all services by name.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ServiceName, &Entry)> {
        self.services.iter()
    }
}

impl Entry {
    /// Returns the wanted revision.
    pub(super) fn wanted(&self) -> Option<&Revision> {
        self.revisions.get(&self.head.wanted)
    }

    /// Returns what became of the wanted revision.
    pub(super) fn outcome(&self) -> Outcome {
        self.wanted().map_or(Outcome::Progressing, |revision| revision.outcome)
    }

    /// Returns the stable definition with its number.
    pub(super) fn stable(&self) -> Option<Arc<ServiceSpec>> {
        let revision = self.revisions.get(&self.head.stable?)?;
        model(&revision.definition, revision.number).ok()
    }

    /// Returns where a failure of the wanted revision leads back to: nowhere from a rollback that a failure made, nowhere
    /// where the definition says to pause.
    fn way_back(&self) -> Option<(u64, Arc<ServiceSpec>)> {
        let wanted = self.wanted()?;
        let pauses = self.spec.rollout.on_failure == crate::model::OnFailure::Pause;
        let stable = self.stable().filter(|stable| stable.revision != wanted.number)?;
        (wanted.undoes.is_none() && !pauses).then_some((stable.revision, stable))
    }
}

impl Draft {
    /// Returns a service with a new wanted revision, and notes what that changes of its others.
    fn revise(&mut self, before: Option<&Entry>, proposal: &Proposal, now_ms: u64) -> Entry {
        let name = &proposal.definition.name;
        let (mut head, mut revisions) = match before {
            Some(entry) => (entry.head.clone(), entry.revisions.clone()),
            None => (Head::default(), BTreeMap::new()),
        };
        if let Some(current) = revisions.get_mut(&head.wanted)
            && current.outcome == Outcome::Progressing
        {
            current.outcome = Outcome::Superseded;
            self.changes.push(Change::PutRevision(name.clone(), current.clone()));
        }
        let number = head.last.max(head.wanted) + 1;
        (head.wanted, head.last) = (number, number);
        let revision = Revision {
            number,
            source: proposal.source,
            created_ms: now_ms,
            definition: spec::Service::from_model(&proposal.definition),
            note: proposal.note.clone(),
            outcome: Outcome::Progressing,
            cause: None,
            undoes: proposal.undoes,
        };
        self.changes.push(Change::PutRevision(name.clone(), revision.clone()));
        revisions.insert(number, revision);
        while revisions.len() > MAX_REVISIONS {
            let droppable = |number: &&u64| **number != head.wanted && Some(**number) != head.stable;
            let Some(oldest) = revisions.keys().find(droppable).copied() else { break };
            revisions.remove(&oldest);
            self.changes.push(Change::DropRevision(name.clone(), oldest));
        }
        let source = match proposal.source {
            ChangeSource::File => "the file",
            ChangeSource::Deploy => "a deploy",
            ChangeSource::Rollback => "a rollback",
        };
        self.events.push((EventKind::Deployed, name.clone(), format!("revision {number} is wanted, from {source}")));
        let spec = Arc::new(ServiceSpec { revision: number, ..ServiceSpec::clone(&proposal.definition) });
        Entry { head, revisions, spec }
    }

    fn put(&mut self, name: &ServiceName, entry: Entry) {
        self.changes.push(Change::PutHead(name.clone(), entry.head.clone()));
        self.revisions.push((name.clone(), entry.head.wanted));
        self.next.insert(name.clone(), Some(entry));
    }

    fn remove(&mut self, name: &ServiceName, entry: &Entry) {
        self.changes.push(Change::DropHead(name.clone()));
        self.changes.extend(entry.revisions.keys().map(|number| Change::DropRevision(name.clone(), *number)));
        self.next.insert(name.clone(), None);
    }
}

/// Returns a stored definition, ready for use.
///
/// # Errors
/// What this build finds wrong in it.
pub(super) fn model(definition: &spec::Service, number: u64) -> Result<Arc<ServiceSpec>, String> {
    match definition.to_model() {
        Ok(model) => Ok(Arc::new(ServiceSpec { revision: number, ..model })),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

/// Returns true when two definitions say the same, whatever their numbers.
pub(super) fn is_same(one: &ServiceSpec, other: &ServiceSpec) -> bool {
    *one == ServiceSpec { revision: one.revision, ..other.clone() }
}
