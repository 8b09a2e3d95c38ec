//! The one task that owns the book of names.
//!
//! Each turn it does what `entry.rs` says is due, in tasks of their own: at most [`ORDERS`] at a time, one for a name. What
//! comes back is checked, stored, put into the listeners' sets, and told as an event.

use crate::clock;
use crate::control::certificates::authority::Authority;
use crate::control::certificates::entry::{Entry, Step};
use crate::control::certificates::handle::{Board, Handle, Listed, MAILBOX, Message, Shelf};
use crate::control::certificates::held::Held;
use crate::control::certificates::issuer::{IssueError, Issuer, Made, Order};
use crate::control::certificates::schedule::{Rate, Window, back_off_ms};
use crate::control::events::{EventKind, Events};
use crate::control::store::{Change, Contents, FailureRecord, Origin, RootRecord, Store};
use crate::rng::Rng;
use crate::table::Table;
use crate::table::certificates::{Certificate, Question, Questions};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

/// Orders and questions under way at a time.
const ORDERS: usize = 4;
/// The calendar is looked at again after this at the latest: a machine that slept, a clock that was set.
const LONGEST_WAIT_MS: u64 = 60_000;
/// The authority is asked when to renew this often where it says nothing, and after a failure.
const ASK_EVERY_MS: u64 = 6 * 3_600_000;
/// A name that was refused is refused again without asking for so long.
const REFUSED_MS: u64 = 60_000;
/// Refused names that are remembered, and names that may be asked about at a time.
const MAX_ASKED: usize = 1024;

/// What the keeper works with.
#[derive(Debug)]
pub struct Parts {
    /// Where certificates survive.
    pub store: Store,
    /// Where it tells what it did.
    pub events: Events,
    /// For the generation that events carry.
    pub table: Table,
    /// The ACME authority; `None`: nothing is ordered.
    pub acme: Option<Arc<dyn Issuer>>,
    /// Orders within any hour for names that no configuration lists.
    pub on_demand_per_hour: usize,
}

/// What a task brings back.
#[derive(Debug)]
enum Done {
    Issued(Arc<str>, Result<Made, IssueError>),
    Window(Arc<str>, Result<Option<(Window, u64)>, IssueError>),
    Allowed(Arc<str>, Result<(), IssueError>),
}

#[derive(Debug)]
struct Keeper {
    parts: Parts,
    authority: Option<Arc<Authority>>,
    root: Option<RootRecord>,
    shelves: Vec<Shelf>,
    book: BTreeMap<Arc<str>, Entry>,
    tasks: JoinSet<Done>,
    /// Clients that wait for a name.
    waiting: HashMap<Arc<str>, Vec<oneshot::Sender<bool>>>,
    /// Names that were refused, until when.
    refused: HashMap<Arc<str>, u64>,
    rate: Rate,
    rng: Rng,
    handle: Handle,
    /// Where listeners ask for names.
    questions: Questions,
}

/// Takes certificates from the store, serves those that are wanted, issues what the internal authority can, and starts the
/// keeper.
pub async fn spawn(parts: Parts, contents: &Contents, shelves: Vec<Shelf>) -> Handle {
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let handle = Handle { mailbox, board: Arc::default() };
    let (questions, asked) = Questions::new();
    let records = || contents.certificates.values().filter(|record| record.on_demand).map(|record| record.issued_ms);
    let mut keeper = Keeper {
        rate: Rate::new(parts.on_demand_per_hour, records()),
        parts,
        authority: None,
        root: contents.root.clone(),
        shelves: Vec::new(),
        book: BTreeMap::new(),
        tasks: JoinSet::new(),
        waiting: HashMap::new(),
        refused: HashMap::new(),
        rng: Rng::from_os(),
        handle: handle.clone(),
        questions,
    };
    keeper.inherit(contents);
    keeper.take_up(shelves).await;
    tokio::spawn(keeper.run(messages, asked));
    handle
}

