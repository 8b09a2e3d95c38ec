//! A TCP listener's connection: one endpoint of one service for its whole life.
//!
//! Picked as a request is, from the snapshot of that moment and with the in-flight guard in the same step; another
//! endpoint is tried when no connection can be made. The guard is held until both directions have closed, so a drain
//! waits for it. A client that cannot be served gets a reset: an orderly end would look like an empty answer. While a
//! service that Weir runs has no replica the connection is held as a request is: nothing is read from it, so that what the
//! client sends, its end included, waits in the kernel for the endpoint.

use crate::balance::Tried;
use crate::clock;
use crate::model::{ListenerProtocol, ListenerSpec, ServiceName};
use crate::net::Stream;
use crate::proxy::connect::{Captured, Inside, connect};
use crate::proxy::copy::{End, Relay, Watch};
use crate::proxy::error::{ProxyError, Retry};
use crate::proxy::observe::{ORIGINAL, StreamSummary, record_stream};
use crate::proxy::pick::{Picked, Refused, Traffic, choose, failed};
use crate::proxy::preface::{Arrival, seen};
use crate::proxy::state::{Open, Worker};
use crate::proxy::timer::{Deadline, ms};
use crate::proxy::wait::{Absent, pass_on, woken};
use std::future::{pending, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::Interest;

/// A slot that no service has.
const NO_SLOT: usize = usize::MAX;
/// Time for a connection to an address of no service.
const ORIGINAL_MS: u64 = 5000;

/// Where a connection goes.
#[derive(Debug, Clone, Default)]
pub(crate) enum Target {
    /// To the listener's own service.
    #[default]
    Listener,
    /// To the service of the listener's rule in this place.
    Rule(usize),
    /// To this service; by its name, as its place in the table may be another's after a wait.
    Service { service: ServiceName, port: usize },
    /// To an address of no service.
    Original(SocketAddr),
}

/// Which way a connection takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    pub(crate) target: Target,
    /// It was led here by rules of the kernel.
    pub(crate) captured: bool,
    /// The client asked for TLS in clear text, and what it sends is passed through: the endpoint is asked too.
    pub(crate) asks: bool,
    /// Endpoints that speak TLS are asked for it in clear text first.
    pub(crate) starttls: bool,
}

impl Way {
    /// Returns the service that it leads to, and which of its ports; `None`: to an address of no service.
    fn named<'a>(&'a self, listener: &'a ListenerSpec) -> Option<(&'a ServiceName, usize)> {
        match (&self.target, &listener.protocol) {
            (Target::Rule(rule), _) => listener.admission.sni.get(*rule).map(|rule| (&rule.service, rule.port)),
            (Target::Listener, ListenerProtocol::Tcp { service, port }) | (Target::Service { service, port }, _) => {
                Some((service, *port))
            }
            _ => None,
        }
    }

    /// Returns its name in logs.
    fn service<'a>(&'a self, listener: &'a ListenerSpec) -> &'a str {
        match self.target {
            Target::Original(_) => ORIGINAL,
            _ => self.named(listener).map_or("", |(name, _)| name.as_str()),
        }
    }
}

/// A connection to an endpoint.
struct Established {
    stream: Stream,
    /// `None`: it goes to an address of no service.
    picked: Option<Picked>,
    address: SocketAddr,
    attempts: u8,
}

