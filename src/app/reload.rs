//! A new configuration → checked → compared → taken up as a whole, or refused as a whole.
//!
//! One task answers all causes: the file changed, SIGHUP, the API. Order of a change: whatever can fail first (reading,
//! checking, binding), then definitions and listeners, then the rest, which cannot. Invariants: the last good configuration
//! stays in use until a better one is taken up; without a difference no generation is published; the same bad text is
//! complained about once. Next on the path: `control/deployments`, `app/live.rs`.

use crate::admin::Upgrader;
use crate::app::keyring::Keyring;
use crate::app::last_good::LastGood;
use crate::app::live::Live;
use crate::app::obtain;
use crate::app::start::Refused;
use crate::clock;
use crate::config::{ConfigError, Difference, Loaded, Reader, Text};
use crate::control::certificates;
use crate::control::configuration::{Cause, Change, Desk, Failure, Fault, Outcome, Request};
use crate::control::deployments;
use crate::control::discovery::Definitions;
use crate::control::events::{EventKind, Events};
use crate::control::registry;
use crate::control::store::ChangeSource;
use crate::dns;
use crate::lifecycle::{Phase, Signal};
use crate::model::{ListenerSpec, RouteSpec, ServiceName, ServiceSpec};
use crate::spec::{Key, KeyPath};
use crate::table::Table;
use crate::telemetry;
use std::collections::HashMap;
use std::sync::Arc;

/// Changes that one log line names; the API has all.
const NAMED_CHANGES: usize = 8;

/// What takes up configurations.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) reader: Reader,
    /// What is in use, with the addresses as the file names them.
    pub(super) current: Loaded,
    /// The listeners in use, with their exact addresses.
    pub(super) listening: Vec<ListenerSpec>,
    pub(super) live: Live,
    pub(super) keyring: Keyring,
    pub(super) certificates: certificates::Handle,
    pub(super) deployments: deployments::Handle,
    pub(super) registry: registry::Handle,
    pub(super) dns: Option<dns::Live>,
    pub(super) events: Events,
    pub(super) table: Table,
    pub(super) desk: Desk,
    pub(super) last_good: LastGood,
    /// Has another process take over where this one cannot take a change up.
    pub(super) upgrader: Upgrader,
    /// What another process takes up, and the upgrade by which it does: it looks at the file from then on.
    pub(super) handed: Option<(Vec<Change>, u64)>,
    /// What the file said at the start, when that is not in use.
    pub(super) refused: Option<Refused>,
}

/// How a configuration was taken up: what changed, and the generation that shows it, or the number of the upgrade.
enum Taken {
    Here(Vec<Change>, u64),
    ByAnother(Vec<Change>, u64),
}

impl Reloader {
    /// Answers until the end of Weir begins.
    pub(super) async fn run(mut self, mut signal: Signal) {
        if let Some(Refused { hash, error }) = self.refused.take() {
            self.refuse(Cause::Start, hash, &error);
        }
        loop {
            let request = tokio::select! {
                request = self.desk.requests.recv() => request,
                () = signal.reached(Phase::Draining) => return,
            };
            match request {
                None => return,
                Some(Request::Reload(cause, reply)) => {
                    let outcome = self.reload(cause).await;
                    // Who asked may have gone away.
                    let _ = reply.map(|reply| reply.send(outcome));
                }
                Some(Request::Diff(text, reply)) => {
                    let _ = reply.send(self.diff(text).await);
                }
            }
        }
    }

    /// Looks at the file, and takes it up when it differs from what is in use.
    async fn reload(&mut self, cause: Cause) -> Outcome {
        if let Some((changes, number)) = &self.handed {
            return Outcome::HandedBefore(changes.clone(), *number);
        }
        let status = self.desk.status();
        let text = match self.read() {
            Ok(text) => text,
            Err(error) => return self.refuse(cause, String::new(), &error),
        };
        let hash = text.hash();
        if hash == status.hash {
            if status.failure.is_some() {
                tracing::info!("the configuration is again the one in use");
                self.desk.tell(|status| status.failure = None);
            }
            return self.done(Outcome::Unchanged);
        }
        // Known to be bad: said once, whatever its directory goes through.
        if let Some(known) = status.failure.as_ref().filter(|known| cause == Cause::File && known.hash == hash) {
            return Outcome::Refused(known.faults.clone());
        }
        let taken = match self.check(&text) {
            Ok(next) => self.take_up(next, &text).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(Taken::Here(changes, generation)) => {
                self.last_good.keep(&text).await;
                self.applied(cause, hash, changes, generation)
            }
            Ok(Taken::ByAnother(changes, number)) => self.handed_over(changes, number),
            Err(error) => self.refuse(cause, hash, &error),
        }
    }

