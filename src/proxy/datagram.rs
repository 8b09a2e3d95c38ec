//! A UDP listener on one worker: datagrams of a client go to one endpoint, and what that one sends comes back.
//!
//! A flow is a client's address and port, with the address of ours that it sent to. Its endpoint is found by rendezvous, so that
//! other workers, a restart and another Weir find the same one; it has a socket of its own that is connected to it, which
//! tells answers and ICMP errors of flows apart. A flow ends when nothing comes for the idle time, when its endpoint refuses
//! (then the next datagram goes to another), when that one's verdict is bad, and at its drain deadline. Bounded in all and for each
//! client: where there are too many, those whose client sent but one datagram make room, then those that are silent for long.
//! Datagrams move in batches. While a service that Weir runs has no replica, a client's first datagrams wait for one (`held.rs`).

use crate::balance::{Tried, rendezvous};
use crate::clock;
use crate::lifecycle::{Phase, Signal};
use crate::model::{ListenerProtocol, UdpSpec};
use crate::proxy::arriving::arriving;
use crate::proxy::connect::classify;
use crate::proxy::entry::Entry;
use crate::proxy::error::ProxyError;
use crate::proxy::flow::{Asked, Flow, Key, Shared, connected, is_lost, is_too_long, key, number};
use crate::proxy::held::{Held, Waiting, share};
use crate::proxy::memory::Pressure;
use crate::proxy::observe::record_stream;
use crate::proxy::pick::{Picked, Refused, failed, hashed};
use crate::proxy::shortage::for_flows;
use crate::proxy::state::Worker;
use crate::proxy::timer::ms;
use crate::proxy::wait::{Absent, pass_on, woken};
use crate::sys::datagram::{BATCH, Batch, Peer, receive_merged, send_merged};
use foldhash::{HashMap, HashMapExt};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::rc::Rc;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Room for the longest datagram.
const DATAGRAM_BYTES: usize = 1 << 16;
/// Endpoints that are tried for one datagram.
const TRIES: usize = 3;
/// Where there is no room, those make some that are silent for this part of the idle time: a flood from many names sends each but
/// some datagrams at once.
const SILENT_SHARE: u64 = 6;
/// All flows are looked at for that, so not more often.
const LOOK_EVERY_MS: u64 = 500;

/// One UDP listener on one worker.
struct Flows {
    shared: Shared,
    flows: RefCell<HashMap<Key, Rc<Flow>>>,
    held: Held,
    /// Flows and held ones of each client address.
    clients: RefCell<HashMap<IpAddr, u32>>,
    /// Flows in the order in which they began; of those that go on only the first datagram is here.
    young: RefCell<VecDeque<(Key, u64)>>,
    next: Cell<u64>,
    /// The table that the flows were looked at with last.
    generation: Cell<u64>,
    /// When silent flows were looked for last.
    looked_ms: Cell<u64>,
    /// How many share the bound of flows.
    workers: usize,
}

impl Flows {
    fn new(worker: Rc<Worker>, entry: Rc<Entry>, socket: AsyncFd<UdpSocket>) -> Self {
        // Looked for once: it costs several system calls.
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let workers = worker.options.workers.unwrap_or_else(all).max(1);
        Self {
            shared: Shared {
                worker,
                entry,
                socket,
                batch: RefCell::new(Batch::new(DATAGRAM_BYTES, 1)),
                asked: Asked::default(),
            },
            flows: RefCell::new(HashMap::new()),
            held: Held::default(),
            clients: RefCell::new(HashMap::new()),
            young: RefCell::default(),
            next: Cell::new(1),
            generation: Cell::new(0),
            looked_ms: Cell::new(0),
            workers,
        }
    }

