//! Listeners and workers, changed while they run.
//!
//! Owns a duplicate of every listening socket and lends others to the workers. Invariant: a socket is never closed while
//! its address stays: with fewer workers one accepts from several sockets of a listener, with more of them sockets are
//! lent anew or bound. Changes are bound first and applied then, whole or not at all, one after another.

use crate::app::RunOptions;
use crate::model::{CaptureMode, ListenerSpec};
use crate::net::{BindError, Binder, Door, Kind, Wanted};
use crate::proxy::{Lent, Workers};
use anyhow::Context;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Datagrams are waited for by the reactor; this is never reached.
const UDP_WAIT: Duration = Duration::from_secs(1);

/// Before a listener closes, handshakes that are under way have so long to end: a round trip to another continent.
const HANDSHAKES: Duration = Duration::from_millis(200);

/// The listeners and workers of this process; a cheap handle.
#[derive(Debug, Clone)]
pub struct Live {
    /// Held across a change, so that there is one at a time.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    sockets: Sockets,
    /// `None` when they have been taken for the end.
    workers: Option<Workers>,
}

/// The listening sockets of every listener, bound but not necessarily lent.
#[derive(Debug)]
pub struct Sockets {
    binder: Binder,
    options: RunOptions,
    next_id: u64,
    open: Vec<Listening>,
}

/// One listener with its sockets.
#[derive(Debug)]
struct Listening {
    /// The address that the configuration names; the port may be 0, or the real one a free one instead.
    wanted: SocketAddr,
    /// The listener with its exact address.
    spec: Arc<ListenerSpec>,
    sockets: Vec<(u64, Arc<Door>)>,
    /// Whether it is at a service's own address: not of the configuration.
    is_own: bool,
}

/// What becomes of the keeper's sockets when this process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// Nobody listens any more; who is about to have a connection gets it.
    Close,
    /// Nobody listens any more, at once.
    Cut,
    /// Another process goes on with them.
    Leave,
}

/// A change whose sockets are bound and that is not applied yet; nothing is different when it is dropped.
#[derive(Debug)]
pub struct Change {
    inner: OwnedMutexGuard<Inner>,
    open: Vec<Listening>,
    next_id: u64,
    workers: usize,
}

impl Sockets {
    /// Binds every listener, with a socket for each worker.
    ///
    /// # Errors
    /// When an address cannot be bound and no free port may be taken instead.
    pub fn bind(
        listeners: &[ListenerSpec],
        workers: usize,
        options: RunOptions,
        binder: Binder,
    ) -> anyhow::Result<Self> {
        let mut sockets = Self { binder, options, next_id: 0, open: Vec::new() };
        (sockets.open, sockets.next_id) = sockets.extended(listeners, workers)?;
        Ok(sockets)
    }

    /// Returns the listeners of the configuration with their exact addresses.
    pub fn listeners(&self) -> Vec<ListenerSpec> {
        exact(&self.open)
    }

    /// Binds listeners at services' own addresses beside the others; what cannot be bound is left out and logged.
    pub fn serve(&mut self, listeners: &[ListenerSpec], workers: usize) {
        let own;
        (own, self.next_id, _) = self.own(listeners, workers, self.next_id);
        self.open.retain(|open| !open.is_own);
        self.open.extend(own);
    }

