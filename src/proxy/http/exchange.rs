//! One request from its head to the end of its answer: pick → connect → attempt → observe, and again where that is safe.

use crate::balance::{Tried, observe};
use crate::clock;
use crate::http1::head::Version;
use crate::net::Stream;
use crate::proxy::connect::{Inside, connect};
use crate::proxy::error::{ProxyError, Retry};
use crate::proxy::http::attempt::{Attempt, Finished, Outcome};
use crate::proxy::http::pick::{changed, pick};
use crate::proxy::http::request::{Refusal, Request};
use crate::proxy::http::{Downstream, respond, upgrade};
use crate::proxy::http2::client;
use crate::proxy::memory::Pressure;
use crate::proxy::observe::{Summary, record};
use crate::proxy::pick::{Picked, failed};
use crate::proxy::state::Worker;
use crate::proxy::timer::ms;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A request that is not idempotent rides no connection that idled longer: the endpoint may be closing it.
const FRESH_IDLE_MS: u64 = 1000;
/// A reset on a connection that idled longer is taken for the endpoint's keepalive limit, not for a failure.
const STALE_IDLE_MS: u64 = 500;

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next request may come.
    Keep,
    /// Close.
    Close,
    /// Close after reading what the client still sends.
    Linger,
    /// It is closed.
    Over,
}

/// How one attempt went.
struct Tally {
    /// When its endpoint was picked.
    picked: Instant,
    begun: bool,
    answered: bool,
    sent_bytes: u64,
    first_byte: Option<Instant>,
}

/// The attempts of one request.
#[derive(Default)]
struct Course {
    tried: Tried,
    attempts: u8,
    /// Why the last attempt failed.
    last: Option<ProxyError>,
    /// Whether it failed on a kept connection, which says nothing about the endpoint.
    stale: bool,
    /// Whether only a new connection will do.
    fresh: bool,
    /// Until when it is tried again after no endpoint could be connected to; 0 before that happened.
    held_until_ms: u64,
}

/// All replicas of a service that Weir runs may have ended a moment before that is known: so long is waited for the table
/// to tell, in milliseconds.
const HOLD_MS: u64 = 1000;

impl Course {
    /// Begins, where there is memory for a further request; it earns its service a part of a retry.
    fn begin(worker: &Worker, request: &Request) -> Result<Self, ProxyError> {
        if worker.memory.pressure(|| worker.timers.now_ms()) >= Pressure::Refuse {
            return Err(ProxyError::Memory);
        }
        if let Some(local) = worker.locals.borrow_mut().at(request.target.slot) {
            local.budget.earn();
        }
        Ok(Self::default())
    }