    /// Takes what has come and passes it on; returns whether there may be more.
    fn receive(self: &Rc<Self>) -> io::Result<bool> {
        let mut batch = self.shared.batch.borrow_mut();
        let count = batch.receive_some(self.shared.socket.get_ref(), self.shared.asked.most(), true)?;
        self.shared.worker.timers.set_now(clock::now_ms());
        self.follow();
        let spec = self.shared.entry.spec();
        let mut keys = [None; BATCH];
        keys.iter_mut().enumerate().take(count).for_each(|(index, place)| *place = key(&batch, index));
        // Those of each client together, in their order: so they may leave together.
        for at in 0..count {
            let Some(Some(key)) = keys.get(at).copied() else { continue };
            let Some((_, peer)) = batch.received(at) else { continue };
            let (mut datagrams, mut length): ([&[u8]; BATCH], _) = ([&[]; BATCH], 0);
            for (index, other) in keys.iter_mut().enumerate().take(count).skip(at).filter(|(_, k)| **k == Some(key)) {
                *other = None;
                for piece in batch.pieces(index) {
                    if length == BATCH {
                        self.pass(&datagrams, (key, peer), &spec.admission.udp);
                        length = 0;
                    }
                    if let Some(place) = datagrams.get_mut(length) {
                        *place = piece;
                        length += 1;
                    }
                }
            }
            self.pass(datagrams.get(..length).unwrap_or_default(), (key, peer), &spec.admission.udp);
        }
        self.shared.worker.turn_ended();
        Ok(self.shared.asked.took(count))
    }

    /// Sends datagrams of one flow on, at most [`BATCH`].
    fn pass(self: &Rc<Self>, mut rest: &[&[u8]], (key, peer): (Key, &Peer), spec: &UdpSpec) {
        if self.held.len() > 0
            && let Some(waiting) = self.held.get(key)
        {
            // Behind those that wait.
            return self.keep(key, &waiting, rest);
        }
        let mut tried = Tried::default();
        // Each turn sends or drops some of them, or ends a flow.
        while !rest.is_empty() {
            let known = self.find(key).filter(|flow| !self.is_over(flow));
            let opened = known.map_or_else(|| self.open((key, peer), spec, &tried), Ok);
            let flow = match opened {
                Ok(flow) => flow,
                Err(Unopened::Absent(absent)) => return self.hold(rest, (key, peer), spec, absent),
                Err(Unopened::Failed(serial)) if tried.len() + 1 < TRIES => {
                    tried.push(serial);
                    continue;
                }
                Err(Unopened::Failed(_)) => return self.drop_of(key, "endpoints_exhausted", rest.len()),
                Err(Unopened::Refused(reason)) => return self.drop_of(key, reason, rest.len()),
            };
            match send_merged(flow.upstream.get_ref(), rest, None, &flow.merges.0) {
                // What stopped it is told of the first only: the next turn is, or sends on to an endpoint that is to tell again
                // that it is gone.
                Ok(sent) => {
                    let (done, left) = rest.split_at(sent.clamp(1, rest.len()));
                    flow.came(done, spec);
                    rest = left;
                }
                // This machine does not take it: it is lost, as it would be on the way, and the endpoint is well.
                Err(error) if is_lost(&error) => {
                    return self.drop_of(key, "udp_send", rest.len());
                }
                Err(error) if is_too_long(&error) => {
                    // Longer than the way to the endpoint takes: the endpoint is well.
                    self.drop_of(key, "udp_too_long", 1);
                    rest = rest.get(1..).unwrap_or_default();
                }
                Err(error) => {
                    tried.push(flow.picked.key.serial);
                    self.fail(&flow, &error);
                    if tried.len() >= TRIES {
                        return self.drop_of(key, "endpoints_exhausted", rest.len());
                    }
                }
            }
        }
    }

    /// Counts datagrams that a client loses and says so, one line a second.
    fn drop_of(&self, key: Key, reason: &'static str, datagrams: usize) {
        let Shared { worker, entry, .. } = &self.shared;
        (0..datagrams).for_each(|_| worker.shard.refused(reason));
        if datagrams > 0 {
            worker.underway.say_dropped(worker.timers.now_ms(), &entry.name, key.client.ip(), reason);
        }
    }

    /// Has a client wait with its first datagrams until its service has a replica.
    fn hold(self: &Rc<Self>, datagrams: &[&[u8]], (key, peer): (Key, &Peer), spec: &UdpSpec, absent: Absent) {
        if let Err(reason) = self.admit(key, spec) {
            return self.drop_of(key, reason, datagrams.len());
        }
        let Some(place) = absent.stats.try_wait(share(absent.queue)) else {
            return self.drop_of(key, ProxyError::QueueFull.reason(), datagrams.len());
        };
        let worker = &self.shared.worker;
        worker.counted_held(absent.slot);
        let waiting = self.held.enter(key);
        *self.clients.borrow_mut().entry(key.client.ip()).or_default() += 1;
        self.keep(key, &waiting, datagrams);
        let waits = Waits { flows: self.clone(), key, reason: Cell::new("listener_removed") };
        let task = tokio::task::spawn_local(wait(waits, *peer, place, absent));
        waiting.task.replace(Some(task.abort_handle()));
        worker.changed.notify_waiters();
    }