    /// Returns a set of duplicates for each worker.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn lend(&self, workers: usize) -> anyhow::Result<Vec<Vec<Lent>>> {
        lend(&self.open, workers)
    }

    /// Returns what would be open with these listeners: what is there already, and what is bound for it now.
    fn extended(&self, listeners: &[ListenerSpec], workers: usize) -> anyhow::Result<(Vec<Listening>, u64)> {
        let mut next_id = self.next_id;
        let mut open = Vec::with_capacity(listeners.len());
        for listener in listeners {
            open.push(self.open(listener, (workers, self.options.free_ports), &mut next_id)?);
        }
        Ok((open, next_id))
    }

    /// As `extended`, for services' own addresses: also returns whether all of them are open.
    fn own(&self, listeners: &[ListenerSpec], workers: usize, mut next_id: u64) -> (Vec<Listening>, u64, bool) {
        let mut open = Vec::with_capacity(listeners.len());
        for listener in listeners {
            match self.open(listener, (workers, false), &mut next_id) {
                Ok(one) => open.push(Listening { is_own: true, ..one }),
                Err(error) => tracing::warn!("a service is not served at its own address: {error:#}"),
            }
        }
        let is_whole = open.len() == listeners.len();
        (open, next_id, is_whole)
    }

    /// Returns a listener that is open already, or binds it; with a socket for each worker either way.
    fn open(
        &self,
        listener: &ListenerSpec,
        (workers, free): (usize, bool),
        next_id: &mut u64,
    ) -> anyhow::Result<Listening> {
        let known = self.open.iter().find(|known| {
            known.wanted == listener.address
                && known.spec.protocol.is_udp() == listener.protocol.is_udp()
                && (listener.address.port() != 0 || known.spec.name == listener.name)
        });
        let mut sockets = known.map(|known| known.sockets.clone()).unwrap_or_default();
        let wanted = Wanted { address: listener.address, count: workers, free, ahead: false, label: &listener.name };
        let fresh = match (known, listener.protocol.is_udp()) {
            (Some(known), false) => {
                let more = self.binder.more_tcp(&wanted, known.spec.address, sockets.len());
                more.map(|sockets| sockets.into_iter().map(Door::Tcp).collect())
            }
            // As many as there were workers when it was bound: flows stay on the sockets that the kernel leads them to.
            (Some(_), true) => Ok(Vec::new()),
            (None, is_udp) => self.bind_new(&wanted, is_udp),
        };
        for socket in fresh.with_context(|| format!("listener {}", listener.name))? {
            make_transparent(&socket, listener)?;
            sockets.push((*next_id, Arc::new(socket)));
            *next_id += 1;
        }
        let first = sockets.first().and_then(|(_, socket)| socket.local_addr().ok());
        let address = first.unwrap_or(listener.address);
        if known.is_none() {
            tracing::info!(listener = %listener.name, %address, "listening");
        }
        let spec = Arc::new(ListenerSpec { address, ..listener.clone() });
        Ok(Listening { wanted: listener.address, spec, sockets, is_own: false })
    }

    fn bind_new(&self, wanted: &Wanted<'_>, is_udp: bool) -> Result<Vec<Door>, BindError> {
        let (doors, instead_of): (Vec<Door>, _) = if is_udp {
            let bound = self.binder.udp(wanted, UDP_WAIT)?;
            for socket in &bound.sockets {
                let unusable = |source| BindError { address: wanted.address, holder: None, source };
                socket.set_nonblocking(true).map_err(unusable)?;
            }
            (bound.sockets.into_iter().map(Door::Udp).collect(), bound.instead_of)
        } else {
            let bound = self.binder.tcp(wanted)?;
            (bound.sockets.into_iter().map(Door::Tcp).collect(), bound.instead_of)
        };
        if let Some(taken) = instead_of {
            tracing::warn!("{taken}; taking a free port instead");
        }
        Ok(doors)
    }

    /// Lets go of sockets, the keeper's too: whoever still holds a duplicate is the last.
    fn close(&self, gone: Listening) {
        let Listening { wanted, spec, sockets, .. } = gone;
        let kind = if spec.protocol.is_udp() { Kind::Udp } else { Kind::Tcp };
        drop(sockets);
        self.binder.close(kind, &Wanted { address: wanted, count: 0, free: false, ahead: false, label: &spec.name });
    }
}

/// Lets a socket take connections to addresses that are not this machine's, where its listener captures them so.
fn make_transparent(door: &Door, listener: &ListenerSpec) -> anyhow::Result<()> {
    let (Some(capture), Door::Tcp(socket)) = (&listener.admission.capture, door) else { return Ok(()) };
    if capture.mode == CaptureMode::Tproxy {
        let is_ipv6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
        let socket = SockRef::from(socket);
        let set = if is_ipv6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) };
        set.with_context(|| {
            format!(
                "listener {}: mode = \"tproxy\" needs CAP_NET_ADMIN: run as root, or write \"redirect\"",
                listener.name
            )
        })?;
    }
    Ok(())
}