    /// Reads the file; anything but a regular one is refused without being opened.
    fn read(&self) -> Result<Text, ConfigError> {
        if let Some(path) = self.reader.path()
            && let Ok(found) = std::fs::metadata(path)
            && !found.is_file()
        {
            let what = if found.is_dir() { "is a directory" } else { "is no regular file" };
            let text = Text { name: path.display().to_string(), text: String::new() };
            return Err(text.refuse([(KeyPath::default(), what.to_owned(), "put the file back".to_owned())]));
        }
        self.reader.read()
    }

    fn check(&self, text: &Text) -> Result<Loaded, ConfigError> {
        if text.is_blank() {
            return Err(text.blank());
        }
        self.reader.load(text)
    }

    /// Takes up a checked configuration, or has another process do that.
    async fn take_up(&mut self, next: Loaded, text: &Text) -> Result<Taken, ConfigError> {
        let differences = self.current.differences(&next);
        let changes = differences.iter().map(|difference| self.change(difference)).collect();
        if differences.iter().any(|difference| !difference.is_live()) {
            return self.hand_over(&next, text, &differences, changes).await;
        }
        let generation = self.move_traffic(&next, text).await?;
        if let (Some(dns), Some(wanted)) =
            (&self.dns, next.dns.as_ref().filter(|dns| Some(*dns) != self.current.dns.as_ref()))
        {
            dns.apply(wanted);
        }
        if next.log.level != self.current.log.level {
            telemetry::set_level(next.log.level);
        }
        self.current = next;
        Ok(Taken::Here(changes, generation))
    }

    /// Has another process of the same binary take over, on the same sockets: it reads the file anew. What it cannot take
    /// up it tells, and serves the last good configuration.
    async fn hand_over(
        &self,
        next: &Loaded,
        text: &Text,
        differences: &[Difference],
        changes: Vec<Change>,
    ) -> Result<Taken, ConfigError> {
        let renews = self.upgrader.renews();
        let fixed: Vec<_> = differences.iter().filter(|d| d.is_fixed() || !(renews || d.is_live())).collect();
        if !fixed.is_empty() {
            return Err(text.refuse(fixed.into_iter().map(needs_restart)));
        }
        self.keyring.prepare(&next.listeners).map_err(|faults| text.refuse(faults))?;
        if let Some(tls) = next.dns.as_ref().and_then(|dns| dns.tls.as_ref()) {
            self.keyring.prepare_names(&tls.spec).map_err(|faults| text.refuse(faults))?;
        }
        match self.upgrader.renew().await {
            Ok(upgrade) => Ok(Taken::ByAnother(changes, upgrade.number)),
            Err(problem) => {
                let hint = "ask again with `weir reload`, or restart to apply".to_owned();
                let message = format!("no other process can take it up: {}", problem.detail);
                Err(text.refuse([(KeyPath::default(), message, hint)]))
            }
        }
    }

    /// Says what changes.
    fn change(&self, difference: &Difference) -> Change {
        Change {
            key: difference.key.clone(),
            before: difference.before.clone(),
            after: difference.after.clone(),
            live: difference.is_live() || (self.upgrader.renews() && !difference.is_fixed()),
            service: difference.service().map(str::to_owned),
            owner: None,
        }
    }

    /// Changes definitions, listeners and workers; nothing of them when a part fails.
    async fn move_traffic(&mut self, next: &Loaded, text: &Text) -> Result<u64, ConfigError> {
        let before = definitions(&self.current, &self.listening);
        let workers = |loaded: &Loaded| loaded.proxy.workers;
        let keys = self.keyring.prepare(&next.listeners).map_err(|faults| text.refuse(faults))?;
        let change = if next.listeners != self.current.listeners || workers(next) != workers(&self.current) {
            let count = super::wire::worker_count(next);
            Some(self.live.prepare(&next.listeners, count).await.map_err(|error| unbound(text, next, &error))?)
        } else {
            None
        };
        let listening = change.as_ref().map_or_else(|| self.listening.clone(), |change| change.listeners());
        let after = definitions(next, &listening);
        let Some(change) = change else { return self.publish(before, after, text).await };
        self.keyring.add(keys);
        // A listener that goes has its routes until it takes no more connections; one that comes has them before.
        self.publish(before.clone(), between(&before, &after), text).await?;
        if let Err(error) = change.apply().await {
            let error = unbound(text, next, &error);
            let _ = self.publish(before.clone(), before, text).await;
            return Err(error);
        }
        self.listening = listening;
        self.keyring.keep_only(&self.listening);
        self.certificates.shelves(obtain::shelves(&self.listening, &self.keyring)).await;
        self.publish(after.clone(), after, text).await
    }

