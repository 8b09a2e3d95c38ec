//! The table as a stream to one subscriber: whole, then what changes.
//!
//! Nothing is queued: when a subscriber has taken what was sent, the table of now is compared with the one that it has. So a
//! slow one gets fewer and larger updates, and what is held for it is one piece of [`PIECE`] octets and the snapshots' shared
//! parts. A service's line is written once and shared by all streams. Who comes back with a generation that is remembered gets
//! what changed since, else the whole table.

use crate::control::feed::authorities::Authorities;
use crate::control::feed::fleet::{Fleet, FleetError};
use crate::control::feed::lineage::Lineage;
use crate::control::feed::status::Sources;
use crate::control::feed::wire::{Begin, End, FORMAT, Heartbeat, Hello, Line};
use crate::lifecycle::{Phase, Signal};
use crate::model::NodeId;
use crate::table::{Acknowledger, Service, Snapshot, Table};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Octets that are handed over at a time.
const PIECE: usize = 64 * 1024;
/// Snapshots that are remembered for who comes back; they share what did not change.
const REMEMBERED: usize = 64;
/// A subscriber that takes nothing for so long is let go.
const STUCK: Duration = Duration::from_secs(30);
/// Bounds of the time between two heartbeats, and what is taken where none is asked for.
const HEARTBEAT: (Duration, Duration, Duration) =
    (Duration::from_millis(50), Duration::from_secs(10), Duration::from_secs(1));

/// What a subscriber asks for.
#[derive(Debug, Clone, Default)]
pub struct Subscription {
    /// Its name; `None`: it only looks, and nothing waits for it.
    pub name: Option<String>,
    /// Which process of it: another one of the same name stands beside it as long as its stream is open.
    pub process: String,
    /// What it calls this subscription.
    pub session: String,
    /// What the generation that it has is counted in, and that generation; `None`: it has none.
    pub from: Option<(String, u64)>,
    /// How often it wants a line; `None`: the default.
    pub heartbeat: Option<Duration>,
    /// Told when its connection is to be cut, because nothing is taken from it any more.
    pub cut: Option<Arc<Notify>>,
    /// Asked with each heartbeat; `None`: it may follow for ever.
    pub admitted: Option<Admitted>,
}

/// Whether a subscriber may follow on.
#[derive(Clone)]
pub struct Admitted(pub Arc<dyn Fn() -> bool + Send + Sync>);

impl std::fmt::Debug for Admitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admitted")
    }
}

/// Serves the table; a cheap handle.
#[derive(Debug, Clone)]
pub struct Outgoing {
    table: Table,
    fleet: Fleet,
    node: NodeId,
    lineage: Lineage,
    authorities: Authorities,
    remembered: Arc<Mutex<VecDeque<Arc<Snapshot>>>>,
    signal: Signal,
}

/// What [`Outgoing::subscribe`] returns: the octets of the answer.
pub type Pieces = mpsc::Receiver<Result<Bytes, std::convert::Infallible>>;

/// The stream of one subscriber.
struct Stream {
    outgoing: Outgoing,
    sender: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    party: Arc<Acknowledger>,
    buffer: Vec<u8>,
    sent: Option<Arc<Snapshot>>,
}

/// The subscriber is gone, or takes nothing.
struct Gone;

impl Outgoing {
    /// Makes it; its generations are counted in a new epoch. `sources` are where the table comes from.
    pub fn new(table: Table, fleet: Fleet, node: NodeId, sources: &Sources, signal: Signal) -> Self {
        let (lineage, authorities) = (sources.lineage().clone(), Authorities::default());
        Self { table, fleet, node, lineage, authorities, remembered: Arc::default(), signal }
    }

    /// Returns who follows.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Returns the authorities that are told with services.
    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// Begins a stream.
    ///
    /// # Errors
    /// [`FleetError::Full`].
    pub fn subscribe(&self, subscription: Subscription) -> Result<Pieces, FleetError> {
        let party = match &subscription.name {
            Some(name) => self.fleet.join(name, &subscription.process, &subscription.session)?,
            None => {
                let party = self.table.acknowledger("onlooker");
                party.set_idle(true);
                party
            }
        };
        // One piece waits while the next is made.
        let (sender, pieces) = mpsc::channel(1);
        let sent = subscription.from.as_ref().and_then(|(epoch, generation)| self.recall(epoch, *generation));
        let stream = Stream { outgoing: self.clone(), sender, party, buffer: Vec::new(), sent };
        let (fleet, name, session) = (self.fleet.clone(), subscription.name.clone(), subscription.session.clone());
        tokio::spawn(async move {
            let ended = stream.run(&subscription).await;
            // The end of a stream is not sent either to who takes nothing.
            if let (Err(Gone), Some(cut)) = (ended, &subscription.cut) {
                cut.notify_one();
            }
            if let Some(name) = name {
                fleet.disconnected(&name, &session);
            }
        });
        Ok(pieces)
    }