/// Returns the listeners of the configuration.
fn exact(open: &[Listening]) -> Vec<ListenerSpec> {
    open.iter().filter(|listening| !listening.is_own).map(|listening| (*listening.spec).clone()).collect()
}

/// Returns the listeners as they are wanted: those of the configuration, or those at services' own addresses.
fn wanted(open: &[Listening], is_own: bool) -> Vec<ListenerSpec> {
    let wanted = |open: &Listening| ListenerSpec { address: open.wanted, ..(*open.spec).clone() };
    open.iter().filter(|open| open.is_own == is_own).map(wanted).collect()
}

fn lend(open: &[Listening], workers: usize) -> anyhow::Result<Vec<Vec<Lent>>> {
    let mut sets: Vec<Vec<Lent>> = (0..workers).map(|_| Vec::new()).collect();
    for listening in open {
        for (index, (id, socket)) in listening.sockets.iter().enumerate() {
            let socket = socket.try_clone().context("failed to duplicate a listening socket")?;
            if let Some(set) = sets.get_mut(index % workers.max(1)) {
                set.push(Lent { id: *id, listener: listening.spec.clone(), socket });
            }
        }
    }
    Ok(sets)
}

impl Live {
    /// Takes over running workers and the sockets that were lent to them.
    pub fn new(sockets: Sockets, workers: Workers) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { sockets, workers: Some(workers) })) }
    }

    /// Binds what other listeners and another number of workers need; waits for an earlier change to be over.
    ///
    /// # Errors
    /// When an address cannot be bound, or this process is ending: nothing has changed.
    pub async fn prepare(&self, listeners: &[ListenerSpec], workers: usize) -> anyhow::Result<Change> {
        let inner = self.inner.clone().lock_owned().await;
        prepare(inner, listeners, workers)
    }

    /// Listens with exactly these listeners from now on; returns them with their exact addresses.
    ///
    /// # Errors
    /// As of [`Live::prepare`] and [`Change::apply`].
    pub async fn set_listeners(&self, listeners: &[ListenerSpec]) -> anyhow::Result<Vec<ListenerSpec>> {
        let inner = self.inner.clone().lock_owned().await;
        let workers = inner.workers.as_ref().map_or(1, Workers::count);
        let change = prepare(inner, listeners, workers)?;
        let exact = change.listeners();
        change.apply().await.map(|()| exact)
    }

    /// Carries traffic with so many workers from now on.
    ///
    /// # Errors
    /// As of [`Live::prepare`] and [`Change::apply`].
    pub async fn set_workers(&self, workers: usize) -> anyhow::Result<()> {
        let inner = self.inner.clone().lock_owned().await;
        let listeners = wanted(&inner.sockets.open, false);
        prepare(inner, &listeners, workers)?.apply().await
    }

    /// Listens at services' own addresses with exactly these listeners from now on, beside those of the configuration.
    /// Returns whether all of them are open: what could not be bound is logged, and is tried again with the next call.
    pub async fn serve(&self, listeners: Vec<ListenerSpec>) -> bool {
        let inner = self.inner.clone().lock_owned().await;
        let Some(workers) = inner.workers.as_ref().map(Workers::count) else { return true };
        if wanted(&inner.sockets.open, true) == listeners {
            return true;
        }
        let (own, next_id, is_whole) = inner.sockets.own(&listeners, workers, inner.sockets.next_id);
        let is_same = wanted(&own, true) == wanted(&inner.sockets.open, true);
        if is_same {
            return is_whole;
        }
        let configured = inner.sockets.open.iter().filter(|open| !open.is_own).map(Listening::share);
        let open = configured.chain(own).collect();
        match (Change { inner, open, next_id, workers }).apply().await {
            Ok(()) => is_whole,
            Err(error) => {
                tracing::error!("services are not served at their own addresses as they should be: {error:#}");
                false
            }
        }
    }

    /// Returns the number of workers that accept connections.
    pub async fn workers(&self) -> usize {
        self.inner.lock().await.workers.as_ref().map_or(0, Workers::count)
    }

    /// Gives the workers away for the end; no change is possible any more. The sockets close as the workers end, unless
    /// the keeper holds them for another process.
    pub async fn end(&self, sockets: AtEnd) -> Option<Workers> {
        let mut inner = self.inner.lock().await;
        if sockets == AtEnd::Close {
            turn_away(&inner.sockets.open).await;
        }
        for listening in std::mem::take(&mut inner.sockets.open) {
            match sockets {
                AtEnd::Close | AtEnd::Cut => inner.sockets.close(listening),
                AtEnd::Leave => drop(listening),
            }
        }
        inner.workers.take()
    }
}