/// Carries one client's connection to its end. `open` counts it.
///
/// An `async` block and not an `async fn`, which would hold its arguments twice.
pub(crate) fn forward(
    open: Open,
    worker: Rc<Worker>,
    mut down: Stream,
    arrival: Arrival,
    listener: Arc<ListenerSpec>,
    way: Way,
) -> impl Future<Output = ()> {
    let deadline = worker.timers.register();
    let started = clock::now();
    async move {
        let _open = open;
        // Boxed: it is over soon, and an idle stream must stay small.
        match Box::pin(establish(&worker, &deadline, (&listener, &way), (&mut down, &arrival))).await {
            Ok(Established { mut stream, picked, address, attempts }) => {
                let connected = clock::now();
                let watch = match &picked {
                    Some(picked) => Watch::new(&worker, &deadline, picked, idle_ms(&worker, picked)),
                    None => Watch::original(&worker, &deadline),
                };
                let mut relay = Relay::new(watch, (&mut down, &mut stream), (Vec::new(), Vec::new()));
                let end = poll_fn(|cx| {
                    let polled = relay.poll(cx);
                    worker.piece_ended(relay.moved());
                    polled
                })
                .await;
                let (sent_bytes, received_bytes) = relay.carried();
                if matches!(end, End::Idle | End::Session) {
                    worker.shard.refused(end.reason());
                }
                let (endpoint, reason) = (Some(address), end.reason());
                let summary =
                    StreamSummary { started, connected, endpoint, reason, attempts, sent_bytes, received_bytes };
                record_stream(&worker, (&listener, way.service(&listener)), arrival.peer, &summary);
            }
            Err((error, attempts)) => {
                let place = (&*listener, way.service(&listener));
                refuse(&worker, down, (arrival.peer, place), (error, attempts, started));
            }
        }
    }
}

/// Resets the connection of a client that no endpoint takes.
fn refuse(
    worker: &Worker,
    mut down: Stream,
    (peer, place): (IpAddr, (&ListenerSpec, &str)),
    (error, attempts, started): (ProxyError, u8, Instant),
) {
    worker.shard.refused(error.reason());
    down.abort_on_close();
    let connected = clock::now();
    let (reason, endpoint) = (error.reason(), None);
    let summary = StreamSummary { started, connected, endpoint, reason, attempts, sent_bytes: 0, received_bytes: 0 };
    record_stream(worker, place, peer, &summary);
}

fn idle_ms(worker: &Worker, picked: &Picked) -> u64 {
    let mut locals = worker.locals.borrow_mut();
    // A service that was removed since the pick has the longest pause: its streams end with its drain time.
    locals.at(picked.key.slot).map_or(u64::MAX / 2, |local| ms(local.service.spec.timeouts.tunnel_idle))
}

/// Connects to an endpoint, and to another where that fails, within the service's retries and their budget.
async fn establish(
    worker: &Worker,
    deadline: &Deadline,
    (listener, way): (&ListenerSpec, &Way),
    (down, arrival): (&mut Stream, &Arrival),
) -> Result<Established, (ProxyError, u8)> {
    let told = |down: &Stream| arrival.header(|| down.socket().and_then(seen));
    let keep = listener.admission.capture.as_ref().filter(|_| way.captured).map(|capture| capture.keep_source);
    let captured = keep.map(|keep| Captured { source: keep.then_some(arrival.peer) });
    let inside = Inside::Octets { asks: way.asks, starttls: way.starttls, captured };
    if let Target::Original(address) = way.target {
        let connected = connect(worker, (NO_SLOT, address), inside, ORIGINAL_MS, deadline, || told(down)).await;
        let stream = connected.map_err(|error| (error, 1))?;
        return Ok(Established { stream, picked: None, address, attempts: 1 });
    }
    let (mut tried, mut attempts, mut last) = (Tried::default(), 0u8, None);
    loop {
        let picked = match pick(worker, (listener, way), &tried) {
            Err(Unpicked::Absent(absent)) => hold(worker, deadline, (listener, way, &tried), down, absent).await,
            result => result.map_err(Unpicked::error),
        };
        let (picked, connect_ms) = match picked {
            Ok(picked) => picked,
            // What the last attempt met says more than that nobody is left.
            Err(ProxyError::Exhausted) => return Err((last.unwrap_or(ProxyError::Exhausted), attempts)),
            Err(error) => return Err((error, attempts)),
        };
        if attempts == 0
            && let Some(local) = worker.locals.borrow_mut().at(picked.key.slot)
        {
            local.budget.earn();
        }
        attempts += 1;
        tried.push(picked.key.serial);
        let to = (picked.key.slot, picked.address);
        match connect(worker, to, inside, connect_ms, deadline, || told(down)).await {
            Ok(stream) => {
                let address = picked.address;
                return Ok(Established { stream, picked: Some(picked), address, attempts });
            }
            Err(error) => {
                failed(worker, picked.key, error);
                if !may_retry(worker, &picked, error, attempts) {
                    return Err((error, attempts));
                }
                last = Some(error);
            }
        }
    }
}

