//! Who follows this Weir's table, and what each has acknowledged.
//!
//! A subscriber is an acknowledger of the table as a worker is: a withdrawal waits for it. It says which generation all of its
//! own workers use, and which withdrawn endpoints it still uses. One that says nothing for [`SILENCE`] is named in an event
//! and waited for no more, whether its connection is open or not; what it said of endpoints is
//! forgotten, and what it held counts as load no more. One that comes back without having acknowledged anything since is as
//! silent as it was. Invariant: what an acknowledgement says of endpoints counts before its generation does.

use crate::balance::Elsewhere;
use crate::clock;
use crate::control::events::{EventKind, Events};
use crate::control::feed::carrying::{CarriedLoad, Carrying, MAX_NAMED_MS};
use crate::control::feed::load::Report;
use crate::control::feed::remembered::{self, Remembered};
use crate::model::{InstanceId, ServiceName};
use crate::table::{Acknowledger, Snapshot, Table};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A subscriber that says nothing for so long is not waited for.
pub const SILENCE: Duration = Duration::from_secs(3);
/// One that is silent without a connection is listed for so long, and one with a connection loses it.
const LISTED: Duration = Duration::from_secs(60);
/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// Subscribers at a time.
const MAX_SUBSCRIBERS: usize = 1024;

/// Why a subscriber was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// There are too many.
    #[error("{MAX_SUBSCRIBERS} Weirs follow this table already; follow one of those")]
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
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriberStatus {
    /// Its name.
    pub name: Arc<str>,
    /// The generation that it uses.
    pub generation: u64,
    /// Whether its stream is open.
    pub connected: bool,
    /// Whether it is not waited for.
    pub silent: bool,
    /// Whether a younger process of the same Weir follows too, so that this one ends with its last connection.
    pub leaving: bool,
    /// Since when nothing came of it, in milliseconds.
    pub heard_ms: u64,
    /// Withdrawn endpoints that it still uses.
    pub uses: usize,
    /// What it carries for services whose replicas run here.
    pub loads: Vec<CarriedLoad>,
}

#[derive(Debug)]
struct Member {
    session: String,
    party: Arc<Acknowledger>,
    generation: u64,
    /// When it was heard, or first owed a word.
    heard_ms: u64,
    /// Whether it has said anything in this subscription.
    has_spoken: bool,
    /// When its stream was last known to be open.
    seen_ms: u64,
    connected: bool,
    silent: bool,
    /// The how many-th process of its name it is: one whose stream opened after another's is younger.
    age: u64,
    uses: HashMap<InstanceId, Elsewhere>,
    carrying: Carrying,
}

/// A subscriber's name, and which process of it.
type Key = (Arc<str>, String);
type Members = BTreeMap<Key, Member>;

/// Returns the processes of a subscriber.
fn of<'a>(members: &'a mut Members, name: &str) -> impl Iterator<Item = (&'a Key, &'a mut Member)> {
    let first: Key = (name.into(), String::new());
    let name = first.0.clone();
    members.range_mut(first..).take_while(move |((of, _), _)| *of == name)
}

/// Returns the member of a subscription.
fn find<'a>(members: &'a mut Members, name: &str, session: &str) -> Option<&'a mut Member> {
    of(members, name).find(|(_, member)| member.session == session).map(|(_, member)| member)
}

/// Returns whether a younger process of the same Weir follows too, so that this one ends with its last connection.
fn is_leaving(members: &Members, (name, _): &Key, member: &Member) -> bool {
    let first: Key = (name.clone(), String::new());
    let same = members.range(first..).take_while(|((of, _), _)| of == name);
    same.into_iter().any(|(_, other)| other.connected && other.age > member.age)
}

/// Makes room for one more: who is gone for longest is listed no longer; returns whether there is room.
fn make_room(members: &mut Members) -> bool {
    if members.len() < MAX_SUBSCRIBERS {
        return true;
    }
    let gone = members.iter().filter(|(_, member)| !member.connected && member.silent);
    let oldest = gone.min_by_key(|(_, member)| member.seen_ms).map(|(key, _)| key.clone());
    oldest.is_some_and(|key| members.remove(&key).is_some())
}

impl Member {
    /// Goes on from an earlier subscription. Who has said nothing in that one owes its word since then: else one that only
    /// comes and goes would hold every withdrawal.
    fn follow(&mut self, before: Self) {
        self.generation = before.generation;
        self.uses.extend(before.uses);
        self.carrying = before.carrying;
        if !before.has_spoken {
            self.heard_ms = self.heard_ms.min(before.heard_ms);
            self.silent |= before.silent;
        }
    }
}

