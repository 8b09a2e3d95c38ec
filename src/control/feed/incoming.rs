//! Several sources → the one table that is in use → the registry.
//!
//! The first source of the list that lives is used; when it dies the next one that lives is, and the first again when it is
//! back. When none lives, what is in use stays in use: also over a restart, by the file that is kept. Services that the
//! configuration or somebody else defines here stay theirs. One task; the decision is [`choose`].

use crate::clock;
use crate::control::events::{EventKind, Events};
use crate::control::feed::held::{self, Held};
use crate::control::feed::import::{difference, fit, leave_out, leaving};
use crate::control::feed::kept;
use crate::control::feed::notices::{Waiting, waiting};
use crate::control::feed::owner::{Whose, whose};
use crate::control::feed::source::{Applied, Feeder, News};
use crate::control::feed::status::Sources;
use crate::control::feed::table::{FedService, FedTable};
use crate::control::registry::{Clash, Handle};
use crate::control::{PlaceOptions, SourceOptions};
use crate::model::{NodeId, ServiceName};
use crate::rng::Rng;
use crate::table::Table;
use crate::telemetry::Metrics;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// News that wait; sources wait with more.
const QUEUE: usize = 16;
/// The source in use may be lost for so long before another is taken: it may only have been started again.
const GRACE: Duration = Duration::from_millis(250);
/// So long is waited for the workers at most, when another source is taken, to tell the one before what is still in flight.
const SETTLE: Duration = Duration::from_millis(250);
/// The kept table is written at most this often.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// Heartbeats that are asked for: of one source, and of several, where one has to stand in for another at once.
const HEARTBEAT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(150));

/// What the importer works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where services and endpoints go.
    pub registry: Handle,
    /// Tells who of this Weir uses what.
    pub table: Table,
    /// What this Weir carries.
    pub metrics: Metrics,
    /// Where changes are told.
    pub events: Events,
    /// This machine.
    pub node: NodeId,
    /// Where the last table is kept.
    pub state: PathBuf,
}

/// One source, as the importer sees it.
#[derive(Debug)]
struct Source {
    is_local: bool,
    table: Option<Arc<FedTable>>,
    live: bool,
    applied: watch::Sender<Applied>,
}

impl Source {
    /// Returns what is still in flight at its endpoints since its table was in use before, and all of them as long as not
    /// every worker knows that it is not.
    fn held(&self, table: &Table) -> Arc<[Held]> {
        let applied = self.applied.borrow();
        if applied.is_used || table.lagging(applied.local).is_empty() {
            return applied.held.iter().filter(|held| held.is_used()).cloned().collect();
        }
        applied.held.clone()
    }
}

struct Importer {
    parts: Parts,
    sources: Vec<Source>,
    shown: Sources,
    /// Whose table is in use; `None`: the kept one, or none.
    used: Option<usize>,
    /// What the registry has of it.
    imported: Arc<FedTable>,
    /// Services that are somebody else's here.
    taken: HashSet<ServiceName>,
    /// Endpoints that are left out: others here have their ids.
    clashes: HashSet<Clash>,
    /// Endpoints that went with such a service and may still be used.
    dropped: Vec<Held>,
    /// Whether the registry has all of the source's table.
    is_whole: bool,
    /// When another source is taken.
    switch_at: Option<Instant>,
    /// When the kept table is written.
    write_at: Option<Instant>,
}