    fn keep(&self, key: Key, waiting: &Waiting, datagrams: &[&[u8]]) {
        self.drop_of(key, "udp_held", self.held.keep(waiting, datagrams));
    }

    /// Lets a held client go; returns its datagrams.
    fn released(&self, key: Key) -> Vec<Box<[u8]>> {
        let Some(datagrams) = self.held.leave(key) else { return Vec::new() };
        self.one_less(key.client.ip());
        datagrams
    }

    /// Returns what to wait with while the service has no replica and may get one.
    fn absent(&self) -> Option<Absent> {
        let ListenerProtocol::Udp { service, .. } = &self.shared.entry.spec().protocol else { return None };
        let mut reader = self.shared.worker.reader.borrow_mut();
        let service = reader.load().services.get(service)?;
        (service.candidates.is_empty() && service.may_wake()).then(|| Absent::of(service))
    }

    fn find(&self, key: Key) -> Option<Rc<Flow>> {
        self.flows.borrow().get(&key).cloned()
    }

    /// The endpoint of a flow refused: it is told of to the passive ejection, and the flow ends.
    fn fail(&self, flow: &Flow, error: &io::Error) {
        let error = classify(error);
        failed(&self.shared.worker, flow.picked.key, error);
        self.end(flow, error.reason());
    }

    /// Returns whether a flow's endpoint was ejected or withdrawn meanwhile; then the flow ends.
    fn is_over(&self, flow: &Flow) -> bool {
        let now_ms = self.shared.worker.timers.now_ms();
        let reason = if flow.place.is_due(now_ms) {
            flow.cut();
            "drain_deadline"
        } else if flow.picked.permit.stats().is_some_and(|stats| stats.is_ejected(now_ms))
            && !self.fails_open(flow, now_ms)
        {
            "connect_failed"
        } else {
            return false;
        };
        self.end(flow, reason);
        true
    }

    /// Returns whether none of the endpoints of a flow's service is usable, so that all are: then nothing is won by moving.
    fn fails_open(&self, flow: &Flow, now_ms: u64) -> bool {
        let mut reader = self.shared.worker.reader.borrow_mut();
        let service = reader.load().services.at(flow.picked.key.slot);
        service.is_some_and(|service| service.fails_open(now_ms))
    }

    /// Looks at the flows again where the table has changed: the verdict on an endpoint moves its flows.
    fn follow(&self) {
        let mut reader = self.shared.worker.reader.borrow_mut();
        let snapshot = reader.load();
        if self.generation.replace(snapshot.generation) == snapshot.generation {
            return;
        }
        let mut bad = HashMap::<u64, ()>::new();
        let ListenerProtocol::Udp { service, .. } = &self.shared.entry.spec().protocol else { return };
        if let Some(service) = snapshot.services.get(service) {
            let now_ms = self.shared.worker.timers.now_ms();
            if !service.fails_open(now_ms) {
                bad.extend(service.candidates.iter().filter(|c| !c.healthy).map(|c| (c.stats.serial(), ())));
            }
        }
        let over: Vec<Rc<Flow>> =
            self.flows.borrow().values().filter(|flow| bad.contains_key(&flow.picked.key.serial)).cloned().collect();
        for flow in over {
            self.end(&flow, "unhealthy");
        }
    }