fn prepare(inner: OwnedMutexGuard<Inner>, listeners: &[ListenerSpec], workers: usize) -> anyhow::Result<Change> {
    anyhow::ensure!(inner.workers.is_some(), "this Weir is ending");
    let workers = workers.max(1);
    let (mut open, next_id) = inner.sockets.extended(listeners, workers)?;
    let (own, next_id, _) = inner.sockets.own(&wanted(&inner.sockets.open, true), workers, next_id);
    open.extend(own);
    Ok(Change { inner, open, next_id, workers })
}

/// Has listeners that are about to close take no further connection, and waits for those that are about to be made.
async fn turn_away(gone: &[Listening]) {
    let doors = || gone.iter().flat_map(|gone| &gone.sockets).filter(|(_, door)| matches!(**door, Door::Tcp(_)));
    for (_, door) in doors() {
        if let Err(error) = door.turn_away() {
            tracing::debug!(%error, "connections that are made while a listener closes may be reset");
        }
    }
    if doors().next().is_some() {
        tokio::time::sleep(HANDSHAKES).await;
    }
}

impl Listening {
    /// Returns whether the other has the same address.
    fn is_at(&self, other: &Self) -> bool {
        self.spec.address == other.spec.address && self.spec.protocol.is_udp() == other.spec.protocol.is_udp()
    }

    /// Returns it once more, with the same sockets.
    fn share(&self) -> Self {
        let sockets = self.sockets.clone();
        Self { wanted: self.wanted, spec: self.spec.clone(), sockets, is_own: self.is_own }
    }
}

impl Change {
    /// Returns the listeners of the configuration with their exact addresses, as they will be.
    pub fn listeners(&self) -> Vec<ListenerSpec> {
        exact(&self.open)
    }

    /// Applies it: returns when every worker holds its sockets, and removed listeners are closed with empty queues.
    ///
    /// # Errors
    /// When a worker's thread cannot be made or a socket not be duplicated: nothing has changed.
    pub async fn apply(self) -> anyhow::Result<()> {
        let Self { mut inner, open, next_id, workers: count } = self;
        let sets = lend(&open, count)?;
        let listeners: Arc<[Arc<ListenerSpec>]> = open.iter().map(|listening| listening.spec.clone()).collect();
        let Inner { sockets, workers: Some(workers) } = &mut *inner else { anyhow::bail!("this Weir is ending") };
        // Before the workers close what was removed: whoever empties a queue must hold the socket last.
        let release = async || {
            let before = std::mem::replace(&mut sockets.open, open);
            sockets.next_id = next_id;
            let stays = |old: &Listening| sockets.open.iter().any(|new| new.is_at(old));
            let (_, gone) = before.into_iter().partition::<Vec<_>, _>(stays);
            turn_away(&gone).await;
            for old in gone {
                tracing::info!(listener = %old.spec.name, address = %old.spec.address, "listening no more");
                sockets.close(old);
            }
        };
        workers.lend(sets, listeners, release).await.context("failed to start a worker")?;
        tracing::info!(workers = workers.count(), "workers hold their sockets");
        Ok(())
    }
}