/// Starts to follow the sources on the current runtime, as `name_at_sources`. The kept table is in use when this returns.
pub async fn start(options: &SourceOptions, name_at_sources: &str, parts: Parts) -> Sources {
    let (news, inbox) = mpsc::channel(QUEUE);
    let kept = kept::last(&parts.state).await;
    let shown = Sources::new(kept.is_some());
    let count = options.places.len() + usize::from(options.file.is_some());
    let heartbeat = if count > 1 { HEARTBEAT.1 } else { HEARTBEAT.0 };
    let mut importer = Importer::new(parts.clone(), shown.clone());
    if let Some(kept) = &kept {
        // Where it came from is not known: loopback addresses were left out before it was written, where they had to be.
        importer.import(kept.clone(), true).await;
    }
    let process = format!("{:016x}", Rng::from_os().next_u64());
    let mut feeders = Vec::new();
    for index in 0..count {
        let (applied, watched) = watch::channel(Applied::default());
        let place = options.places.get(index);
        let is_local = place.is_none_or(PlaceOptions::is_local);
        importer.sources.push(Source { is_local, table: None, live: false, applied });
        let name = place.map_or_else(
            || options.file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            |place| place.address.clone(),
        );
        importer.shown.add(name);
        feeders.push(Feeder {
            index,
            name: name_at_sources.to_owned(),
            process: process.clone(),
            own: shown.lineage().own().clone(),
            news: news.clone(),
            applied: watched,
            table: parts.table.clone(),
            metrics: parts.metrics.clone(),
            heartbeat,
            leaving: shown.leaving.subscribe(),
            known: kept.clone().filter(|_| count == 1),
            passed: false,
        });
    }
    for feeder in feeders {
        match options.places.get(feeder.index) {
            Some(place) => drop(tokio::spawn(feeder.follow(place.clone()))),
            None => drop(tokio::spawn(feeder.watch(options.file.clone().unwrap_or_default()))),
        }
    }
    tokio::spawn(importer.run(inbox));
    shown
}

fn later(pause: Duration) -> Instant {
    Instant::from_std(clock::now() + pause)
}

/// Returns the source to use: the first that lives and has a table; while none lives, the one in use.
fn choose(used: Option<usize>, sources: &[(bool, bool)]) -> Option<usize> {
    sources.iter().position(|(live, has_table)| *live && *has_table).or(used)
}