    /// Returns the snapshot that a subscriber has.
    fn recall(&self, epoch: &str, generation: u64) -> Option<Arc<Snapshot>> {
        if **self.lineage.own() != *epoch {
            return None;
        }
        let now = self.table.load();
        if now.generation == generation {
            return Some(now);
        }
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.iter().find(|snapshot| snapshot.generation == generation).cloned()
    }

    fn remember(&self, snapshot: &Arc<Snapshot>) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.iter().any(|known| known.generation == snapshot.generation) {
            return;
        }
        if remembered.len() == REMEMBERED {
            remembered.pop_front();
        }
        remembered.push_back(snapshot.clone());
    }
}

impl Stream {
    /// Runs to its end; [`Gone`] when nobody takes anything any more.
    async fn run(mut self, subscription: &Subscription) -> Result<(), Gone> {
        let (shortest, longest, usual) = HEARTBEAT;
        let pause = subscription.heartbeat.unwrap_or(usual).clamp(shortest, longest);
        let hello = Hello {
            format: FORMAT,
            weir: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.outgoing.node.to_string(),
            epoch: self.outgoing.lineage.own().to_string(),
            session: subscription.session.clone(),
            heartbeat_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
        };
        Line::Hello(hello).write(&mut self.buffer);
        let mut beats = interval(pause);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (sender, party) = (self.sender.clone(), self.party.clone());
        let mut signal = self.outgoing.signal.clone();
        loop {
            self.catch_up().await?;
            self.flush().await?;
            tokio::select! {
                () = party.woken() => {}
                _ = beats.tick() => {
                    // Of one that vanished the kernel would not know for many minutes.
                    let name = subscription.name.as_deref();
                    let is_lost = name.is_some_and(|name| self.outgoing.fleet.is_lost(name, &subscription.session));
                    if is_lost || subscription.admitted.as_ref().is_some_and(|Admitted(may)| !may()) {
                        return Err(Gone);
                    }
                    self.beat();
                }
                () = sender.closed() => return Err(Gone),
                () = signal.reached(Phase::Stopping) => return Ok(()),
            }
        }
    }

    fn beat(&mut self) {
        // Before the first update there is nothing to repeat.
        if let Some(sent) = &self.sent {
            let by = self.outgoing.lineage.before().to_vec();
            Line::Heartbeat(Heartbeat { generation: sent.generation, by }).write(&mut self.buffer);
        }
    }

    /// Brings the subscriber to the table of now.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            let now = self.outgoing.table.load();
            if now.generation == 0 || self.sent.as_ref().is_some_and(|sent| sent.generation == now.generation) {
                return Ok(());
            }
            self.update(&now).await?;
            self.outgoing.remember(&now);
            self.sent = Some(now);
        }
    }

    async fn update(&mut self, now: &Snapshot) -> Result<(), Gone> {
        let before = self.sent.clone();
        let after = before.as_ref().map(|before| before.generation);
        let by = self.outgoing.lineage.before().to_vec();
        Line::Begin(Begin { generation: now.generation, after, by }).write(&mut self.buffer);
        let (changed, gone) = match &before {
            Some(before) => now.services.since(&before.services),
            None => (now.services.iter().cloned().collect(), Vec::new()),
        };
        let mut lines = changed.len() + gone.len();
        for service in changed {
            self.service(&service).await?;
            // That of before is told to nobody any more.
            if let Some(old) = before.as_ref().and_then(|before| before.services.get(service.name())) {
                old.told.forget();
            }
        }
        for name in gone {
            self.put(&Line::Remove(name.to_string())).await?;
        }
        if before.is_none_or(|before| !std::ptr::eq(before.routes.specs(), now.routes.specs())) {
            self.put(&Line::routes(now)).await?;
            lines += 1;
        }
        Line::End(End { generation: now.generation, lines }).write(&mut self.buffer);
        Ok(())
    }

    /// Puts the line of a service, which all streams share.
    async fn service(&mut self, service: &Service) -> Result<(), Gone> {
        let line = service.told.line(|| {
            let mut octets = Vec::new();
            Line::service(service, &self.outgoing.authorities).write(&mut octets);
            octets.shrink_to_fit();
            octets
        });
        if line.len() < PIECE {
            self.buffer.extend_from_slice(&line);
            return if self.buffer.len() >= PIECE { self.flush().await } else { Ok(()) };
        }
        self.flush().await?;
        self.send(line).await
    }

    async fn put(&mut self, line: &Line) -> Result<(), Gone> {
        line.write(&mut self.buffer);
        if self.buffer.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.send(piece).await
    }

    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        match timeout(STUCK, self.sender.send(Ok(piece))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}
