//! One worker: a thread, a current-thread runtime, and the loops that sweep and refresh.
//!
//! Workers share nothing on the request path but the endpoints' in-flight counts. A publish wakes an idle worker so
//! that it acknowledges. [`Workers`] changes how many there are and what each accepts from while they run: a worker that
//! goes gives its sockets back first, then its connections end with their next response.

use crate::clock;
use crate::lifecycle::{Phase, Signal};
use crate::model::ListenerSpec;
use crate::proxy::accept::{Holdings, Lent};
use crate::proxy::options::Options;
use crate::proxy::state::{Shared, Worker};
use crate::proxy::tls::Tls;
use crate::sys;
use crate::table::Table;
use crate::table::certificates::Challenges;
use crate::telemetry::{AccessLog, Metrics};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Time between two sweeps of the deadlines: their granularity.
const SWEEP: Duration = Duration::from_millis(100);
/// Pooled connections that are closed in one turn.
const CLOSES: usize = 8;
/// Orders that wait for a worker; each is answered before the next is sent.
const ORDERS: usize = 2;

/// What a running worker is told.
#[derive(Debug)]
enum Order {
    /// Hold exactly these sockets. Answered when what belongs to removed listeners is closed.
    Hold { sockets: Vec<Lent>, listeners: Arc<[Arc<ListenerSpec>]>, done: oneshot::Sender<()> },
    /// Give every socket back, end with the last connection. Answered when no socket is held.
    Retire { listeners: Arc<[Arc<ListenerSpec>]>, done: oneshot::Sender<()> },
}

/// One running worker.
#[derive(Debug)]
struct Running {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

/// The running workers.
#[derive(Debug)]
pub struct Workers {
    shared: Shared,
    running: Vec<Running>,
    /// Those whose connections are ending.
    retired: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Returns how many workers accept connections.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Lends sockets anew, one set for each worker: as many workers as sets run from now on. `listeners` are all that
    /// exist; the connections of others end with their next response.
    ///
    /// No socket is closed while its listener stays, as long as the caller keeps a duplicate of each. `release` is called
    /// when nothing can fail any more and before sockets of removed listeners are closed: the caller lets go of its own,
    /// so that whoever empties the queue holds the socket last. Returns when each worker holds its set and the queues of
    /// removed listeners are empty and closed.
    ///
    /// # Errors
    /// When a thread cannot be made: then nothing has changed.
    pub async fn lend(
        &mut self,
        mut sets: Vec<Vec<Lent>>,
        listeners: Arc<[Arc<ListenerSpec>]>,
        release: impl AsyncFnOnce(),
    ) -> io::Result<()> {
        self.retired.retain(|thread| !thread.is_finished());
        let fresh = sets.split_off(sets.len().min(self.running.len()));
        let mut started = Vec::with_capacity(fresh.len());
        for (index, set) in (self.running.len()..).zip(fresh) {
            match spawn(index, set, &self.shared) {
                Ok(worker) => started.push(worker),
                Err(error) => {
                    self.retire(started, &listeners).await;
                    return Err(error);
                }
            }
        }
        release().await;
        let leaving = self.running.split_off(sets.len().min(self.running.len()));
        let mut answers = Vec::with_capacity(self.running.len() + leaving.len());
        for (worker, sockets) in self.running.iter().zip(sets) {
            let (done, answer) = oneshot::channel();
            let order = Order::Hold { sockets, listeners: listeners.clone(), done };
            answers.push((worker.orders.send(order).await.is_ok(), answer));
        }
        // Those who stay hold everything before those who leave let go of it.
        wait(answers).await;
        self.retire(leaving, &listeners).await;
        self.running.extend(started);
        Ok(())
    }

    /// Has workers give their sockets back and end with their last connections.
    async fn retire(&mut self, leaving: Vec<Running>, listeners: &Arc<[Arc<ListenerSpec>]>) {
        let mut answers = Vec::with_capacity(leaving.len());
        for worker in leaving {
            let (done, answer) = oneshot::channel();
            let order = Order::Retire { listeners: listeners.clone(), done };
            answers.push((worker.orders.send(order).await.is_ok(), answer));
            self.retired.push(worker.thread);
        }
        wait(answers).await;
    }

    /// Waits until every worker has ended; they end when drained, or at once when stopping. Blocks.
    pub fn join(self) {
        for thread in self.running.into_iter().map(|worker| worker.thread).chain(self.retired) {
            if thread.join().is_err() {
                tracing::error!("a worker ended with a panic");
            }
        }
    }
}

/// Waits for the answers to orders; a worker that has ended answers none.
async fn wait(answers: Vec<(bool, oneshot::Receiver<()>)>) {
    for (sent, answer) in answers {
        if !sent || answer.await.is_err() {
            tracing::warn!("a worker has ended and takes no orders");
        }
    }
}

/// What workers serve from and report to.
#[derive(Debug)]
pub struct Parts {
    /// Where they read the table.
    pub table: Table,
    /// Where they count.
    pub metrics: Metrics,
    /// Where they write access lines, if anywhere.
    pub access: Option<AccessLog>,
    /// How listeners speak TLS.
    pub tls: Tls,
    /// What is answered to authorities that look whether a name leads here.
    pub challenges: Challenges,
}

/// Starts one worker for each set of sockets.
///
/// # Errors
/// When a thread cannot be made.
pub fn start(options: &Options, sockets: Vec<Vec<Lent>>, parts: Parts, signal: &Signal) -> io::Result<Workers> {
    let Parts { table, metrics, access, tls, challenges } = parts;
    let shared = Shared {
        options: options.clone(),
        table,
        metrics,
        access,
        tls,
        challenges,
        signal: signal.clone(),
        spread: Arc::default(),
        admissions: Default::default(),
        outgoing: Default::default(),
    };
    let mut running = Vec::with_capacity(sockets.len());
    for (index, lent) in sockets.into_iter().enumerate() {
        running.push(spawn(index, lent, &shared)?);
    }
    Ok(Workers { shared, running, retired: Vec::new() })
}

fn spawn(index: usize, lent: Vec<Lent>, shared: &Shared) -> io::Result<Running> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let pin = shared.options.pin.unwrap_or(cpus >= 4);
    let (orders, inbox) = mpsc::channel(ORDERS);
    let shared = shared.clone();
    let body = move || {
        if pin && let Err(error) = sys::thread::pin(index % cpus) {
            tracing::warn!(%error, worker = index, "failed to pin the worker to a CPU");
        }
        if let Err(error) = run(index, lent, inbox, &shared) {
            tracing::error!(%error, worker = index, "failed to run the worker");
        }
    };
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
    Ok(Running { orders, thread })
}