/// The subscribers; a cheap handle.
#[derive(Debug, Clone)]
pub struct Fleet {
    members: Arc<Mutex<Members>>,
    /// Whether somebody looks for who is silent; changed under the lock of the members.
    is_watched: Arc<AtomicBool>,
    /// Locked after the members.
    remembered: Arc<Mutex<Remembered>>,
    table: Table,
    events: Events,
}

impl Fleet {
    /// Makes it without any.
    pub fn new(table: Table, events: Events) -> Self {
        let remembered = Arc::default();
        Self { members: Arc::default(), is_watched: Arc::default(), remembered, table, events }
    }

    /// Remembers in a file who follows, and expects those that followed an earlier process: each is waited for as one that is
    /// silent since now. Reads the file; call inside a runtime.
    pub fn expecting(self, path: PathBuf) -> Self {
        let remembered = Remembered::open(path);
        for name in remembered.names() {
            // None is called so: whichever process of it comes takes the place.
            let member = self.member(name, String::new(), 0);
            let expected = Member { has_spoken: true, connected: false, ..member };
            self.lock().insert((name.clone(), String::new()), expected);
        }
        *self.remembered() = remembered;
        if !self.is_empty() && !self.is_watched.swap(true, Ordering::AcqRel) {
            tokio::spawn(self.clone().watch());
        }
        self
    }

    /// Says that from now on who is expected can come.
    pub fn open(&self) {
        let now_ms = clock::now_ms();
        for ((_, process), member) in self.lock().iter_mut() {
            if process.is_empty() && !member.connected {
                (member.heard_ms, member.seen_ms) = (now_ms, now_ms);
            }
        }
    }

    fn member(&self, name: &str, session: String, age: u64) -> Member {
        let now_ms = clock::now_ms();
        Member {
            session,
            party: self.table.acknowledger(name),
            generation: 0,
            heard_ms: now_ms,
            has_spoken: false,
            seen_ms: now_ms,
            connected: true,
            silent: false,
            age,
            uses: HashMap::new(),
            carrying: Carrying::default(),
        }
    }

