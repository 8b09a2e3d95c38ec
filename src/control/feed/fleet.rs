//! Who follows this Weir's table, and what each has acknowledged.
//!
//! A subscriber is an acknowledger of the table as a worker is: a withdrawal waits for it. It says which generation all of its
//! own workers use, and which withdrawn endpoints it still uses. One that says nothing for [`SILENCE`] is named in an event
//! and waited for no more, whether its connection is open or not; what it said of endpoints is forgotten. Invariant: what an
//! acknowledgement says of endpoints counts before its generation does.

use crate::balance::Elsewhere;
use crate::clock;
use crate::control::events::{EventKind, Events};
use crate::model::{InstanceId, ServiceName};
use crate::table::{Acknowledger, Snapshot, Table};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A subscriber that says nothing for so long is not waited for.
pub const SILENCE: Duration = Duration::from_secs(3);
/// One that is silent without a connection is listed for so long.
const LISTED: Duration = Duration::from_secs(60);
/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Subscribers at a time.
const MAX_SUBSCRIBERS: usize = 1024;

/// Why a subscriber was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// There are too many.
    #[error("{MAX_SUBSCRIBERS} Weirs follow this table already")]
    Full,
    /// It is not known: it has to subscribe first.
    #[error("no subscription of {0:?} is known by that session: subscribe again")]
    Unknown(String),
    /// It acknowledges what was not published yet.
    #[error("generation {0} was not published yet")]
    Future(u64),
}

/// A withdrawn endpoint that a subscriber still uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Its service.
    pub service: ServiceName,
    /// The endpoint.
    pub instance: InstanceId,
    /// Whether requests or streams are in flight there.
    pub in_flight: bool,
    /// For how long answers of DNS that named it may be kept, in milliseconds.
    pub named_ms: u64,
}

/// How a subscriber stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The generation that it uses.
    pub generation: u64,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whether it is not waited for.
    pub silent: bool,
    /// Since when nothing came of it, in milliseconds.
    pub heard_ms: u64,
    /// Withdrawn endpoints that it still uses.
    pub uses: usize,
}

#[derive(Debug)]
struct Member {
    session: String,
    party: Arc<Acknowledger>,
    generation: u64,
    heard_ms: u64,
    connected: bool,
    silent: bool,
    uses: HashMap<InstanceId, Elsewhere>,
}

/// The subscribers; a cheap handle.
#[derive(Debug, Clone)]
pub struct Fleet {
    members: Arc<Mutex<BTreeMap<Arc<str>, Member>>>,
    table: Table,
    events: Events,
}

impl Fleet {
    /// Makes it without any.
    pub fn new(table: Table, events: Events) -> Self {
        Self { members: Arc::default(), table, events }
    }

    /// Takes a subscriber in, instead of an earlier subscription of the same name; returns what is woken by a publish.
    ///
    /// # Errors
    /// [`FleetError::Full`].
    pub fn join(&self, name: &str, session: &str) -> Result<Arc<Acknowledger>, FleetError> {
        let mut members = self.lock();
        if members.len() >= MAX_SUBSCRIBERS && !members.contains_key(name) {
            return Err(FleetError::Full);
        }
        let name: Arc<str> = name.into();
        let is_first = members.is_empty();
        // What an earlier subscription said holds until the new one says something: it is the same Weir.
        let before = members.remove(&name);
        if let Some(before) = &before {
            // Its stream may be open for long, if nobody is there to close it.
            before.party.set_idle(true);
        }
        let party = self.table.acknowledger(&name);
        let generation = before.as_ref().map_or(0, |before| before.generation);
        let member = Member {
            session: session.to_owned(),
            party: party.clone(),
            generation,
            heard_ms: clock::now_ms(),
            connected: true,
            silent: false,
            uses: before.map(|before| before.uses).unwrap_or_default(),
        };
        members.insert(name, member);
        drop(members);
        // Whoever looks goes on as long as there is one.
        if is_first {
            tokio::spawn(self.clone().watch());
        }
        Ok(party)
    }