    /// Picks an endpoint that was not tried; when none is left, the one that only closed a kept connection once more
    /// (RFC 9112 §9.3.1).
    async fn pick(&mut self, worker: &Worker, request: &Request, down: &Downstream) -> Result<Picked, ProxyError> {
        loop {
            match pick(worker, request, &self.tried, &down.deadline).await {
                Err(ProxyError::Exhausted) if self.stale => {
                    let Self { attempts, last, held_until_ms, .. } = *self;
                    *self = Self { attempts, last, held_until_ms, fresh: true, ..Self::default() };
                }
                Err(ProxyError::Exhausted) => {
                    // What the last attempt met says more than that nobody is left.
                    let error = self.last.unwrap_or(ProxyError::Exhausted);
                    if !self.waits(worker, request, down, error).await {
                        return Err(error);
                    }
                }
                Ok(picked) => {
                    self.attempts += 1;
                    self.tried.push(picked.key.serial);
                    return Ok(picked);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Decides whether another attempt is made, at once or when the table has changed.
    async fn goes_on(&mut self, worker: &Worker, request: &Request, down: &Downstream, error: ProxyError) -> bool {
        may_retry(worker, request, error, self.attempts) || self.waits(worker, request, down, error).await
    }

    /// Waits for another table where the endpoints seem to have gone; returns whether to try again.
    async fn waits(&mut self, worker: &Worker, request: &Request, down: &Downstream, error: ProxyError) -> bool {
        let is_gone = matches!(error, ProxyError::Connect | ProxyError::ConnectTimeout | ProxyError::Reset);
        // Boxed: rare, and its state would make every request's larger.
        is_gone && Box::pin(self.hold(worker, request, down, error)).await
    }

    /// Waits, bounded, for another table when no endpoint of a service that Weir runs could be connected to; returns
    /// whether to try again. Nothing of the request was sent, or it may be sent twice.
    async fn hold(&mut self, worker: &Worker, request: &Request, down: &Downstream, error: ProxyError) -> bool {
        let now_ms = worker.timers.now_ms();
        if self.held_until_ms == 0 {
            self.held_until_ms = now_ms + HOLD_MS;
        }
        if !is_repeatable(request, error) || now_ms >= self.held_until_ms.min(request.until_ms) {
            return false;
        }
        match changed(worker, request, &down.deadline, self.held_until_ms).await {
            None => return false,
            Some(true) => {}
            // The last try: the table may have changed before it was waited for.
            Some(false) => self.held_until_ms = 1,
        }
        self.tried = Tried::default();
        true
    }
}

/// Serves one request to its end.
pub(crate) async fn handle(worker: &Rc<Worker>, down: &mut Downstream, mut request: Box<Request>) -> Next {
    let mut course = match Course::begin(worker, &request) {
        Ok(course) => course,
        Err(error) => return give_up(worker, down, request, (error, 0)).await,
    };
    loop {
        let picked = match course.pick(worker, &request, down).await {
            Ok(picked) => picked,
            Err(error) => return give_up(worker, down, request, (error, course.attempts)).await,
        };
        let attempts = course.attempts;
        // Without a bound nothing waits, and the clock need not be asked again.
        let began = if picked.permit.is_bounded() { clock::now() } else { request.started };
        let last = attempts > request.policy.retries || !picked.others || !request.idempotent || !request.replayable;
        let (mut stream, idle_ms) = match dial(worker, down, &request, &picked, course.fresh).await {
            Ok(dialled) => dialled,
            Err(error) => {
                course.last = Some(error);
                failed(worker, picked.key, error);
                drop(picked);
                if course.goes_on(worker, &request, down, error).await {
                    continue;
                }
                return give_up(worker, down, request, (error, attempts)).await;
            }
        };
        let mut attempt = Attempt::new(worker, down, &mut request, &mut stream, last);
        let result = attempt.run().await;
        let tally = Tally {
            picked: began,
            begun: attempt.has_begun(),
            answered: attempt.was_answered(),
            sent_bytes: attempt.sent_bytes,
            first_byte: attempt.first_byte,
        };
        drop(attempt);
        match result {
            Ok(Outcome::Done(finished)) => {
                return done(worker, request, picked, stream, (finished, tally, attempts));
            }
            Ok(Outcome::Switched(rest)) => {
                let mut picked = picked;
                picked.permit.becomes_tunnel();
                let idle_ms = request.policy.tunnel_idle_ms;
                finish(worker, request, &picked, (101, "", attempts), &tally);
                // Boxed: a tunnel is rare, and its buffers live long.
                Box::pin(upgrade::tunnel(worker, down, stream, rest, picked, idle_ms)).await;
                return Next::Close;
            }
            Err(error) => {
                course.last = Some(error);
                course.stale = may_be_stale(error) && !tally.answered && idle_ms.is_some();
                if !(course.stale && idle_ms.is_some_and(|idle| idle > STALE_IDLE_MS)) {
                    failed(worker, picked.key, blamed(&request, error, tally.answered));
                }
                if tally.begun || error.status() == 0 {
                    if error == ProxyError::ClientStalled {
                        down.stream.abort_on_close();
                    }
                    finish(worker, request, &picked, (0, error.reason(), attempts), &tally);
                    worker.shard.refused(error.reason());
                    return Next::Close;
                }
                drop(picked);
                drop(stream);
                if !course.goes_on(worker, &request, down, error).await {
                    return give_up(worker, down, request, (error, attempts)).await;
                }
            }
        }
    }
}

/// Returns what an error says of the endpoint: one that is silent until the time of the request is over answered too late.
fn blamed(request: &Request, error: ProxyError, answered: bool) -> ProxyError {
    let silent = error == ProxyError::RequestTimeout && !answered && request.body.is_done();
    if silent { ProxyError::ResponseTimeout } else { error }
}

/// Returns whether a kept connection may fail so while its endpoint is well: it was closed meanwhile, or, HTTP/2, it is full or
/// going away. A new one to the same endpoint may do.
fn may_be_stale(error: ProxyError) -> bool {
    matches!(error, ProxyError::Reset | ProxyError::StreamRefused)
}

/// Takes a pooled connection or makes one; the idle time says which it was.
async fn dial(
    worker: &Worker,
    down: &Downstream,
    request: &Request,
    picked: &Picked,
    fresh: bool,
) -> Result<(Stream, Option<u64>), ProxyError> {
    if request.policy.http2 {
        // Boxed: rare as long as connections stay, and its state would make every request's larger.
        return Box::pin(multiplex(worker, down, request, picked, fresh)).await;
    }
    let max_idle_ms = if request.idempotent { u64::MAX } else { FRESH_IDLE_MS };
    let reused = match fresh || request.policy.tells {
        true => None,
        false => worker.pool.borrow_mut().checkout(picked.key, max_idle_ms, worker.timers.now_ms()),
    };
    down.deadline.set(request.policy.response_ms);
    match reused {
        Some(reused) => Ok((reused.stream, Some(reused.idle_ms))),
        None => {
            let stream = connect(
                worker,
                (picked.key.slot, picked.address),
                Inside::Http1,
                request.policy.connect_ms,
                &down.deadline,
                || down.told(),
            )
            .await?;
            down.deadline.set(request.policy.response_ms);
            request.overdue(worker.timers.now_ms()).map_or(Ok((stream, None)), Err)
        }
    }
}

/// Opens a stream on a connection to an HTTP/2 endpoint, or makes one.
async fn multiplex(
    worker: &Worker,
    down: &Downstream,
    request: &Request,
    picked: &Picked,
    fresh: bool,
) -> Result<(Stream, Option<u64>), ProxyError> {
    let kept = if fresh { None } else { worker.pool.borrow().open(picked.key) };
    if let Some(stream) = kept {
        down.deadline.set(request.policy.response_ms);
        return Ok((stream, Some(0)));
    }
    let (to, connect_ms) = ((picked.key.slot, picked.address), request.policy.connect_ms);
    // Before anything is waited for: afterwards the slot may be another service's.
    let quiet_ms =
        worker.locals.borrow_mut().at(picked.key.slot).map_or(0, |local| ms(local.service.spec.timeouts.ping));
    let stream = connect(worker, to, Inside::Http2, connect_ms, &down.deadline, || down.told()).await?;
    let connection = client::begin(stream, worker.limits.clone(), quiet_ms).await.map_err(|_| ProxyError::Connect)?;
    let stream = connection.open().ok_or(ProxyError::Connect)?;
    worker.pool.borrow_mut().share(picked.key, connection);
    down.deadline.set(request.policy.response_ms);
    Ok((stream, None))
}

/// Returns whether the request may be sent again after this error.
fn is_repeatable(request: &Request, error: ProxyError) -> bool {
    match error.retry() {
        Retry::Safe => request.replayable,
        Retry::IfIdempotent => request.idempotent && request.replayable,
        Retry::Never => false,
    }
}

/// Decides whether another attempt is made; takes it from the retry budget.
fn may_retry(worker: &Worker, request: &Request, error: ProxyError, attempts: u8) -> bool {
    let late = request.overdue(worker.timers.now_ms()).is_some();
    if late || !is_repeatable(request, error) || attempts > request.policy.retries {
        return false;
    }
    let mut locals = worker.locals.borrow_mut();
    let Some(local) = locals.at(request.target.slot) else { return false };
    let allowed = local.budget.allow(worker.timers.now_ms());
    if allowed {
        local.counters.retries.add(1)
    } else {
        local.counters.retries_refused.add(1)
    }
    allowed
}

/// The answer was relayed: keep the upstream connection, feed the outcome, count.
fn done(
    worker: &Worker,
    request: Box<Request>,
    picked: Picked,
    stream: Stream,
    (finished, tally, attempts): (Finished, Tally, u8),
) -> Next {
    // What an endpoint was told of its client holds for no other.
    if let Some(keep_ms) = finished.reuse.filter(|_| !request.policy.tells) {
        worker.pool.borrow_mut().checkin(picked.key, stream, keep_ms, worker.timers.now_ms());
    }
    let status = finished.status;
    match status {
        502..=504 => failed(worker, picked.key, ProxyError::GatewayStatus(status)),
        500.. => server_error(worker, &picked),
        _ => {}
    }
    // A client that did not ask for the end may have sent more: closing with that unread would reset the connection and
    // destroy the answer (RFC 9112 §9.6).
    let more = finished.unread || request.keep_alive;
    finish(worker, request, &picked, (status, "", attempts), &tally);
    match (finished.close, more) {
        (false, _) => Next::Keep,
        (true, true) => Next::Linger,
        (true, false) => Next::Close,
    }
}

fn server_error(worker: &Worker, picked: &Picked) {
    let mut locals = worker.locals.borrow_mut();
    let Some(local) = locals.at(picked.key.slot) else { return };
    let service = local.service.clone();
    if let Some(index) = service.candidates.iter().position(|c| c.stats.serial() == picked.key.serial) {
        let now_ms = worker.timers.now_ms();
        let failure = Some(crate::balance::Failure::Server);
        if observe(&service.candidates, index, failure, &service.spec.outliers, now_ms).is_some() {
            local.counters.ejections.add(1);
        }
    }
}

/// Counts a request that reached an endpoint.
fn finish(
    worker: &Worker,
    request: Box<Request>,
    picked: &Picked,
    (status, reason, attempts): (u16, &'static str, u8),
    tally: &Tally,
) {
    let elapsed = |to: Instant| to.saturating_duration_since(request.started);
    let now = clock::now();
    let summary = Summary {
        slot: request.target.slot,
        peer: request.peer,
        received_bytes: request.body.passed(),
        access: request.access.as_deref(),
        status,
        reason,
        attempts,
        sent_bytes: tally.sent_bytes,
        duration: elapsed(now),
        service: (200..500).contains(&status).then(|| now.saturating_duration_since(tally.picked)),
        first_byte: tally.first_byte.map_or(Duration::ZERO, elapsed),
        endpoint: Some(picked.address),
    };
    if status != 0
        && status < 500
        && let Some(stats) = picked.permit.stats()
    {
        stats.succeeded();
        let latency_us = u64::try_from(summary.first_byte.as_micros()).unwrap_or(u64::MAX);
        let mut locals = worker.locals.borrow_mut();
        if let Some(local) = locals.at(picked.key.slot)
            && let Some(average) = local.balance.observe(picked.key.serial, latency_us, false, worker.timers.now_ms())
        {
            stats.set_latency_us(average);
        }
    }
    record(worker, &summary);
    request.give_back(worker);
}

/// Answers the client for a request that no endpoint answered.
async fn give_up(
    worker: &Rc<Worker>,
    down: &mut Downstream,
    request: Box<Request>,
    (error, attempts): (ProxyError, u8),
) -> Next {
    let summary = Summary {
        slot: request.target.slot,
        peer: request.peer,
        received_bytes: request.body.passed(),
        access: request.access.as_deref(),
        status: error.status(),
        reason: error.reason(),
        attempts,
        sent_bytes: 0,
        duration: clock::now().saturating_duration_since(request.started),
        service: None,
        first_byte: Duration::ZERO,
        endpoint: None,
    };
    record(worker, &summary);
    let complete = request.body.is_done();
    // To HTTP/1.0 a refusal does not say that the connection stays: it closes.
    let stays = request.keep_alive && request.version == Version::Http11;
    let keep = complete && stays && !error.closes();
    let refusal = Refusal { is_head: request.is_head, keep, grpc: request.grpc, ..Refusal::new(error) };
    request.give_back(worker);
    if error.status() == 0 {
        worker.shard.refused(error.reason());
        return Next::Close;
    }
    respond::refuse(worker, down, &refusal).await
}