    /// Publishes definitions; goes back to those before when the registry refuses a part.
    async fn publish(&mut self, before: Definitions, after: Definitions, text: &Text) -> Result<u64, ConfigError> {
        match self.deployments.apply_file(after).await {
            Ok(generation) => Ok(generation),
            Err(error) => {
                let _ = self.deployments.apply_file(before).await;
                let hint = "nothing of it is in use".to_owned();
                Err(text.refuse([(KeyPath::default(), format!("cannot be taken up: {error}"), hint)]))
            }
        }
    }

    fn applied(&self, cause: Cause, hash: String, changes: Vec<Change>, generation: u64) -> Outcome {
        let mut keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).take(NAMED_CHANGES).collect();
        if changes.len() > NAMED_CHANGES {
            keys.push("…");
        }
        let message = match changes.len() {
            0 => "the configuration says the same in other words".to_owned(),
            count => format!("{count} of the configuration changed: {}", keys.join(", ")),
        };
        let now_ms = clock::unix_ms();
        self.desk.tell(|status| {
            status.hash = hash;
            status.since_unix_ms = now_ms;
            status.cause = cause;
            status.generation = generation;
            status.failure = None;
        });
        self.events.emit(generation, EventKind::ConfigurationApplied, None, None, message);
        self.done(Outcome::Applied(changes, generation))
    }

    fn handed_over(&mut self, changes: Vec<Change>, number: u64) -> Outcome {
        self.handed = Some((changes.clone(), number));
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).take(NAMED_CHANGES).collect();
        let message = format!(
            "another process takes the configuration up ({}); this one ends with its connections, at its drain deadline",
            keys.join(", ")
        );
        self.events.emit(self.table.load().generation, EventKind::ConfigurationApplied, None, None, message);
        self.done(Outcome::HandedOver(changes, number))
    }

    /// Keeps what is in use; tells why, unless the same was told before.
    fn refuse(&self, cause: Cause, hash: String, error: &ConfigError) -> Outcome {
        let faults = faults(error);
        let known =
            self.desk.status().failure.as_ref().is_some_and(|known| known.hash == hash && known.faults == faults);
        if known && cause == Cause::File {
            return Outcome::Refused(faults);
        }
        let count = faults.len();
        let first = faults.first().map_or_else(String::new, describe);
        let more =
            if count > 1 { format!(" (and {} more: `weir status` shows all)", count - 1) } else { String::new() };
        let message = format!("the configuration is refused, the last good one stays in use: {first}{more}");
        let generation = self.table.load().generation;
        self.events.emit(generation, EventKind::ConfigurationRefused, None, None, message);
        let failure = Failure { at_unix_ms: clock::unix_ms(), cause, hash, faults: faults.clone() };
        self.desk.tell(|status| status.failure = Some(failure));
        self.done(Outcome::Refused(faults))
    }

    fn done(&self, outcome: Outcome) -> Outcome {
        self.desk.count(&outcome);
        outcome
    }

    /// Compares a text, or the file as it is now, with what runs.
    async fn diff(&self, text: Option<(String, String)>) -> Result<Vec<Change>, Vec<Fault>> {
        let text = match text {
            Some((name, text)) => Ok(Text { name, text }),
            None => self.read(),
        };
        let next = text.and_then(|text| self.check(&text)).map_err(|error| faults(&error))?;
        let running: HashMap<_, _> =
            self.registry.specs().await.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let (before, after) = effect(&self.current, next, &running);
        let mut changes: Vec<Change> =
            before.differences(&after).iter().map(|difference| self.change(difference)).collect();
        let mut owners: HashMap<String, Option<String>> = HashMap::new();
        for change in &mut changes {
            let Some(name) = change.service.clone() else { continue };
            let known = owners.get(&name).cloned();
            change.owner = match known {
                Some(known) => known,
                None => self.owner(&name).await,
            };
            owners.insert(name, change.owner.clone());
        }
        Ok(changes)
    }

    /// Returns whose definition of a service runs.
    async fn owner(&self, service: &str) -> Option<String> {
        let name = ServiceName::parse(service).ok()?;
        let wanted = self.deployments.history(&name).await.ok()?.into_iter().find(|revision| revision.is_wanted)?;
        let source = match wanted.source {
            ChangeSource::File => "file",
            ChangeSource::Deploy => "deploy",
            ChangeSource::Rollback => "rollback",
        };
        Some(format!("{source}, revision {}", wanted.number))
    }
}