    /// Takes a subscriber in, instead of an earlier subscription of the same process, or of one that is gone; returns what is
    /// woken by a publish.
    ///
    /// # Errors
    /// [`FleetError::Full`].
    pub fn join(&self, name: &str, process: &str, session: &str) -> Result<Arc<Acknowledger>, FleetError> {
        let key: Key = (name.into(), process.to_owned());
        let mut members = self.lock();
        // What an earlier subscription said holds until the new one says something: it is the same Weir. Another process
        // whose stream is open is the one before an upgrade: it speaks for itself until its last connection has ended. So it
        // does when both were cut off: who is known takes its own place only.
        let known = members.get(&key).map(|member| member.age);
        let age = known.unwrap_or_else(|| of(&mut members, name).map(|(_, member)| member.age + 1).max().unwrap_or(0));
        let is_over = |(_, process): &Key, member: &Member| *process == key.1 || (known.is_none() && !member.connected);
        let over: Vec<Key> =
            of(&mut members, name).filter(|(key, member)| is_over(key, member)).map(|(key, _)| key.clone()).collect();
        if over.is_empty() && !make_room(&mut members) {
            return Err(FleetError::Full);
        }
        let mut member = self.member(name, session.to_owned(), age);
        let party = member.party.clone();
        self.remembered().add(&key.0);
        for before in over.iter().filter_map(|key| members.remove(key)) {
            // Its stream may be open for long, if nobody is there to close it.
            before.party.set_idle(true);
            member.follow(before);
        }
        party.set_idle(member.silent);
        members.insert(key, member);
        // Whoever looks goes on as long as there is one, also when all have left and one came back meanwhile.
        if !self.is_watched.swap(true, Ordering::AcqRel) {
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
        let member = find(&mut members, name, session).ok_or_else(|| FleetError::Unknown(name.to_owned()))?;
        let now_ms = clock::now_ms();
        (member.heard_ms, member.seen_ms, member.has_spoken) = (now_ms, now_ms, true);
        let mut held = HashMap::new();
        for one in uses {
            let Some(stats) = withdrawn(&snapshot, one) else { continue };
            if one.named_ms > 0 {
                stats.marks().name_until(now_ms.saturating_add(one.named_ms.min(MAX_NAMED_MS)));
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

    /// Takes what a subscriber says that it carries; a report that came before changes nothing.
    ///
    /// # Errors
    /// [`FleetError::Unknown`].
    pub fn load(&self, name: &str, session: &str, report: &Report) -> Result<(), FleetError> {
        let snapshot = self.table.load();
        let mut members = self.lock();
        let member = find(&mut members, name, session).ok_or_else(|| FleetError::Unknown(name.to_owned()))?;
        member.carrying.take(session, report, &snapshot, clock::now_ms());
        Ok(())
    }

    /// Says that a stream ended; the subscriber may still use what it had.
    pub fn disconnected(&self, name: &str, session: &str) {
        if let Some(member) = find(&mut self.lock(), name, session) {
            (member.connected, member.seen_ms) = (false, clock::now_ms());
        }
    }

    /// Returns whether a stream is of no use: its subscriber has begun another one, or is silent for so long that whoever it
    /// was is gone, or hangs.
    pub(super) fn is_lost(&self, name: &str, session: &str) -> bool {
        let now_ms = clock::now_ms();
        let is_lost = |member: &mut Member| member.silent && now_ms.saturating_sub(member.heard_ms) >= millis(LISTED);
        find(&mut self.lock(), name, session).is_none_or(is_lost)
    }

    /// Lets a subscriber go that uses nothing any more.
    ///
    /// # Errors
    /// [`FleetError::Unknown`].
    pub fn leave(&self, name: &str, session: &str) -> Result<(), FleetError> {
        let mut members = self.lock();
        let before = members.len();
        members.retain(|(of, _), member| {
            let goes = of.as_ref() == name && member.session == session;
            if goes {
                member.party.set_idle(true);
            }
            !goes
        });
        if of(&mut members, name).next().is_none() {
            self.remembered().remove(name);
        }
        if members.len() < before { Ok(()) } else { Err(FleetError::Unknown(name.to_owned())) }
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Returns how each subscriber stands, by name.
    pub fn status(&self) -> Vec<SubscriberStatus> {
        let now_ms = clock::now_ms();
        let members = self.lock();
        let status = |(key, member): (&Key, &Member)| SubscriberStatus {
            name: key.0.clone(),
            generation: member.generation,
            connected: member.connected,
            silent: member.silent,
            leaving: is_leaving(&members, key, member),
            heard_ms: now_ms.saturating_sub(member.heard_ms),
            uses: member.uses.len(),
            loads: member.carrying.loads(now_ms),
        };
        members.iter().map(status).collect()
    }

    /// Looks for who is silent, as long as there is anybody.
    async fn watch(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let is_over = self.look(clock::now_ms());
            let news = self.remembered().news();
            if let Some((path, text)) = news {
                let written = tokio::task::spawn_blocking(move || remembered::write(&path, &text)).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(%error, "who follows cannot be remembered: a restart does not wait for them");
                }
            }
            if is_over {
                return;
            }
        }
    }

    /// Names who is silent and forgets who is gone; returns whether nobody is left.
    fn look(&self, now_ms: u64) -> bool {
        let mut members = self.lock();
        for ((name, process), member) in members.iter_mut() {
            let quiet_ms = now_ms.saturating_sub(member.heard_ms);
            if !member.silent && quiet_ms >= millis(SILENCE) {
                member.silent = true;
                member.uses.clear();
                member.carrying.lapse();
                member.party.set_idle(true);
                if process.is_empty() && !member.connected {
                    // It followed an earlier process and did not come back.
                    self.remembered().remove(name);
                }
                let (at, seconds) = (member.generation, SILENCE.as_secs());
                let message =
                    format!("{name} says nothing for {seconds} s, at generation {at}: it is waited for no more");
                tracing::warn!(subscriber = %name, generation = at, "a subscriber is silent and not waited for");
                self.events.emit(self.table.load().generation, EventKind::SubscriberSilent, None, None, message);
            }
        }
        // An old process whose stream nobody closed is gone, too.
        let is_gone = |(key, member): &(&Key, &Member)| {
            let is_over = !member.connected || (member.silent && is_leaving(&members, key, member));
            is_over && now_ms.saturating_sub(member.seen_ms) >= millis(LISTED)
        };
        let gone: Vec<Key> = members.iter().filter(is_gone).map(|(key, _)| key.clone()).collect();
        members.retain(|key, _| !gone.contains(key));
        let is_over = members.is_empty();
        if is_over {
            self.is_watched.store(false, Ordering::Release);
        }
        is_over
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
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