    /// Takes what a subscriber says: every worker of it uses `generation` or a later one, and `uses` are the withdrawn
    /// endpoints that it still uses.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn acknowledge(&self, name: &str, session: &str, generation: u64, uses: &[Use]) -> Result<(), FleetError> {
        let snapshot = self.table.load();
        if generation > snapshot.generation {
            return Err(FleetError::Future(generation));
        }
        let mut members = self.lock();
        let member = members.get_mut(name).filter(|member| member.session == session);
        let member = member.ok_or_else(|| FleetError::Unknown(name.to_owned()))?;
        member.heard_ms = clock::now_ms();
        let mut held = HashMap::new();
        for one in uses {
            let Some(stats) = withdrawn(&snapshot, one) else { continue };
            if one.named_ms > 0 {
                stats.marks().name_until(clock::now_ms().saturating_add(one.named_ms));
            }
            if one.in_flight {
                let guard = member.uses.remove(&one.instance).unwrap_or_else(|| stats.use_elsewhere());
                held.insert(one.instance.clone(), guard);
            }
        }
        member.uses = held;
        member.generation = member.generation.max(generation);
        member.party.acknowledge(generation);
        if std::mem::take(&mut member.silent) {
            member.party.set_idle(false);
            let message = format!("{name} is heard again, at generation {generation}");
            self.events.emit(snapshot.generation, EventKind::SubscriberBack, None, None, message);
        }
        Ok(())
    }

    /// Says that a stream ended; the subscriber may still use what it had.
    pub fn disconnected(&self, name: &str, session: &str) {
        if let Some(member) = self.lock().get_mut(name).filter(|member| member.session == session) {
            member.connected = false;
        }
    }

    /// Lets a subscriber go that uses nothing any more.
    ///
    /// # Errors
    /// [`FleetError::Unknown`].
    pub fn leave(&self, name: &str, session: &str) -> Result<(), FleetError> {
        let mut members = self.lock();
        match members.get(name) {
            Some(member) if member.session == session => {
                member.party.set_idle(true);
                members.remove(name);
                Ok(())
            }
            _ => Err(FleetError::Unknown(name.to_owned())),
        }
    }

    /// Returns how each subscriber stands, by name.
    pub fn status(&self) -> Vec<SubscriberStatus> {
        let now_ms = clock::now_ms();
        let status = |(name, member): (&Arc<str>, &Member)| SubscriberStatus {
            name: name.clone(),
            generation: member.generation,
            connected: member.connected,
            silent: member.silent,
            heard_ms: now_ms.saturating_sub(member.heard_ms),
            uses: member.uses.len(),
        };
        self.lock().iter().map(status).collect()
    }

    /// Looks for who is silent, as long as there is anybody.
    async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if self.look(clock::now_ms()) {
                return;
            }
        }
    }

    /// Names who is silent and forgets who is gone; returns whether nobody is left.
    fn look(&self, now_ms: u64) -> bool {
        let mut members = self.lock();
        for (name, member) in members.iter_mut() {
            let quiet_ms = now_ms.saturating_sub(member.heard_ms);
            if !member.silent && quiet_ms >= millis(SILENCE) {
                member.silent = true;
                member.uses.clear();
                member.party.set_idle(true);
                let (at, seconds) = (member.generation, SILENCE.as_secs());
                let message =
                    format!("{name} says nothing for {seconds} s, at generation {at}: it is waited for no more");
                tracing::warn!(subscriber = %name, generation = at, "a subscriber is silent and not waited for");
                self.events.emit(self.table.load().generation, EventKind::SubscriberSilent, None, None, message);
            }
        }
        members.retain(|_, member| member.connected || now_ms.saturating_sub(member.heard_ms) < millis(LISTED));
        members.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the counters of a withdrawn endpoint.
fn withdrawn(snapshot: &Snapshot, one: &Use) -> Option<Arc<crate::balance::EndpointStats>> {
    let service = snapshot.services.get(&one.service)?;
    let (_, candidate) = service.draining.iter().find(|(endpoint, _)| endpoint.id == one.instance)?;
    Some(candidate.stats.clone())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