fn run(index: usize, lent: Vec<Lent>, mut inbox: mpsc::Receiver<Order>, shared: &Shared) -> io::Result<()> {
    let shard = shared.metrics.shard();
    let (awake, asleep) = (shard.clone(), shard.clone());
    shard.turns.woken(clock::now_ns());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(move || asleep.turns.rests(clock::now_ns()))
        .on_thread_unpark(move || awake.turns.woken(clock::now_ns()))
        .build_local(Default::default())?;
    let worker = Rc::new(Worker::new(index, shared, shard));
    runtime.block_on(async {
        let mut holdings = Holdings::new(worker.clone(), shared.signal.clone());
        let listeners: Vec<_> = lent.iter().map(|lent| lent.listener.clone()).collect();
        holdings.hold(lent, &listeners).await;
        let sweeping = tokio::task::spawn_local(sweep_loop(worker.clone()));
        let refreshing = tokio::task::spawn_local(refresh_loop(worker.clone()));
        let mut signal = shared.signal.clone();
        let retired = obey(&mut holdings, &mut inbox, &mut signal).await;
        worker.drain();
        tokio::select! {
            () = async {
                holdings.finished().await;
                worker.idle().await;
            } => {}
            () = signal.reached(Phase::Stopping) => {}
            () = tokio::time::sleep(shared.options.timeouts.drain), if retired => {
                tracing::warn!(worker = index, open = worker.open.get(), "closing what did not end in time");
            }
        }
        shared.metrics.cuts().add(worker.shard.under_way());
        sweeping.abort();
        refreshing.abort();
        io::Result::Ok(())
    })
}

/// Does as it is told until the drain; returns true when it was told to retire.
async fn obey(holdings: &mut Holdings, inbox: &mut mpsc::Receiver<Order>, signal: &mut Signal) -> bool {
    loop {
        let order = tokio::select! {
            biased;
            () = signal.reached(Phase::Draining) => return false,
            order = inbox.recv() => order,
        };
        // Whoever waits for the answer may have gone.
        match order {
            Some(Order::Hold { sockets, listeners, done }) => {
                holdings.hold(sockets, &listeners).await;
                let _ = done.send(());
            }
            Some(Order::Retire { listeners, done }) => {
                holdings.hold(Vec::new(), &listeners).await;
                let _ = done.send(());
                return true;
            }
            // Nobody gives orders any more: what is held stays until the drain.
            None => {
                signal.reached(Phase::Draining).await;
                return false;
            }
        }
    }
}

/// Moves the coarse clock and wakes expired tasks; sleeps without a timer while nothing is open.
async fn sweep_loop(worker: Rc<Worker>) {
    let mut turns = 0u32;
    loop {
        worker.shard.partial_head_bytes.set(worker.heads.bytes() as u64);
        if worker.timers.is_empty() && worker.pool.borrow().is_empty() {
            worker.changed.notified().await;
        }
        tokio::time::sleep(SWEEP).await;
        let now_ms = clock::now_ms();
        worker.timers.set_now(now_ms);
        worker.timers.sweep();
        if worker.streams.sweep(now_ms) {
            worker.timers.wake_all();
        }
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(5) {
            worker.pool.borrow_mut().sweep(now_ms);
            worker.locals.borrow().export(now_ms);
        }
        worker.turn_ended();
    }
}

/// Follows publishes while the worker is idle: acknowledges, closes pooled connections to endpoints that are gone, and
/// lets waiting requests try again.
async fn refresh_loop(worker: Rc<Worker>) {
    let acknowledger = worker.reader.borrow().acknowledger().clone();
    loop {
        acknowledger.woken().await;
        let snapshot = worker.reader.borrow_mut().load().clone();
        let mut gone = worker.pool.borrow_mut().take_gone(|key| {
            let service = snapshot.services.at(key.slot);
            service.is_some_and(|s| s.candidates.iter().any(|c| c.stats.serial() == key.serial))
        });
        worker.timers.set_now(clock::now_ms());
        worker.streams.follow(&snapshot, worker.timers.now_ms());
        if worker.apart.follow(&snapshot, worker.timers.now_ms()) {
            worker.timers.wake_all();
        }
        worker.locals.borrow_mut().retain(|local| {
            let now = snapshot.services.at(local.service.slot);
            let stays = now.is_some_and(|s| Arc::ptr_eq(&s.stats, &local.service.stats));
            // Also when the service is gone: they must hear of it.
            if local.service.stats.waiting() > 0 {
                local.service.stats.wake(usize::MAX);
            }
            stays
        });
        worker.turn_ended();
        // A close takes as long as half a request: others are served between some and some.
        while !gone.is_empty() {
            gone.truncate(gone.len().saturating_sub(CLOSES));
            worker.turn_ended();
            tokio::task::yield_now().await;
        }
    }
}
