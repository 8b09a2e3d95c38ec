//! Picking an endpoint of a service: choose and take the in-flight guard in one step, with no await between.
//!
//! The caller has loaded the current snapshot in the same step. Only so does "acknowledged and nothing in flight" mean
//! that nobody will use a withdrawn endpoint.

use crate::balance::{EndpointStats, InFlight, ServiceStats, StreamPlace, Tried, observe};
use crate::proxy::error::ProxyError;
use crate::proxy::pool::Key;
use crate::proxy::state::Worker;
use crate::table::{Service, Wake};
use std::net::SocketAddr;
use std::sync::Arc;

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
    /// Its place among the streams of a service that bounds them.
    stream: Option<StreamPlace>,
}

impl Permit {
    /// Returns whether the service bounds what an endpoint is given at once.
    pub(crate) fn is_bounded(&self) -> bool {
        self.queue.is_some()
    }

    /// Returns the endpoint's counters.
    pub(crate) fn stats(&self) -> Option<&Arc<EndpointStats>> {
        self.in_flight.as_ref().map(InFlight::stats)
    }

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

/// What an endpoint is picked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// A request: counts against the service's limit on concurrency.
    Request,
    /// A TCP stream: in flight, but outside that limit.
    Stream,
}

/// Why nothing was picked.
pub(crate) enum Refused {
    /// Every replica that is left is at its limit.
    Saturated(Arc<ServiceStats>),
    /// There is none now, but Weir runs the service's replicas: one is on its way, or starts when the bell rings.
    Absent(Arc<ServiceStats>, Arc<Wake>),
    /// There is none.
    Error(ProxyError),
}

/// Chooses an endpoint of a service that was loaded in this step.
pub(crate) fn choose(
    worker: &Worker,
    service: &Arc<Service>,
    port: usize,
    tried: &Tried,
    traffic: Traffic,
) -> Result<Picked, Refused> {
    let mut locals = worker.locals.borrow_mut();
    let mut rng = worker.rng.borrow_mut();
    let now_ms = worker.timers.now_ms();
    let local = locals.enter(service, &worker.shard, &mut rng, now_ms);
    let concurrency = service.picker.concurrency().filter(|_| traffic == Traffic::Request);
    // A place may be lost to another worker between choosing and taking it: choose again, a bounded number of times.
    for _ in 0..4 {
        let index = match traffic {
            Traffic::Request => service.pick(&mut local.balance, tried, now_ms, &mut rng),
            Traffic::Stream => {
                let picker = service.picker.without_limit();
                picker.pick(&service.candidates, &mut local.balance, tried, now_ms, &mut rng)
            }
        };
        let Some(index) = index else { break };
        let (Some(candidate), Some(endpoint)) = (service.candidates.get(index), service.endpoints.get(index)) else {
            break;
        };
        let in_flight = match concurrency {
            None => Some(candidate.stats.begin()),
            Some(limit) => candidate.stats.try_begin(limit),
        };
        let Some(in_flight) = in_flight else { continue };
        let Some(address) = endpoint.socket(port) else { return Err(Refused::Error(ProxyError::NoEndpoint)) };
        let mut permit =
            Permit { in_flight: Some(in_flight), queue: concurrency.map(|_| service.stats.clone()), stream: None };
        if traffic == Traffic::Stream {
            permit.stream = place(service).map_err(Refused::Error)?;
            permit.becomes_tunnel();
        }
        return Ok(Picked {
            address,
            key: Key { slot: service.slot, serial: candidate.stats.serial(), address },
            permit,
            others: service.candidates.len() > tried.len() + 1,
        });
    }
    Err(if service.candidates.is_empty() {
        none(service)
    } else if concurrency.is_some() && service.candidates.iter().any(|c| !tried.contains(c.stats.serial())) {
        Refused::Saturated(service.stats.clone())
    } else {
        Refused::Error(ProxyError::Exhausted)
    })
}

/// Says why a service has no endpoint.
fn none(service: &Service) -> Refused {
    match service.may_wake() {
        true => Refused::Absent(service.stats.clone(), service.wake.clone()),
        false if service.spec.is_run() => Refused::Error(ProxyError::ServiceOff),
        false => Refused::Error(ProxyError::NoEndpoint),
    }
}

/// Takes a place among the streams and flows of a service; `None`: it bounds none.
fn place(service: &Service) -> Result<Option<StreamPlace>, ProxyError> {
    let limit = service.spec.streams.open;
    limit.map(|limit| service.stats.try_stream(limit).ok_or(ProxyError::StreamsFull)).transpose()
}

/// Takes an endpoint that was found by rendezvous among those of a service that was loaded in this step, for a flow.
pub(crate) fn hashed(
    worker: &Worker,
    service: &Arc<Service>,
    port: usize,
    index: Option<usize>,
) -> Result<Picked, Refused> {
    worker.locals.borrow_mut().enter(service, &worker.shard, &mut worker.rng.borrow_mut(), worker.timers.now_ms());
    if service.candidates.is_empty() {
        return Err(none(service));
    }
    let exhausted = Refused::Error(ProxyError::Exhausted);
    let Some((index, candidate)) = index.and_then(|index| Some((index, service.candidates.get(index)?))) else {
        return Err(exhausted);
    };
    let address = service.endpoints.get(index).and_then(|endpoint| endpoint.socket(port)).ok_or(exhausted)?;
    let stream = place(service).map_err(Refused::Error)?;
    let mut permit = Permit { in_flight: Some(candidate.stats.begin()), queue: None, stream };
    permit.becomes_tunnel();
    let key = Key { slot: service.slot, serial: candidate.stats.serial(), address };
    Ok(Picked { address, key, permit, others: service.candidates.len() > 1 })
}

/// Feeds a failure of a picked endpoint, request or stream, to the passive ejection, at once.
pub(crate) fn failed(worker: &Worker, key: Key, error: ProxyError) {
    let Some(failure) = error.failure() else { return };
    let now_ms = worker.timers.now_ms();
    let mut locals = worker.locals.borrow_mut();
    let Some(local) = locals.at(key.slot) else { return };
    let service = local.service.clone();
    let Some(index) = service.candidates.iter().position(|c| c.stats.serial() == key.serial) else { return };
    local.balance.observe(key.serial, 0, true, now_ms);
    if let Some(length_ms) = observe(&service.candidates, index, Some(failure), &service.spec.outliers, now_ms) {
        local.counters.ejections.add(1);
        let instance = service.endpoints.get(index).map(|e| e.id.as_str()).unwrap_or_default();
        tracing::warn!(service = %service.name(), instance, reason = error.reason(), length_ms, "endpoint ejected");
    }
}