/// Holds a connection in the service's bounded queue until a replica serves.
async fn hold(
    worker: &Worker,
    deadline: &Deadline,
    (listener, way, tried): (&ListenerSpec, &Way, &Tried),
    down: &mut Stream,
    absent: Absent,
) -> Result<(Picked, u64), ProxyError> {
    let until_ms = worker.timers.now_ms() + absent.wait_ms;
    worker.counted_held(absent.slot);
    down.watch().map_err(|_| ProxyError::LocalLimit)?;
    let mut place = absent.stats.try_wait(absent.queue).ok_or(ProxyError::QueueFull)?;
    loop {
        match pick(worker, (listener, way), tried) {
            // It counts as waiting by now, so whoever hears it knows what for.
            Err(Unpicked::Absent(again)) => again.wake.ring(),
            result => {
                pass_on(&mut place, &absent.stats);
                return result.map_err(Unpicked::error);
            }
        }
        deadline.set_at(until_ms);
        let woken = tokio::select! {
            biased;
            woken = woken(&mut place, deadline) => if woken { Ok(()) } else { Err(ProxyError::WakeTimeout) },
            () = reset(down) => Err(ProxyError::ClientGone),
        };
        if let Err(error) = woken {
            pass_on(&mut place, &absent.stats);
            return Err(error);
        }
        // A stream takes no place of a request: the wake-up is for the next one too.
        absent.stats.release();
        // Where the replica is gone again, it joins again whatever the bound.
        place = absent.stats.try_wait(u32::MAX).ok_or(ProxyError::QueueFull)?;
    }
}

/// Waits until the client resets its connection. Its orderly end is none: it may wait for the answer.
async fn reset(down: &Stream) {
    match down.socket() {
        // An error says that the socket is no longer watched: then nothing is told any more.
        Some(socket) if socket.ready(Interest::ERROR).await.is_ok() => {}
        _ => pending().await,
    }
}

/// Why nothing was picked.
enum Unpicked {
    Absent(Absent),
    Error(ProxyError),
}

impl Unpicked {
    fn error(self) -> ProxyError {
        match self {
            Self::Absent(_) => ProxyError::WakeTimeout,
            Self::Error(error) => error,
        }
    }
}

/// Loads the current snapshot and picks; returns the time for the connection with it.
fn pick(worker: &Worker, (listener, way): (&ListenerSpec, &Way), tried: &Tried) -> Result<(Picked, u64), Unpicked> {
    let none = Unpicked::Error(ProxyError::NoService);
    let mut reader = worker.reader.borrow_mut();
    let snapshot = reader.load();
    let (service, port) = way.named(listener).map_or((None, 0), |(name, port)| (snapshot.services.get(name), port));
    let service = service.ok_or(none)?;
    let connect_ms = ms(service.spec.timeouts.connect);
    match choose(worker, service, port, tried, Traffic::Stream) {
        Ok(picked) => Ok((picked, connect_ms)),
        Err(Refused::Error(error)) => Err(Unpicked::Error(error)),
        Err(Refused::Absent(..)) => Err(Unpicked::Absent(Absent::of(service))),
        // A stream is outside the limit that saturates.
        Err(Refused::Saturated(_)) => Err(Unpicked::Error(ProxyError::Exhausted)),
    }
}

/// Decides whether another endpoint is tried; takes it from the retry budget.
fn may_retry(worker: &Worker, picked: &Picked, error: ProxyError, attempts: u8) -> bool {
    let mut locals = worker.locals.borrow_mut();
    let Some(local) = locals.at(picked.key.slot) else { return false };
    if error.retry() != Retry::Safe || u32::from(attempts) > local.service.spec.retries {
        return false;
    }
    let allowed = local.budget.allow(worker.timers.now_ms());
    let counter = if allowed { &local.counters.retries } else { &local.counters.retries_refused };
    counter.add(1);
    allowed
}
