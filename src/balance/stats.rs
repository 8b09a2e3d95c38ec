//! Counters that outlive snapshots: what workers write about an endpoint and everybody reads.

use crate::balance::others::Others;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What is known of all endpoints of a service together, so that who uses them all need not look at each: one line of the
/// cache instead of one for each endpoint.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Marks {
    /// The latest end of an ejection among them.
    ejected_until_ms: AtomicU64,
    /// Until when a DNS answer that named any of them may be cached.
    named_until_ms: AtomicU64,
}

impl Marks {
    /// Returns whether any of the endpoints may be ejected; true also for one that is gone.
    pub fn any_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Notes that a DNS answer which names endpoints of the service may be cached until `until_ms`; called before it is sent. A
    /// read suffices when another answer did in this millisecond.
    pub fn name_until(&self, until_ms: u64) {
        if self.named_until_ms.load(Ordering::Acquire) < until_ms {
            self.named_until_ms.fetch_max(until_ms, Ordering::AcqRel);
        }
    }

    /// Returns until when DNS answers that named endpoints of the service may be cached; 0: there was none.
    pub fn named_until_ms(&self) -> u64 {
        self.named_until_ms.load(Ordering::Acquire)
    }
}

/// Shared counters of one endpoint; the same value in each snapshot that holds the endpoint.
///
/// The in-flight count is the only line that workers contend for on the request path.
#[derive(Debug)]
#[repr(align(64))]
pub struct EndpointStats {
    in_flight: AtomicU32,
    /// How many of those in flight are tunnels, which no limit on requests counts.
    tunnels: AtomicU32,
    /// Failures in a row by kind; see `outlier`.
    pub(crate) gateway_errors: AtomicU32,
    pub(crate) server_errors: AtomicU32,
    pub(crate) ejections: AtomicU32,
    ejected_until_ms: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Last latency average that a worker exported, in microseconds; for people, not for picking.
    latency_us: AtomicU32,
    /// Last expected delay that a worker exported, in microseconds; for people.
    delay_us: AtomicU32,
    /// Other Weirs that still use the endpoint although it is withdrawn.
    elsewhere: AtomicU32,
    serial: u64,
    marks: Arc<Marks>,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl EndpointStats {
    /// Returns zeroed counters with a serial number that is unique in the process, for an endpoint that stands alone.
    pub fn new() -> Self {
        Self::of(Arc::default())
    }

    /// Returns zeroed counters with a serial number that is unique in the process, for an endpoint of a service.
    pub fn of(marks: Arc<Marks>) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            gateway_errors: AtomicU32::new(0),
            server_errors: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until_ms: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency_us: AtomicU32::new(0),
            delay_us: AtomicU32::new(0),
            elsewhere: AtomicU32::new(0),
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            marks,
        }
    }

    /// Ejects it until then.
    pub(crate) fn eject_until(&self, until_ms: u64) {
        self.ejected_until_ms.store(until_ms, Ordering::Relaxed);
        self.marks.ejected_until_ms.fetch_max(until_ms, Ordering::Relaxed);
    }

    /// Returns the number that identifies the endpoint across snapshots.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Counts one request as in flight until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::Relaxed);
        InFlight { stats: self.clone(), tunnel: false }
    }

    /// As [`EndpointStats::begin`], unless `limit` requests are in flight already; tunnels do not count.
    pub fn try_begin(self: &Arc<Self>, limit: u32) -> Option<InFlight> {
        let limit = limit.saturating_add(self.tunnels.load(Ordering::Acquire));
        self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1)).ok()?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Some(InFlight { stats: self.clone(), tunnel: false })
    }

    /// Returns the requests in flight, tunnels included.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Returns the requests in flight without tunnels: what a limit counts.
    pub fn active(&self) -> u32 {
        self.in_flight().saturating_sub(self.tunnels.load(Ordering::Acquire))
    }

    /// Returns the requests that were ever begun.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns the failures that were ever observed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Ends the runs of errors after a success; reads before it writes, so that successes do not dirty the line.
    pub fn succeeded(&self) {
        for run in [&self.gateway_errors, &self.server_errors] {
            if run.load(Ordering::Relaxed) != 0 {
                run.store(0, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns true while passive ejection holds.
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        self.ejected_until_ms.load(Ordering::Relaxed) > now_ms
    }

    /// Returns how long passive ejection still holds, in milliseconds; 0: it does not.
    pub fn ejected_for_ms(&self, now_ms: u64) -> u64 {
        self.ejected_until_ms.load(Ordering::Relaxed).saturating_sub(now_ms)
    }

    /// Exports a worker's latency average for people, in microseconds.
    pub fn set_latency_us(&self, latency_us: u32) {
        self.latency_us.store(latency_us, Ordering::Relaxed);
    }

    /// Returns the last exported latency average in microseconds; 0 before the first.
    pub fn latency_us(&self) -> u32 {
        self.latency_us.load(Ordering::Relaxed)
    }

    /// Exports the expected delay by which a worker last compared the endpoint, in microseconds.
    pub fn set_delay_us(&self, delay_us: u32) {
        self.delay_us.store(delay_us, Ordering::Relaxed);
    }

    /// Returns the last exported expected delay in microseconds; 0 before the first.
    pub fn delay_us(&self) -> u32 {
        self.delay_us.load(Ordering::Relaxed)
    }

    /// Notes that another Weir still uses the withdrawn endpoint, until the guard is dropped. No limit counts it.
    pub fn use_elsewhere(self: &Arc<Self>) -> Elsewhere {
        self.elsewhere.fetch_add(1, Ordering::AcqRel);
        Elsewhere(self.clone())
    }

    /// Returns how many other Weirs still use the withdrawn endpoint.
    pub fn elsewhere(&self) -> u32 {
        self.elsewhere.load(Ordering::Acquire)
    }

    /// Returns what is known of all endpoints of its service together.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Returns when its ejection ends or ended, in milliseconds; 0: it was never ejected.
    pub(crate) fn ejected_until_ms(&self) -> u64 {
        self.ejected_until_ms.load(Ordering::Relaxed)
    }
}

impl Default for EndpointStats {
    fn default() -> Self {
        Self::new()
    }
}

/// Another Weir that still uses a withdrawn endpoint; counted until dropped.
#[derive(Debug)]
pub struct Elsewhere(Arc<EndpointStats>);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.elsewhere.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One request in flight at an endpoint; counted until dropped.
#[derive(Debug)]
pub struct InFlight {
    stats: Arc<EndpointStats>,
    tunnel: bool,
}

impl InFlight {
    /// Returns the endpoint's counters.
    pub fn stats(&self) -> &Arc<EndpointStats> {
        &self.stats
    }
}

impl InFlight {
    /// Says that the request has become a tunnel: it stays in flight and no longer counts against a limit.
    pub fn becomes_tunnel(&mut self) {
        if !self.tunnel {
            self.tunnel = true;
            self.stats.tunnels.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.stats.in_flight.fetch_sub(1, Ordering::AcqRel);
        // Afterwards: between the two a limit may let one more pass, but never refuses a place that is free.
        if self.tunnel {
            self.stats.tunnels.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Shared counters of one service: its bounded wait queue.
///
/// The lock is taken only while a service is saturated; it guards a deque and is never held across an await.
#[derive(Debug, Default)]
pub struct ServiceStats {
    marks: Arc<Marks>,
    /// Streams and flows that are counted, where they are bounded.
    streams: AtomicU32,
    waiting: AtomicU32,
    queue: Mutex<VecDeque<oneshot::Sender<()>>>,
    others: Arc<Others>,
}

/// A stream or flow that counts against the bound of its service until dropped.
#[derive(Debug)]
pub struct StreamPlace(Arc<ServiceStats>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ServiceStats {
    /// Returns what is known of all endpoints together.
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Returns what other Weirs carry for the service.
    pub fn others(&self) -> &Arc<Others> {
        &self.others
    }

    /// Counts a stream or flow; `None`: there are as many as may be.
    pub fn try_stream(self: &Arc<Self>, limit: u32) -> Option<StreamPlace> {
        let more = |open: u32| (open < limit).then_some(open + 1);
        self.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(StreamPlace(self.clone()))
    }

    /// Returns the requests that wait for a free replica.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Acquire)
    }

    /// Returns how many of them are still there: those that left count until somebody looks.
    pub fn still_waiting(&self) -> u32 {
        if self.waiting() > 0 {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.retain(|waiter| !waiter.is_closed());
            self.waiting.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Ordering::Release);
        }
        self.waiting()
    }

    /// Joins the wait queue; `None` when `limit` requests wait already. The receiver ends when a replica may be free.
    pub fn try_wait(&self, limit: u32) -> Option<oneshot::Receiver<()>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiter| !waiter.is_closed());
        if queue.len() >= limit as usize {
            self.waiting.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Ordering::Release);
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        queue.push_back(sender);
        self.waiting.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Ordering::Release);
        Some(receiver)
    }

    /// Wakes the request that has waited longest, if any waits. Called after an in-flight guard was dropped.
    pub fn release(&self) {
        if self.waiting() > 0 {
            self.wake(1);
        }
    }

    /// Wakes up to `count` waiting requests: a replica became ready, or the limit rose.
    pub fn wake(&self, count: usize) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut woken = 0;
        while woken < count {
            let Some(waiter) = queue.pop_front() else { break };
            woken += usize::from(waiter.send(()).is_ok());
        }
        self.waiting.store(u32::try_from(queue.len()).unwrap_or(u32::MAX), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{EndpointStats, ServiceStats};
    use std::sync::Arc;

    #[test]
    fn in_flight_counts_until_the_guard_is_dropped_and_respects_the_limit() {
        let stats = Arc::new(EndpointStats::new());
        let a = stats.begin();
        let b = stats.try_begin(2).unwrap();
        assert!(stats.try_begin(2).is_none());
        assert_eq!((stats.in_flight(), stats.requests()), (2, 2));
        drop(a);
        assert!(stats.try_begin(2).is_some());
        drop(b);
        assert_eq!(stats.in_flight(), 0);
    }

    #[test]
    fn a_tunnel_is_in_flight_but_not_within_the_limit() {
        let stats = Arc::new(EndpointStats::new());
        let mut tunnel = stats.try_begin(1).unwrap();
        assert!(stats.try_begin(1).is_none());
        tunnel.becomes_tunnel();
        tunnel.becomes_tunnel();
        assert_eq!((stats.in_flight(), stats.active()), (1, 0));
        let request = stats.try_begin(1).unwrap();
        assert!(stats.try_begin(1).is_none());
        drop(tunnel);
        assert_eq!((stats.in_flight(), stats.active()), (1, 1));
        assert!(stats.try_begin(1).is_none());
        drop(request);
        assert!(stats.try_begin(1).is_some());
    }

    #[test]
    fn the_wait_queue_is_bounded_and_wakes_the_oldest_that_still_waits() {
        let stats = ServiceStats::default();
        let first = stats.try_wait(2).unwrap();
        let mut second = stats.try_wait(2).unwrap();
        assert!(stats.try_wait(2).is_none());
        drop(first);
        assert_eq!((stats.waiting(), stats.still_waiting()), (2, 1), "the first has left");
        stats.release();
        assert!(second.try_recv().is_ok());
        assert_eq!(stats.waiting(), 0);
    }
}