/// Returns what runs and what would run. A section that says what the file said last changes nothing, whatever was deployed
/// since; another one is compared with what runs.
fn effect(current: &Loaded, mut next: Loaded, running: &HashMap<ServiceName, Arc<ServiceSpec>>) -> (Loaded, Loaded) {
    let mut before = current.clone();
    let runs = |spec: &Arc<ServiceSpec>| running.get(&spec.name).cloned();
    for spec in &mut next.services {
        let same = current.services.iter().any(|last| last == spec);
        match runs(spec) {
            Some(running) if same => *spec = running,
            _ => {}
        }
    }
    let of_next = next.services.iter().filter_map(runs);
    let gone = current.services.iter().filter(|last| !next.services.iter().any(|spec| spec.name == last.name));
    before.services = of_next.chain(gone.cloned()).collect();
    (before, next)
}

fn definitions(loaded: &Loaded, listening: &[ListenerSpec]) -> Definitions {
    Definitions {
        services: loaded.services.clone(),
        routes: loaded.routes.clone().into(),
        listeners: listening.to_vec().into(),
    }
}

/// Returns what is published while listeners change: everything after, and for listeners that go what they led to.
fn between(before: &Definitions, after: &Definitions) -> Definitions {
    let stays = |name: &Arc<str>| after.listeners.iter().any(|listener| listener.name == *name);
    let going: Vec<ListenerSpec> = before.listeners.iter().filter(|l| !stays(&l.name)).cloned().collect();
    if going.is_empty() {
        return after.clone();
    }
    let last_routes = before.routes.iter().filter_map(|route| {
        let names = going.iter().map(|listener| listener.name.clone());
        let listeners: Vec<Arc<str>> =
            names.filter(|name| route.listeners.is_empty() || route.listeners.contains(name)).collect();
        (!listeners.is_empty()).then(|| RouteSpec { listeners, ..route.clone() })
    });
    let new = |spec: &&Arc<ServiceSpec>| !after.services.iter().any(|other| other.name == spec.name);
    Definitions {
        services: after.services.iter().chain(before.services.iter().filter(new)).cloned().collect(),
        routes: after.routes.iter().cloned().chain(last_routes).collect(),
        listeners: after.listeners.iter().cloned().chain(going.clone()).collect(),
    }
}

fn needs_restart(difference: &Difference) -> (KeyPath, String, String) {
    let part = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    let message = format!("cannot change while Weir runs: {} → {}", part(&difference.before), part(&difference.after));
    (difference.key_path(), message, "restart to apply, or write the old value again".to_owned())
}

/// Says which listener could not be bound; the error names it.
fn unbound(text: &Text, next: &Loaded, error: &anyhow::Error) -> ConfigError {
    let chain = format!("{error:#}");
    let named = next.listeners.iter().position(|l| chain.starts_with(&format!("listener {}:", l.name)));
    let key = match named {
        Some(index) => KeyPath::new(vec![Key::Name("listener".to_owned()), Key::Index(index)]).key("address"),
        None => KeyPath::default(),
    };
    text.refuse([(key, chain, "free the address or name another; nothing has changed".to_owned())])
}

pub(super) fn faults(error: &ConfigError) -> Vec<Fault> {
    let fault = |problem: &crate::config::Problem| Fault {
        file: problem.file.clone(),
        line: problem.line,
        key: problem.key.clone(),
        message: problem.message.clone(),
        hint: problem.hint.clone(),
    };
    error.problems().iter().map(fault).collect()
}

fn describe(fault: &Fault) -> String {
    let line = fault.line.map(|line| format!(":{line}")).unwrap_or_default();
    let key = if fault.key.is_empty() { String::new() } else { format!(" {}:", fault.key) };
    let hint = fault.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{line}:{key} {}{hint}", fault.file, fault.message)
}
