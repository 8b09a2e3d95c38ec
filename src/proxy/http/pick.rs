//! Picking an endpoint for a request: load the current snapshot and choose in one step, or wait for a free replica.
//!
//! A request also waits, in the same bounded queue, while a service whose replicas Weir runs has none: after an engine's
//! restart, between the old and the new replica of a service that must not run twice, before the first is ready, or after a
//! pause in which nobody used it. Then it rings for one.

use crate::balance::{ServiceStats, Tried};
use crate::proxy::error::ProxyError;
use crate::proxy::http::request::{Request, identity};
use crate::proxy::pick::{Picked, Refused, Traffic, choose};
use crate::proxy::state::Worker;
use crate::proxy::timer::Deadline;
use crate::proxy::wait::{pass_on, woken};
use std::sync::Arc;

/// Picks an endpoint, waiting in the service's bounded queue while every replica is at its limit or none is
/// there yet.
///
/// # Errors
/// The [`ProxyError`] that says why there is none.
pub(crate) async fn pick(
    worker: &Worker,
    request: &Request,
    tried: &Tried,
    deadline: &Deadline,
) -> Result<Picked, ProxyError> {
    let (stats, wait_ms) = match try_pick(worker, request, tried) {
        Err(Refused::Saturated(stats)) => (stats, request.policy.queue_timeout_ms),
        Err(Refused::Absent(stats, _)) => {
            worker.counted_held(request.target.slot);
            (stats, request.policy.wake_timeout_ms)
        }
        Err(Refused::Error(error)) => return Err(error),
        Ok(picked) => return Ok(picked),
    };
    wait(worker, request, tried, (deadline, wait_ms), stats).await
}

/// Waits for a free replica; the oldest waiter is woken first.
async fn wait(
    worker: &Worker,
    request: &Request,
    tried: &Tried,
    (deadline, wait_ms): (&Deadline, u64),
    stats: Arc<ServiceStats>,
) -> Result<Picked, ProxyError> {
    let until_ms = worker.timers.now_ms() + wait_ms;
    let mut place = stats.try_wait(request.policy.queue).ok_or(ProxyError::QueueFull)?;
    worker.counted_queued(request.target.slot);
    loop {
        // A replica may have become free before the place in the queue was taken.
        let late = match try_pick(worker, request, tried) {
            Err(Refused::Saturated(_)) => ProxyError::QueueTimeout,
            Err(Refused::Absent(_, wake)) => {
                // It counts as waiting by now, so whoever hears it knows what for.
                wake.ring();
                ProxyError::WakeTimeout
            }
            result => {
                pass_on(&mut place, &stats);
                return result.map_err(Refused::error);
            }
        };
        deadline.set_at(until_ms.min(request.until_ms));
        if !woken(&mut place, deadline).await {
            pass_on(&mut place, &stats);
            return Err(request.overdue(worker.timers.now_ms()).unwrap_or(late));
        }
        match try_pick(worker, request, tried) {
            Err(Refused::Saturated(_) | Refused::Absent(..)) => {}
            result => return result.map_err(Refused::error),
        }
        // Another took the replica, which is no reason to refuse who waited: it joins again whatever the bound.
        place = stats.try_wait(u32::MAX).ok_or(ProxyError::QueueFull)?;
    }
}

/// Waits in the queue of a service that Weir runs until the table changes; false when it did not before `until_ms`, `None`
/// at once when Weir does not run the service or its queue is full.
pub(crate) async fn changed(worker: &Worker, request: &Request, deadline: &Deadline, until_ms: u64) -> Option<bool> {
    let target = request.target;
    let stats = {
        let mut reader = worker.reader.borrow_mut();
        let service = reader.load().services.at(target.slot).filter(|service| identity(service) == target.identity);
        service.filter(|service| service.spec.is_run()).map(|service| service.stats.clone())?
    };
    let mut place = stats.try_wait(request.policy.queue)?;
    deadline.set_at(until_ms);
    let woken = woken(&mut place, deadline).await;
    if !woken {
        pass_on(&mut place, &stats);
    }
    Some(woken)
}

impl Refused {
    fn error(self) -> ProxyError {
        match self {
            Self::Saturated(_) => ProxyError::QueueTimeout,
            Self::Absent(..) => ProxyError::WakeTimeout,
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
    choose(worker, service, target.port, tried, Traffic::Request)
}