    /// Returns whether there is room for one more flow of a client.
    fn admit(&self, key: Key, spec: &UdpSpec) -> Result<(), &'static str> {
        let open = self.clients.borrow().get(&key.client.ip()).copied().unwrap_or(0);
        if open >= spec.flows_per_client {
            return Err("udp_flows_per_client");
        }
        let worker = &self.shared.worker;
        let is_full = self.flows.borrow().len() + self.held.len() >= (spec.flows as usize).div_ceil(self.workers);
        if (is_full || worker.flows.get() >= for_flows(self.workers)) && !self.make_room(spec) {
            return Err("udp_flows");
        }
        if self.shared.worker.memory.pressure(clock::now_ms) >= Pressure::Shed {
            return Err("memory");
        }
        Ok(())
    }

    /// Begins a flow for a client.
    fn open(self: &Rc<Self>, (key, peer): (Key, &Peer), spec: &UdpSpec, tried: &Tried) -> Result<Rc<Flow>, Unopened> {
        self.admit(key, spec).map_err(Unopened::Refused)?;
        let picked = self.pick(key, tried)?;
        let upstream = connected(picked.address).map_err(|error| {
            let error = classify(&error);
            failed(&self.shared.worker, picked.key, error);
            match error {
                ProxyError::LocalLimit => Unopened::Refused(error.reason()),
                _ => Unopened::Failed(picked.key.serial),
            }
        })?;
        let id = self.next.replace(self.next.get() + 1);
        let flow = Rc::new(Flow::new(&self.shared.worker, (key, id), *peer, upstream, picked));
        self.flows.borrow_mut().insert(key, flow.clone());
        self.shared.worker.flows.set(self.shared.worker.flows.get() + 1);
        *self.clients.borrow_mut().entry(key.client.ip()).or_default() += 1;
        self.young.borrow_mut().push_back((key, id));
        let carried = Carried { flows: self.clone(), flow: flow.clone() };
        let task = tokio::task::spawn_local(carry(carried));
        flow.task.replace(Some(task.abort_handle()));
        // The sweep sleeps while nothing is open.
        self.shared.worker.changed.notify_waiters();
        Ok(flow)
    }

    /// Ends the oldest flow whose client sent but one datagram, or else all that are silent for long; false: there is none.
    fn make_room(&self, spec: &UdpSpec) -> bool {
        loop {
            let Some((key, id)) = self.young.borrow_mut().pop_front() else { return self.end_silent(spec) };
            let flow = self.flows.borrow().get(&key).filter(|flow| flow.id == id && !flow.goes_on()).cloned();
            if let Some(flow) = flow {
                self.drop_of(key, "udp_flows", 1);
                self.end(&flow, "udp_flows");
                return true;
            }
        }
    }

    fn end_silent(&self, spec: &UdpSpec) -> bool {
        let now_ms = self.shared.worker.timers.now_ms();
        if now_ms < self.looked_ms.get() + LOOK_EVERY_MS {
            return false;
        }
        self.looked_ms.set(now_ms);
        let least_ms = ms(spec.idle) / SILENT_SHARE;
        let silent = |flow: &&Rc<Flow>| flow.silent_ms() >= least_ms;
        let over: Vec<Rc<Flow>> = self.flows.borrow().values().filter(silent).cloned().collect();
        for flow in &over {
            self.drop_of(flow.key, "udp_flows", 1);
            self.end(flow, "udp_flows");
        }
        !over.is_empty()
    }

    fn pick(&self, key: Key, tried: &Tried) -> Result<Picked, Unopened> {
        let none = Unopened::Refused(ProxyError::NoService.reason());
        let ListenerProtocol::Udp { service, port } = &self.shared.entry.spec().protocol else { return Err(none) };
        let mut reader = self.shared.worker.reader.borrow_mut();
        let service = reader.load().services.get(service).ok_or(none)?;
        let identity =
            |index: usize| service.endpoints.get(index).and_then(|endpoint| endpoint.socket(*port)).map_or(0, number);
        let now_ms = self.shared.worker.timers.now_ms();
        let index = rendezvous(&service.candidates, identity, number(key.client), tried, now_ms);
        hashed(&self.shared.worker, service, *port, index).map_err(|refused| match refused {
            Refused::Absent(..) => Unopened::Absent(Absent::of(service)),
            Refused::Error(error) => Unopened::Refused(error.reason()),
            Refused::Saturated(_) => Unopened::Refused(ProxyError::Exhausted.reason()),
        })
    }

    /// Ends a flow at once; its client's next datagram begins another.
    fn end(&self, flow: &Flow, reason: &'static str) {
        flow.reason.set(reason);
        self.forget(flow);
        if let Some(task) = flow.task.take() {
            task.abort();
        }
    }

    /// Takes a flow out, if it is there still.
    fn forget(&self, flow: &Flow) {
        let mut flows = self.flows.borrow_mut();
        if flows.get(&flow.key).is_none_or(|known| known.id != flow.id) {
            return;
        }
        flows.remove(&flow.key);
        self.shared.worker.flows.set(self.shared.worker.flows.get() - 1);
        self.one_less(flow.key.client.ip());
        let mut young = self.young.borrow_mut();
        // What is left of flows that ended otherwise.
        if young.len() > 64 && young.len() > 2 * flows.len() {
            young.retain(|(key, id)| flows.get(key).is_some_and(|flow| flow.id == *id && !flow.goes_on()));
        }
    }

    /// Counts one less of a client address.
    fn one_less(&self, ip: IpAddr) {
        let mut clients = self.clients.borrow_mut();
        if let Some(open) = clients.get_mut(&ip) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&ip);
            }
        }
    }

    /// Ends all flows.
    fn clear(&self) {
        self.held.clear();
        let all: Vec<Rc<Flow>> = self.flows.borrow().values().cloned().collect();
        all.iter().for_each(|flow| self.end(flow, "listener_removed"));
    }
}