impl Keeper {
    /// Takes up what an earlier Weir obtained.
    fn inherit(&mut self, contents: &Contents) {
        for (name, record) in &contents.certificates {
            match Held::read(name, record.clone()) {
                Ok(held) => {
                    let mut entry = Entry::new(record.origin, record.on_demand);
                    entry.held = Some(held);
                    entry.is_wanted = false;
                    self.book.insert(name.as_str().into(), entry);
                }
                Err(error) => tracing::warn!(name, %error, "a stored certificate is of no use"),
            }
        }
        for (name, failure) in &contents.failures {
            let entry = self.book.entry(name.as_str().into());
            let entry = entry.or_insert_with(|| Entry { is_wanted: false, ..Entry::new(Origin::Acme, false) });
            (entry.failures, entry.retry_ms, entry.error) =
                (failure.count, failure.retry_ms, Some(failure.error.clone()));
        }
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>, mut asked: mpsc::Receiver<Question>) {
        loop {
            let wait = self.begin().await;
            self.show();
            tokio::select! {
                message = messages.recv() => match message {
                    None => return,
                    Some(message) => self.answer(message).await,
                },
                Some(Question { name, reply }) = asked.recv() => self.missing(name, reply),
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(done) => self.done(done).await,
                    // A panic: the entry stays busy, and its certificate is served on.
                    Err(error) => tracing::error!(%error, "an order broke off"),
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins what is due; returns how long there is nothing else.
    async fn begin(&mut self) -> Duration {
        let now_ms = clock::unix_ms();
        let mut until_ms = now_ms.saturating_add(LONGEST_WAIT_MS);
        let due: Vec<(Arc<str>, Step)> =
            self.book.iter().map(|(name, entry)| (name.clone(), entry.step(now_ms))).collect();
        for (name, step) in due {
            match step {
                Step::Wait(at_ms) => until_ms = until_ms.min(at_ms),
                Step::Forget => self.forget(&name).await,
                // It is begun when one of them is done.
                Step::Issue | Step::AskWindow if self.tasks.len() >= ORDERS => {}
                step => self.begin_one(&name, step),
            }
        }
        Duration::from_millis(until_ms.saturating_sub(now_ms).max(1))
    }

    /// Forgets a name whose certificate has expired.
    async fn forget(&mut self, name: &Arc<str>) {
        self.book.remove(name);
        self.publish();
        let name = name.to_string();
        let _ = self.parts.store.note(vec![Change::DropCertificate(name.clone()), Change::DropFailure(name)]).await;
    }

    fn begin_one(&mut self, name: &Arc<str>, step: Step) {
        let Some(entry) = self.book.get_mut(name) else { return };
        let issuer: Option<Arc<dyn Issuer>> = match entry.origin {
            Origin::Acme => self.parts.acme.clone(),
            Origin::Internal => self.authority.clone().map(|authority| authority as Arc<dyn Issuer>),
        };
        // Its authority is gone with the configuration of it.
        let Some(issuer) = issuer else { return };
        entry.is_busy = true;
        // Asked for again meanwhile, it is done again.
        entry.is_forced &= step != Step::Issue;
        let id = entry.held.as_ref().filter(|held| held.record.origin == Origin::Acme).and_then(|held| held.id.clone());
        let name = name.clone();
        match (step, id) {
            (Step::AskWindow, Some(id)) => {
                self.tasks.spawn(async move { Done::Window(name, issuer.window(&id).await) });
            }
            (Step::AskWindow, None) => {
                self.tasks.spawn(async move { Done::Window(name, Ok(None)) });
            }
            (_, replaces) => {
                // Whether it is still welcome; the first time it was asked before there was an entry.
                let asks = entry.on_demand && (entry.held.is_some() || entry.failures > 0);
                let order = Order { name: name.clone(), failures: entry.failures, replaces };
                self.tasks.spawn(async move {
                    let allowed = if asks { issuer.allows(&name).await } else { Ok(()) };
                    let made = match allowed {
                        Ok(()) => issuer.issue(&order).await,
                        Err(error) => Err(error),
                    };
                    Done::Issued(name, made)
                });
            }
        }
    }

    async fn answer(&mut self, message: Message) {
        match message {
            Message::Shelves(shelves, reply) => {
                self.take_up(shelves).await;
                // Who asked may have gone away.
                let _ = reply.send(());
            }
            Message::Renew(name, reply) => {
                let entry = self.book.get_mut(&name).filter(|entry| entry.is_wanted);
                let is_known = entry.is_some();
                if let Some(entry) = entry {
                    entry.is_forced = true;
                }
                let _ = reply.send(is_known);
            }
        }
    }

    /// Takes up which names are wanted where.
    async fn take_up(&mut self, shelves: Vec<Shelf>) {
        let mut wanted: BTreeMap<Arc<str>, Origin> = BTreeMap::new();
        for shelf in &shelves {
            wanted.extend(shelf.acme.iter().map(|name| (name.clone(), Origin::Acme)));
            wanted.extend(shelf.internal.iter().map(|name| (name.clone(), Origin::Internal)));
        }
        let takes_any = shelves.iter().any(|shelf| shelf.on_demand);
        for (name, entry) in &mut self.book {
            entry.is_wanted = wanted.contains_key(name) || (entry.on_demand && takes_any);
        }
        for (name, origin) in wanted {
            let entry = self.book.entry(name).or_insert_with(|| Entry::new(origin, false));
            (entry.origin, entry.on_demand, entry.is_wanted) = (origin, false, true);
        }
        self.shelves = shelves;
        self.open_authority().await;
        self.issue_internal().await;
        self.publish();
        self.show();
    }

    /// Opens the internal authority once a name is there for it.
    async fn open_authority(&mut self) {
        let is_wanted = self.shelves.iter().any(|shelf| !shelf.internal.is_empty());
        if self.authority.is_some() || (!is_wanted && self.root.is_none()) {
            return;
        }
        match Authority::open(&self.parts.store, self.root.clone()).await {
            Ok(authority) => self.authority = Some(Arc::new(authority)),
            Err(error) => tracing::error!(%error, "no certificates for private names"),
        }
    }

    /// Issues at once what is missing of the internal authority, so that it is there before the first connection.
    async fn issue_internal(&mut self) {
        let now_ms = clock::unix_ms();
        let Some(authority) = self.authority.clone() else { return };
        let is_due = |entry: &Entry| entry.origin == Origin::Internal && entry.step(now_ms) == Step::Issue;
        let names: Vec<Arc<str>> =
            self.book.iter().filter(|(_, entry)| is_due(entry)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let order = Order { name: name.clone(), failures: 0, replaces: None };
            let made = authority.issue(&order).await;
            self.issued(name, made).await;
        }
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Issued(name, made) => {
                self.issued(name.clone(), made).await;
                let is_held = self.book.get(&name).is_some_and(|entry| entry.held.is_some());
                self.tell(&name, is_held);
            }
            Done::Window(name, found) => {
                let Some(entry) = self.book.get_mut(&name) else { return };
                entry.is_busy = false;
                let now_ms = clock::unix_ms();
                match found {
                    Ok(Some((window, again_ms))) => {
                        (entry.window, entry.ask_ms) = (Some(window), now_ms.saturating_add(again_ms));
                    }
                    Ok(None) => entry.ask_ms = now_ms + ASK_EVERY_MS,
                    Err(error) => {
                        tracing::info!(%name, %error, "the authority did not say when to renew");
                        entry.ask_ms = now_ms + ASK_EVERY_MS;
                    }
                }
            }
            Done::Allowed(name, Ok(())) => {
                self.book.entry(name).or_insert_with(|| Entry::new(Origin::Acme, true)).is_wanted = true;
            }
            Done::Allowed(name, Err(error)) => {
                tracing::info!(%name, %error, "no certificate for a name that a client asked for");
                self.refuse(&name);
            }
        }
    }

    /// Stores and serves what was issued, or takes note that nothing was.
    async fn issued(&mut self, name: Arc<str>, made: Result<Made, IssueError>) {
        let Some(entry) = self.book.get_mut(&name) else { return };
        entry.is_busy = false;
        let (now_ms, origin) = (clock::unix_ms(), entry.origin);
        let held = made.and_then(|made| {
            Held::new(&name, made, origin, now_ms, entry.on_demand)
                .map_err(|error| IssueError::Failed(error.to_string()))
        });
        let (kind, message, changes) = match held {
            Ok(held) => {
                let message = format!("certificate for {name} from {:?}", held.issuer);
                let record = held.record.clone();
                entry.issued(held);
                let name = name.to_string();
                let changes = vec![
                    Change::PutCertificate(name.clone(), record),
                    Change::DropOrder(name.clone()),
                    Change::DropFailure(name),
                ];
                (EventKind::CertificateIssued, message, changes)
            }
            Err(error) => {
                let is_limited = matches!(error, IssueError::Limited(_));
                entry.is_unwelcome = matches!(error, IssueError::Unwelcome(_));
                let wait_ms = back_off_ms(entry.failures.saturating_add(1), is_limited, self.rng.unit());
                entry.failed(error.to_string(), now_ms.saturating_add(wait_ms));
                let message = format!("no certificate for {name}: {error}; again in {} s", wait_ms / 1000);
                let failure =
                    FailureRecord { count: entry.failures, retry_ms: entry.retry_ms, error: error.to_string() };
                (EventKind::CertificateFailed, message, vec![Change::PutFailure(name.to_string(), failure)])
            }
        };
        self.count(kind == EventKind::CertificateIssued, origin);
        // It has happened, so it cannot be refused; the store logs what it has to keep in memory for now.
        let _ = self.parts.store.note(changes).await;
        self.publish();
        self.show();
        self.parts.events.emit(self.parts.table.load().generation, kind, None, None, message);
    }

    /// Puts what is held into the sets of the listeners that want it, and takes out what they do not want any more.
    fn publish(&self) {
        for shelf in &self.shelves {
            let is_wanted = |name: &Arc<str>, entry: &Entry| {
                entry.is_wanted
                    && (shelf.acme.contains(name)
                        || shelf.internal.contains(name)
                        || (shelf.on_demand && entry.on_demand))
            };
            shelf.certificates.ask_of(shelf.on_demand.then(|| self.questions.clone()));
            let mut stays = Vec::new();
            let there = shelf.certificates.list();
            for (name, entry) in self.book.iter().filter(|(name, entry)| is_wanted(name, entry)) {
                let Some(held) = &entry.held else { continue };
                let source = format!("{SOURCE}{name}");
                let is_same = |(known, certificate): &(Arc<str>, Arc<Certificate>)| {
                    **known == source && Arc::ptr_eq(certificate, &held.certificate)
                };
                if !there.iter().any(is_same) {
                    shelf.certificates.put(&source, held.certificate.clone());
                }
                stays.push(source);
            }
            for (source, _) in there.iter().filter(|(source, _)| source.starts_with(SOURCE)) {
                if !stays.iter().any(|known| **known == **source) {
                    shelf.certificates.remove(source);
                }
            }
        }
    }

    /// A client asked for a name that no certificate is for.
    fn missing(&mut self, name: Arc<str>, reply: oneshot::Sender<bool>) {
        let now_ms = clock::unix_ms();
        self.refused.retain(|_, until_ms| *until_ms > now_ms);
        let known = self.book.get(&name);
        let is_held = known.is_some_and(|entry| entry.held.is_some());
        // A name that failed is tried again when its time has come, not when somebody asks.
        let is_hopeless = known.is_some_and(|entry| !entry.is_busy && entry.retry_ms > now_ms);
        if is_held || is_hopeless || self.refused.contains_key(&name) {
            // Who asked may have gone away.
            let _ = reply.send(is_held);
            return;
        }
        let is_asked = self.waiting.contains_key(&name);
        let is_full = self.waiting.len() >= MAX_ASKED;
        if !is_asked && is_full {
            let _ = reply.send(false);
            return;
        }
        self.waiting.entry(name.clone()).or_default().push(reply);
        if is_asked || known.is_some_and(|entry| entry.is_wanted) {
            return;
        }
        match self.parts.acme.clone() {
            Some(acme) if is_host(&name) && self.rate.take(now_ms) => {
                self.tasks.spawn(async move {
                    let allowed = acme.allows(&name).await;
                    Done::Allowed(name, allowed)
                });
            }
            _ => self.refuse(&name),
        }
    }

    /// Refuses a name for a while.
    fn refuse(&mut self, name: &Arc<str>) {
        if self.refused.len() < MAX_ASKED {
            self.refused.insert(name.clone(), clock::unix_ms() + REFUSED_MS);
        }
        self.change(|board| board.refused += 1);
        self.tell(name, false);
    }

    /// Tells those who wait for a name.
    fn tell(&mut self, name: &Arc<str>, is_held: bool) {
        for reply in self.waiting.remove(name).into_iter().flatten() {
            let _ = reply.send(is_held);
        }
    }

    fn count(&self, is_issued: bool, origin: Origin) {
        self.change(|board| {
            let counts = if is_issued { &mut board.issued } else { &mut board.failed };
            if let Some(count) = counts.get_mut(origin as usize) {
                *count += 1;
            }
        });
    }

    fn show(&self) {
        let listed: Vec<Listed> = self.book.iter().map(|(name, entry)| listed(name, entry)).collect();
        let root: Option<Arc<str>> = self.authority.as_ref().map(|authority| authority.root().into());
        self.change(|board| {
            board.listed.clone_from(&listed);
            board.root.clone_from(&root);
        });
    }

    fn change(&self, change: impl Fn(&mut Board)) {
        let mut board = Board::clone(&self.handle.board.load());
        change(&mut board);
        self.handle.board.store(Arc::new(board));
    }
}

/// What the source of each certificate from here begins with.
const SOURCE: &str = "obtained ";

fn listed(name: &Arc<str>, entry: &Entry) -> Listed {
    Listed {
        name: name.clone(),
        origin: entry.origin,
        on_demand: entry.on_demand,
        is_wanted: entry.is_wanted,
        issuer: entry.held.as_ref().map(|held| held.issuer.clone()),
        not_after_ms: entry.held.as_ref().map(Held::not_after_ms),
        next_ms: entry.renew_ms().map(|at| at.max(entry.retry_ms)).or((entry.retry_ms > 0).then_some(entry.retry_ms)),
        failures: entry.failures,
        error: entry.error.clone(),
    }
}

/// Returns whether a name that a client sent can be ordered: a host name of two labels or more, no address.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && name.parse::<std::net::IpAddr>().is_err()
}
