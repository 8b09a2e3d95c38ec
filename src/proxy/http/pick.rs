//! Picking an endpoint: load the current snapshot, choose, and take the in-flight guard in one step, with no await between.
//!
//! Only so does "acknowledged and nothing in flight" mean that nobody will use a withdrawn endpoint (details 1).

use crate::balance::{InFlight, ServiceStats, Tried};
use crate::proxy::error::ProxyError;
use crate::proxy::http::request::{Request, identity};
use crate::proxy::pool::Key;
use crate::proxy::state::Worker;
use crate::proxy::timer::Deadline;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;

/// A picked endpoint, counted as in flight.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) address: SocketAddr,
    pub(crate) key: Key,
    pub(crate) permit: Permit,
    /// Whether another endpoint would be left for a retry.
    pub(crate) others: bool,
}

/// The in-flight guard; wakes a waiting request when it is dropped, where a service bounds its concurrency.
#[derive(Debug)]
pub(crate) struct Permit {
    in_flight: Option<InFlight>,
    queue: Option<Arc<ServiceStats>>,
}

impl Permit {
    /// Returns whether the service bounds what an endpoint is given at once.
    pub(crate) fn is_bounded(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns the endpoint's counters.
    pub(crate) fn stats(&self) -> Option<&Arc<crate::balance::EndpointStats>> {
        self.in_flight.as_ref().map(InFlight::stats)
    }
}

impl Permit {
    /// Frees the place of the request, which has become a tunnel; the tunnel counts as in flight all the same.
    pub(crate) fn becomes_tunnel(&mut self) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.becomes_tunnel();
        }
        if let Some(queue) = self.queue.take() {
            queue.release();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // First the count, then the wake-up: whoever wakes must find the place free.
        self.in_flight = None;
        if let Some(queue) = &self.queue {
            queue.release();
        }
    }
}

/// Picks an endpoint, waiting in the service's bounded queue while every replica is at its limit.
///
/// # Errors
/// The [`ProxyError`] that says why there is none.
pub(crate) async fn pick(
    worker: &Worker,
    request: &Request,
    tried: &Tried,
    deadline: &Deadline,
) -> Result<Picked, ProxyError> {
    let saturated = match try_pick(worker, request, tried) {
        Err(Refused::Saturated(stats)) => stats,
        Err(Refused::Error(error)) => return Err(error),
        Ok(picked) => return Ok(picked),
    };
    wait(worker, request, tried, deadline, saturated).await
}

/// Waits for a free replica; the oldest waiter is woken first.
async fn wait(
    worker: &Worker,
    request: &Request,
    tried: &Tried,
    deadline: &Deadline,
    stats: Arc<ServiceStats>,
) -> Result<Picked, ProxyError> {
    let until_ms = worker.timers.now_ms() + request.policy.queue_timeout_ms;
    let mut place = stats.try_wait(request.policy.queue).ok_or(ProxyError::QueueFull)?;
    worker.counted_queued(request.target.slot);
    loop {
        // A replica may have become free before the place in the queue was taken.
        match try_pick(worker, request, tried) {
            Err(Refused::Saturated(_)) => {}
            result => {
                pass_on(&mut place, &stats);
                return result.map_err(Refused::error);
            }
        }
        deadline.set_at(until_ms);
        let woken = poll_fn(|cx| match std::pin::Pin::new(&mut place).poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await;
        if !woken {
            pass_on(&mut place, &stats);
            return Err(ProxyError::QueueTimeout);
        }
        match try_pick(worker, request, tried) {
            Err(Refused::Saturated(_)) => {}
            result => return result.map_err(Refused::error),
        }
        // Another took the replica, which is no reason to refuse who waited: it joins again whatever the bound.
        place = stats.try_wait(u32::MAX).ok_or(ProxyError::QueueFull)?;
    }
}

/// Gives a wake-up that came too late to the next in the queue.
fn pass_on(place: &mut oneshot::Receiver<()>, stats: &ServiceStats) {
    place.close();
    if place.try_recv().is_ok() {
        stats.release();
    }
}

enum Refused {
    Saturated(Arc<ServiceStats>),
    Error(ProxyError),
}

impl Refused {
    fn error(self) -> ProxyError {
        match self {
            Self::Saturated(_) => ProxyError::QueueTimeout,
            Self::Error(error) => error,
        }
    }
}

fn try_pick(worker: &Worker, request: &Request, tried: &Tried) -> Result<Picked, Refused> {
    let mut reader = worker.reader.borrow_mut();
    let snapshot = reader.load();
    let target = request.target;
    let service = snapshot
        .services
        .at(target.slot)
        .filter(|service| identity(service) == target.identity)
        .ok_or(Refused::Error(ProxyError::NoService))?;
    let mut locals = worker.locals.borrow_mut();
    let mut rng = worker.rng.borrow_mut();
    let now_ms = worker.timers.now_ms();
    let local = locals.enter(service, &worker.shard, &mut rng, now_ms);
    let concurrency = service.picker.concurrency();
    // A place may be lost to another worker between choosing and taking it: choose again, a bounded number of times.
    for _ in 0..4 {
        let Some(index) = service.pick(&mut local.balance, tried, now_ms, &mut rng) else { break };
        let (Some(candidate), Some(endpoint)) = (service.candidates.get(index), service.endpoints.get(index)) else {
            break;
        };
        let in_flight = match concurrency {
            None => Some(candidate.stats.begin()),
            Some(limit) => candidate.stats.try_begin(limit),
        };
        let Some(in_flight) = in_flight else { continue };
        let Some(address) = endpoint.socket(target.port) else { return Err(Refused::Error(ProxyError::NoEndpoint)) };
        return Ok(Picked {
            address,
            key: Key { slot: target.slot, serial: candidate.stats.serial(), address },
            permit: Permit { in_flight: Some(in_flight), queue: concurrency.map(|_| service.stats.clone()) },
            others: service.candidates.len() > tried.len() + 1,
        });
    }
    Err(if service.candidates.is_empty() {
        Refused::Error(ProxyError::NoEndpoint)
    } else if concurrency.is_some() && service.candidates.iter().any(|c| !tried.contains(c.stats.serial())) {
        Refused::Saturated(service.stats.clone())
    } else {
        Refused::Error(ProxyError::Exhausted)
    })
}