/// Why there is no flow.
enum Unopened {
    /// The service has no replica yet.
    Absent(Absent),
    /// There is no way to the endpoint with this serial.
    Failed(u64),
    Refused(&'static str),
}

/// Lets a held client go however its task ends.
struct Waits {
    flows: Rc<Flows>,
    key: Key,
    /// Why its datagrams are dropped, if they are still there then.
    reason: Cell<&'static str>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let left = self.flows.released(self.key).len();
        self.flows.drop_of(self.key, self.reason.get(), left);
    }
}

/// Waits for a replica of a service that has none, and passes on what a client has sent meanwhile.
async fn wait(waits: Waits, peer: Peer, mut place: oneshot::Receiver<()>, absent: Absent) {
    let Waits { flows, key, reason } = &waits;
    let worker = &flows.shared.worker;
    let deadline = worker.timers.register();
    deadline.set(absent.wait_ms);
    while let Some(again) = flows.absent() {
        // It counts as waiting by now, so whoever hears it knows what for.
        again.wake.ring();
        if !woken(&mut place, &deadline).await {
            pass_on(&mut place, &absent.stats);
            return reason.set(ProxyError::WakeTimeout.reason());
        }
        // A flow takes no place of a request: the wake-up is for the next one too.
        absent.stats.release();
        // Where the replica is gone again, it joins again whatever the bound.
        let Some(again) = absent.stats.try_wait(u32::MAX) else { return };
        place = again;
    }
    pass_on(&mut place, &absent.stats);
    let datagrams = flows.released(*key);
    let datagrams: Vec<&[u8]> = datagrams.iter().map(|datagram| &**datagram).collect();
    flows.pass(&datagrams, (*key, &peer), &flows.shared.entry.spec().admission.udp);
}

/// Ends a flow however its task ends.
struct Carried {
    flows: Rc<Flows>,
    flow: Rc<Flow>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        let Self { flows, flow } = self;
        flows.forget(flow);
        let Shared { worker, entry, .. } = &flows.shared;
        let (spec, summary) = (entry.spec(), flow.ended());
        let ListenerProtocol::Udp { service, .. } = &spec.protocol else { return };
        record_stream(worker, (&spec, service.as_str()), flow.key.client.ip(), &summary);
    }
}

/// Carries the answers of a flow until it ends.
async fn carry(carried: Carried) {
    let Carried { flows, flow } = &carried;
    match poll_fn(|cx| flow.poll(&flows.shared, cx)).await {
        Ok(reason) => flow.reason.set(reason),
        Err(error) => flows.fail(flow, &error),
    }
}

/// Takes datagrams until the drain begins or the listener is removed; then answers have a moment to come.
pub(crate) async fn serve(worker: Rc<Worker>, socket: AsyncFd<UdpSocket>, entry: Rc<Entry>, mut signal: Signal) {
    // What clients send together comes together; where the kernel cannot, one by one. Said anew of a socket that another
    // process had before.
    let _ = receive_merged(socket.get_ref());
    let flows = Rc::new(Flows::new(worker.clone(), entry.clone(), socket));
    tokio::select! {
        biased;
        () = signal.reached(Phase::Draining) => {}
        () = entry.removed() => {}
        () = arriving(&flows.shared.socket, &entry.name, || flows.receive()) => {}
    }
    tokio::time::sleep(worker.options.timeouts.drain_idle).await;
    flows.clear();
}