impl Importer {
    fn new(parts: Parts, shown: Sources) -> Self {
        Self {
            parts,
            sources: Vec::new(),
            shown,
            used: None,
            imported: Arc::default(),
            taken: HashSet::new(),
            clashes: HashSet::new(),
            dropped: Vec::new(),
            is_whole: true,
            switch_at: None,
            write_at: None,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<(usize, News)>) {
        let mut notices = self.parts.registry.watch();
        let never = later(Duration::from_secs(365 * 24 * 3600));
        loop {
            tokio::select! {
                news = inbox.recv() => match news {
                    Some((index, news)) => self.take(index, news).await,
                    None => return,
                },
                () = sleep_until(self.switch_at.unwrap_or(never)), if self.switch_at.is_some() => {
                    self.switch_at = None;
                    self.switch().await;
                }
                () = sleep_until(self.write_at.unwrap_or(never)), if self.write_at.is_some() => self.write().await,
                notice = notices.recv() => match waiting(notice, &mut notices) {
                    Some(Waiting::These(names)) => self.noticed(names).await,
                    Some(Waiting::Any) => {
                        let holders = self.clashes.iter().map(|clash| &clash.holder);
                        let all = self.imported.services.keys().chain(&self.taken).chain(holders);
                        self.noticed(all.cloned().collect()).await;
                    }
                    None => return,
                },
            }
        }
    }

    async fn take(&mut self, index: usize, news: News) {
        let Some(source) = self.sources.get_mut(index) else { return };
        let was_live = source.live;
        source.live = !matches!(news, News::Lost(_));
        match news {
            News::Table(table) => {
                source.table = Some(table.clone());
                self.shown.show(index, |status| {
                    status.generation = table.generation;
                    status.problem = None;
                });
                let used = self.used;
                self.switch().await;
                if self.used == Some(index) && used == self.used {
                    self.use_table(index).await;
                } else if self.used != Some(index) {
                    self.standby(index);
                }
            }
            News::Alive if !was_live => self.switch().await,
            News::Alive => return,
            News::Lost(error) => self.lost(index, &error, was_live),
        }
        let live = self.sources.get(index).is_some_and(|source| source.live);
        self.shown.show(index, |status| {
            if live {
                // Also where the table is the same as before.
                status.problem = None;
            }
            if status.live != live {
                status.live = live;
                status.since_ms = clock::now_ms();
            }
        });
    }

    fn lost(&mut self, index: usize, error: &crate::control::feed::LinkError, was_live: bool) {
        let reasons = crate::control::feed::Refusal::REASONS;
        let at = reasons.iter().position(|reason| *reason == error.reason());
        let (mut is_news, text) = (was_live, error.to_string());
        self.shown.show(index, |status| {
            if let Some(count) = at.and_then(|at| status.losses.get_mut(at)) {
                *count += 1;
            }
            is_news |= status.problem.as_deref() != Some(&text);
            status.problem = Some(text.clone());
        });
        // Each attempt fails in the same way: that is told once.
        if is_news {
            let name = self.shown.name(index);
            let message = format!("{name}: {text}; what it said before stays in use");
            self.parts.events.emit(self.generation(), EventKind::SourceLost, None, None, message);
        }
        if self.used == Some(index) && self.switch_at.is_none() {
            self.switch_at = Some(later(GRACE));
        }
    }

    /// Uses another source where another is to be used.
    async fn switch(&mut self) {
        let states: Vec<_> = self.sources.iter().map(|source| (source.live, source.table.is_some())).collect();
        let chosen = choose(self.used, &states);
        // One that was lost a moment ago may be back at once.
        let is_lost = |index: usize| states.get(index).is_some_and(|(live, _)| !live);
        let waits = self.switch_at.is_some() && self.used.is_some_and(is_lost);
        if chosen == self.used || waits {
            return;
        }
        let Some(index) = chosen else { return };
        let before = std::mem::replace(&mut self.used, chosen);
        let endpoints = held::endpoints(&self.parts.table.load(), &self.imported);
        if self.sources.len() > 1 {
            let from = before.map_or_else(String::new, |before| format!(" instead of {}", self.shown.name(before)));
            let message = format!("the table is taken from {}{from}", self.shown.name(index));
            self.parts.events.emit(self.generation(), EventKind::SourceChanged, None, None, message);
        }
        self.use_table(index).await;
        if let Some(before) = before {
            self.hand_over(before, index, endpoints).await;
        }
        for other in 0..self.sources.len() {
            self.shown.show(other, |status| status.used = other == index);
        }
        self.shown.first.notify_waiters();
    }

    /// Says that nothing new goes to the endpoints of a source, and what is still in flight there.
    async fn hand_over(&self, before: usize, now: usize, endpoints: Vec<Held>) {
        let local = self.sources.get(now).map_or(0, |source| source.applied.borrow().local);
        // Then less and less is. Where a worker takes longer, something new may come to any of them.
        let is_settled = timeout(SETTLE, self.parts.table.acknowledged(local)).await.is_ok();
        if let Some(source) = self.sources.get(before) {
            source.applied.send_modify(|applied| {
                applied.held = held::joined(&applied.held, endpoints, is_settled);
                (applied.local, applied.is_used) = (local, false);
            });
        }
        self.standby(before);
    }

    /// Says that nothing of a source's table is used here, but for what is still in flight.
    fn standby(&self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        let of = source.table.as_ref().map(|table| (table.generation, table.epoch.clone()));
        let (generation, epoch) = of.unwrap_or_default();
        let (held, local) = (source.held(&self.parts.table), source.applied.borrow().local);
        source.applied.send_replace(Applied { generation, epoch, local, held, ..Applied::default() });
    }

    /// Brings the table of a source into the registry.
    async fn use_table(&mut self, index: usize) {
        let Some(source) = self.sources.get(index) else { return };
        let Some(table) = source.table.clone() else { return };
        // Before it is shown, so that nobody is told it without.
        self.shown.lineage().follow(table.by.clone());
        // What is not shown is not acknowledged.
        let Some(local) = self.import(table.clone(), source.is_local).await else { return };
        if let Some(source) = self.sources.get(index) {
            let (leaving, held) = (leaving(&self.imported), source.held(&self.parts.table));
            let held = held::joined(&held, std::mem::take(&mut self.dropped), false);
            let (generation, epoch) = (table.generation, table.epoch.clone());
            source.applied.send_replace(Applied { generation, epoch, local, is_used: true, leaving, held });
        }
        if self.write_at.is_none() {
            self.write_at = Some(later(WRITE_PAUSE));
        }
    }

    /// Brings a table into the registry; returns the generation that shows it, `None` when there is no registry any more.
    async fn import(&mut self, table: Arc<FedTable>, is_local: bool) -> Option<u64> {
        // What did not change is whose it was, unless somebody defined it meanwhile.
        let is_known = |name: &ServiceName, service: &Arc<FedService>| {
            let known = self.imported.services.get(name).filter(|_| !self.taken.contains(name));
            known.is_some_and(|known| Arc::ptr_eq(known, service))
        };
        let asked = table.services.iter().filter(|(name, service)| !is_known(name, service));
        let taken = self.anothers(asked.map(|(name, _)| name)).await;
        for name in
            taken.iter().filter(|name| !self.taken.contains(*name) || self.imported.services.contains_key(*name))
        {
            tracing::warn!(service = %name, "defined here too: the table's service of this name is left out");
        }
        self.taken = taken;
        let (fitted, left_out) = fit(&table, |name| self.taken.contains(name), is_local);
        if left_out > 0 {
            tracing::debug!(endpoints = left_out, "loopback addresses of another machine are left out");
        }
        self.is_whole = left_out == 0 && self.taken.is_empty();
        let mut change = difference(&self.imported, &fitted, &self.parts.node);
        // What somebody else defines by now stays, without the endpoints from here.
        let anothers = self.anothers(&change.undefine).await;
        let is_theirs = |name: &ServiceName| self.taken.contains(name) || anothers.contains(name);
        let (theirs, undefine): (Vec<_>, _) = std::mem::take(&mut change.undefine).into_iter().partition(is_theirs);
        for name in theirs {
            let old = self.imported.services.get(&name);
            change.gone.extend(old.iter().flat_map(|old| &old.endpoints).map(|endpoint| endpoint.id.clone()));
            self.dropped.extend(held::of_service(&self.parts.table.load(), &name, old.map(Arc::as_ref)));
        }
        change.undefine = undefine;
        self.imported = fitted;
        let taken = self.parts.registry.take_in(change).await.ok()?;
        if let Some(error) = taken.refused {
            tracing::warn!(%error, "not all of the table fits here");
        }
        self.leave_out(taken.clashes);
        Some(taken.generation)
    }

    /// Notes which endpoints others here have the ids of; the registry did not take them. Each change asks for them again.
    fn leave_out(&mut self, clashes: Vec<Clash>) {
        leave_out(&mut self.imported, &clashes);
        self.is_whole &= clashes.is_empty();
        let clashes: HashSet<Clash> = clashes.into_iter().collect();
        // One that registered at both is known here all the same.
        for clash in clashes.iter().filter(|clash| !clash.is_same && !self.clashes.contains(*clash)) {
            tracing::warn!(
                instance = %clash.id, service = %clash.service, registered_in = %clash.holder,
                "an instance registered here has this id: the table's endpoint is left out; register one of them by another id"
            );
        }
        self.clashes = clashes;
    }

    /// Returns which of these services are defined here by somebody else.
    async fn anothers(&self, names: impl IntoIterator<Item = &ServiceName>) -> HashSet<ServiceName> {
        let found = whose(&self.parts.registry, &self.imported, names.into_iter().cloned().collect()).await;
        found.into_iter().filter(|(_, whose)| *whose == Whose::Anothers).map(|(name, _)| name).collect()
    }

    /// Looks whose these services are, of which something changed here, and brings in what is in use once more where that is
    /// another's than before.
    async fn noticed(&mut self, names: HashSet<ServiceName>) {
        let may_be_free = self.clashes.iter().any(|clash| names.contains(&clash.holder));
        let (own, other): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| self.imported.services.contains_key(name));
        let mut is_news = may_be_free || other.iter().any(|name| self.taken.contains(name));
        for (name, whose) in whose(&self.parts.registry, &self.imported, own).await {
            match whose {
                Whose::Own => continue,
                Whose::Anothers => drop(self.taken.insert(name)),
                // Somebody took it up and gave it up before that was seen.
                Whose::Nobodys => drop(Arc::make_mut(&mut self.imported).services.remove(&name)),
            }
            is_news = true;
        }
        if let Some(index) = self.used.filter(|_| is_news) {
            self.use_table(index).await;
        }
    }

    async fn write(&mut self) {
        self.write_at = None;
        let (path, mut table) = (kept::place_of(&self.parts.state), self.imported.clone());
        if !self.is_whole {
            // What changes of it says nothing of what was left out, which may be taken in after a restart: then all must come.
            Arc::make_mut(&mut table).epoch = Arc::default();
        }
        let written = tokio::task::spawn_blocking(move || kept::write(&path, &table)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "the last table cannot be kept: a restart begins without it");
        }
    }

    fn generation(&self) -> u64 {
        self.parts.table.load().generation
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
