//! Bytes → a request: read, parse, route and rewrite in one poll, so that the scratch buffer is free again after it.

use crate::clock;
use crate::http1::framing::{self, Body, Form, Framing};
use crate::http1::head::{self, Kind, RequestLine, Version};
use crate::http1::path;
use crate::http1::reject::Reject;
use crate::http1::rewrite::{self, Forwarding};
use crate::model::EndpointProtocol;
use crate::proxy::error::ProxyError;
use crate::proxy::http::Downstream;
use crate::proxy::http::grpc::{self, Call};
use crate::proxy::observe::Access;
use crate::proxy::scratch::{HEADROOM, Scratch, poll_read};
use crate::proxy::state::{Spare, Worker};
use crate::proxy::timer::ms;
use crate::rng::Rng;
use crate::table::Service;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

/// Where a request goes: found by the snapshot that it routed with, checked at each pick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) slot: usize,
    /// Address of the service's shared counters: the slot may be reused, this tells.
    pub(crate) identity: usize,
    pub(crate) port: usize,
}

/// What of the service's definition a request needs; copied, so that no reference count is shared between workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) connect_ms: u64,
    pub(crate) response_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) tunnel_idle_ms: u64,
    /// From the request's head to the end of its answer; `u64::MAX`: no bound.
    pub(crate) request_ms: u64,
    pub(crate) queue_timeout_ms: u64,
    /// Longest wait for a first replica.
    pub(crate) wake_timeout_ms: u64,
    pub(crate) queue: u32,
    pub(crate) retries: u8,
    /// The endpoints speak HTTP/2.
    pub(crate) http2: bool,
    /// Each connection to an endpoint begins with who its client is.
    pub(crate) tells: bool,
}

/// One request, ready to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    /// The rewritten head and what has come of the body; kept for a retry while it is small.
    pub(crate) buffer: Vec<u8>,
    pub(crate) head_len: usize,
    pub(crate) body: Body,
    pub(crate) chunked: bool,
    /// Whether `buffer` still holds everything that was sent.
    pub(crate) replayable: bool,
    pub(crate) idempotent: bool,
    pub(crate) is_head: bool,
    pub(crate) websocket: bool,
    pub(crate) version: Version,
    pub(crate) keep_alive: bool,
    pub(crate) trailers: bool,
    /// The client may wait for `100 Continue` before it sends the body.
    pub(crate) expects: bool,
    pub(crate) target: Target,
    pub(crate) policy: Policy,
    /// It is a gRPC call.
    pub(crate) grpc: bool,
    /// When its time is over, by the worker's clock; `u64::MAX`: it has no bound.
    pub(crate) until_ms: u64,
    /// Whether the call itself said so, and not the service.
    pub(crate) limits_itself: bool,
    pub(crate) started: Instant,
    pub(crate) peer: IpAddr,
    pub(crate) access: Option<Box<Access>>,
}

/// A request that Weir answers itself.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) error: ProxyError,
    /// Where the client is sent instead.
    pub(crate) location: Option<Box<str>>,
    /// What the body says instead of a sentence for people.
    pub(crate) text: Option<Arc<str>>,
    pub(crate) is_head: bool,
    /// Whether the connection can go on: the request was read to its end.
    pub(crate) keep: bool,
    /// Whether the client is told in gRPC's terms.
    pub(crate) grpc: bool,
}

impl Refusal {
    /// Makes the refusal of what may be no request at all: the connection ends with it.
    pub(crate) fn new(error: ProxyError) -> Self {
        Self { error, location: None, text: None, is_head: false, keep: false, grpc: false }
    }
}

/// What waiting for a head ended in.
#[derive(Debug)]
pub(crate) enum Head {
    Request(Box<Request>),
    Answer(Refusal),
    /// The client speaks HTTP/2; what it sent is in the connection's carry.
    Http2,
    Closed,
}

/// How an HTTP/2 connection begins by prior knowledge (RFC 9113 §3.4): the parser refuses the version.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// The state of waiting for a head.
#[derive(Debug)]
pub(crate) struct Wait {
    begun: bool,
    /// The connection's first request, where HTTP/2 may begin instead.
    first: bool,
}

impl Wait {
    /// Starts waiting; a connection's first request must come within the time for a head.
    pub(crate) fn new(worker: &Worker, down: &Downstream, first: bool) -> Self {
        down.deadline.set(if first { ms(worker.options.timeouts.head) } else { ms(worker.options.timeouts.keepalive) });
        Self { begun: false, first }
    }
}

/// Waits for a head; everything from its last octet to the rewritten request happens in the same poll.
pub(crate) fn poll_head(worker: &Worker, down: &mut Downstream, wait: &mut Wait, cx: &mut Context<'_>) -> Poll<Head> {
    let found = worker.with_scratch(|scratch| read_head(worker, down, scratch, cx));
    match found {
        Poll::Ready(Head::Http2) if !wait.first => {
            return Poll::Ready(Head::Answer(refusal(Reject::Version)));
        }
        Poll::Ready(head) => return Poll::Ready(head),
        Poll::Pending => {}
    }
    let timeouts = &worker.options.timeouts;
    // RFC 9112 §2.2: one empty line may stand before a request; it begins none.
    let partial = !matches!(down.carry.as_slice(), [] | b"\r" | b"\r\n");
    if partial && !wait.begun {
        wait.begun = true;
        down.deadline.set(ms(timeouts.head));
    }
    if partial && !down.holds(worker) {
        return Poll::Ready(Head::Answer(Refusal::new(ProxyError::HeadMemory)));
    }
    if let Some(since) = worker.ending_since(&down.entry).filter(|_| !partial) {
        down.deadline.set_at(since + ms(timeouts.drain_idle));
    }
    if !down.deadline.poll_expired(cx) {
        return Poll::Pending;
    }
    if !partial {
        return Poll::Ready(Head::Closed);
    }
    Poll::Ready(Head::Answer(Refusal::new(ProxyError::HeadTimeout)))
}

fn read_head(worker: &Worker, down: &mut Downstream, scratch: &mut Scratch, cx: &mut Context<'_>) -> Poll<Head> {
    let mut have = down.carry.len();
    let at = HEADROOM;
    if let Some(front) = scratch.input.get_mut(at..at + have) {
        front.copy_from_slice(&down.carry);
    }
    // What is carried after a pipelined request may hold a whole head already.
    let mut fresh = have > 0;
    loop {
        if fresh && let Some(head) = try_parse(worker, down, scratch, have) {
            return Poll::Ready(head);
        }
        let room = scratch.input.get_mut(at + have..).unwrap_or_default();
        match poll_read(&mut down.stream, cx, room) {
            Poll::Ready(Ok(n)) if n > 0 => {
                have += n;
                fresh = true;
            }
            Poll::Ready(_) => return Poll::Ready(Head::Closed),
            Poll::Pending => break,
        }
    }
    if have > 0 {
        let seen = scratch.input.get(at..at + have).unwrap_or_default();
        if down.carry.capacity() == 0 {
            down.carry = worker.take_buffer();
        }
        down.carry.clear();
        down.carry.extend_from_slice(seen);
    }
    Poll::Pending
}

/// Parses what is there; `None`: more is needed. Leaves what follows the request in the connection's carry.
fn try_parse(worker: &Worker, down: &mut Downstream, scratch: &mut Scratch, have: usize) -> Option<Head> {
    let Scratch { input, fields, .. } = scratch;
    let bytes = input.get(HEADROOM..HEADROOM + have).unwrap_or_default();
    // Above this a head that trickles in is parsed again only when its end is there: linear work for the attacker too.
    if have > 4096 && memchr::memmem::find(bytes, b"\r\n\r\n").is_none() && have < worker.limits.head_bytes {
        return None;
    }
    let line = match head::parse_request(bytes, &worker.limits, fields) {
        Ok(Some(line)) => line,
        Ok(None) => return None,
        Err(Reject::Version) if bytes.starts_with(HTTP2) => {
            if !down.keep(worker, bytes) {
                return Some(Head::Closed);
            }
            return Some(Head::Http2);
        }
        Err(reject) => return Some(Head::Answer(refusal(reject))),
    };
    let (head_bytes, rest) = bytes.split_at_checked(line.len)?;
    let mut building = Building { worker, down, bytes: head_bytes, line, fields };
    Some(match building.request() {
        Ok((mut request, framing)) => match take_body(worker, &mut request, framing, rest) {
            Ok(used) => {
                // Too much is held already: what was pipelined is not read, which the client hears of (RFC 9112 §9.3.2).
                let kept = down.keep(worker, rest.get(used..).unwrap_or_default());
                request.keep_alive &= kept;
                if request.websocket && !kept {
                    // Its octets must not be missing in the tunnel.
                    return Some(Head::Answer(Refusal::new(ProxyError::HeadMemory)));
                }
                Head::Request(request)
            }
            Err(reject) => Head::Answer(refusal(reject)),
        },
        Err((error, keep)) => {
            let location = (error == ProxyError::HttpsRequired).then(|| building.https_location()).flatten();
            let text = if error == ProxyError::AcmeChallenge { building.proof() } else { None };
            let keep = keep && down.keep(worker, rest);
            let grpc = down.http2 && grpc::call(head_bytes, fields).is;
            let is_head = line.method == "HEAD";
            Head::Answer(Refusal { location, text, is_head, keep, grpc, ..Refusal::new(error) })
        }
    })
}

fn refusal(reject: Reject) -> Refusal {
    Refusal::new(ProxyError::Refused(reject))
}

/// Takes what has come of the body with the head.
fn take_body(worker: &Worker, request: &mut Request, framing: Framing, rest: &[u8]) -> Result<usize, Reject> {
    if let (Framing::Length(n), Some(limit)) = (framing, worker.options.limits.body_bytes)
        && n > limit
    {
        return Err(Reject::BodyTooLarge);
    }
    if rest.is_empty() || request.body.is_done() {
        return Ok(0);
    }
    request.take_body(rest, worker.options.limits.body_bytes)
}

impl Request {
    /// Moves it to where one before it was, so that it is moved no more.
    fn kept(self, worker: &Worker) -> Box<Self> {
        match worker.take_spare::<Self>(Spare::Request) {
            Some(mut spare) => {
                *spare = self;
                spare
            }
            None => Box::new(self),
        }
    }

    /// Returns what is wrong when its time is over.
    pub(super) fn overdue(&self, now_ms: u64) -> Option<ProxyError> {
        let error = if self.limits_itself { ProxyError::CallTimeout } else { ProxyError::RequestTimeout };
        (now_ms >= self.until_ms).then_some(error)
    }

    /// Gives back what it was kept in.
    pub(crate) fn give_back(mut self: Box<Self>, worker: &Worker) {
        worker.give_buffer(std::mem::take(&mut self.buffer));
        self.access = None;
        worker.give_spare(Spare::Request, self);
    }

    /// Takes octets of the body into the buffer; returns how many belonged to it.
    ///
    /// # Errors
    /// [`Reject`] for malformed chunks or a body above the limit.
    pub(crate) fn take_body(&mut self, input: &[u8], limit: Option<u64>) -> Result<usize, Reject> {
        let used = if self.chunked {
            // RFC 9110 §6.5.1: trailers go on only where the client speaks of them.
            let form = if self.trailers { Form::Chunked } else { Form::ChunkedNoTrailers };
            self.body.transcode(input, form, &mut self.buffer)?
        } else {
            let used = self.body.advance(input)?;
            self.buffer.extend_from_slice(input.get(..used).unwrap_or_default());
            used
        };
        if limit.is_some_and(|limit| self.body.passed() > limit) {
            return Err(Reject::BodyTooLarge);
        }
        Ok(used)
    }
}

/// A parsed head on its way to becoming a request.
struct Building<'a> {
    worker: &'a Worker,
    down: &'a Downstream,
    bytes: &'a [u8],
    line: RequestLine<'a>,
    fields: &'a head::Fields,
}

impl Building<'_> {
    /// Checks, routes and rewrites. The error comes with whether the connection can go on.
    fn request(&mut self) -> Result<(Box<Request>, Framing), (ProxyError, bool)> {
        let Self { worker, down, bytes, line, fields } = *self;
        let refuse = |reject: Reject| (ProxyError::Refused(reject), false);
        let mut authority = rewrite::authority(bytes, &line, fields).map_err(refuse)?;
        // Routing and the endpoint see the same path.
        let normal = path::normalise(authority.target).map_err(refuse)?;
        if let Some(target) = &normal {
            authority.target = target;
        }
        let framing = framing::request_body(bytes, fields, line.version).map_err(refuse)?;
        if line.version > Version::Http10 {
            self.check_expectation().map_err(refuse)?;
        }
        let asked = rewrite::connection(bytes, fields);
        let keep_alive = if line.version == Version::Http11 { !asked.close } else { asked.keep_alive && !asked.close };
        let started = clock::now();
        worker.timers.set_now(clock::to_ms(started));
        // To HTTP/1.0 a refusal does not say that the connection stays: it closes.
        let keep = keep_alive && framing == Framing::None && line.version == Version::Http11;
        if down.session.is_none() && !worker.challenges.is_empty() && self.proof().is_some() {
            return Err((ProxyError::AcmeChallenge, keep));
        }
        if down.entry.redirects_https() {
            return Err((ProxyError::HttpsRequired, keep));
        }
        self.check_host(authority.host).map_err(|error| (error, keep))?;
        let (target, policy) = self.route(authority.host, authority.target).map_err(|error| (error, keep))?;
        let mut id = [0u8; 32];
        let forwarding = Forwarding {
            authority,
            framing,
            client: down.client.as_bytes(),
            scheme: if down.session.is_some() { "https" } else { "http" },
            identity: down.session.as_ref().map_or(&[], |session| &session.identity),
            trusted: down.trusted,
            request_id: hex_id(&mut worker.rng.borrow_mut(), &mut id),
            http2: down.http2,
        };
        let mut buffer = worker.take_buffer();
        rewrite::request(bytes, &line, fields, &forwarding, &mut buffer);
        let call = if down.http2 { grpc::call(bytes, fields) } else { Call::default() };
        let access = worker.access.is_some().then(|| Box::new(Access::new(&line, &authority, self.logged_id(&id))));
        let request = Request {
            head_len: buffer.len(),
            buffer,
            body: Body::new(framing),
            chunked: framing == Framing::Chunked,
            replayable: true,
            idempotent: matches!(line.method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
            is_head: line.method == "HEAD",
            websocket: asked.websocket && rewrite::may_upgrade(&line, framing),
            version: line.version,
            keep_alive,
            trailers: asked.trailers,
            expects: framing != Framing::None && line.version > Version::Http10 && fields.has(Kind::Expect),
            target,
            policy,
            grpc: call.is,
            until_ms: clock::to_ms(started).saturating_add(call.timeout_ms.unwrap_or(u64::MAX).min(policy.request_ms)),
            limits_itself: call.timeout_ms.is_some_and(|limit| limit < policy.request_ms),
            started,
            peer: down.peer,
            access,
        };
        Ok((request.kept(worker), framing))
    }

    /// The id that the endpoint sees: a trusted proxy's own is kept.
    fn logged_id<'b>(&'b self, own: &'b [u8]) -> &'b [u8] {
        let kept = self.fields.iter().find(|f| self.down.trusted && f.kind == Kind::RequestId);
        kept.map(|f| f.value(self.bytes)).filter(|value| !value.is_empty()).unwrap_or(own)
    }

    /// Returns the answer to an authority that looks whether a name leads here, by a token of ours (RFC 8555 §8.3).
    fn proof(&self) -> Option<Arc<str>> {
        let authority = rewrite::authority(self.bytes, &self.line, self.fields).ok()?;
        let token = authority.target.strip_prefix("/.well-known/acme-challenge/")?;
        self.worker.challenges.token(token).filter(|_| matches!(self.line.method, "GET" | "HEAD"))
    }

    /// Returns the same address under https, at its usual port.
    fn https_location(&self) -> Option<Box<str>> {
        let authority = rewrite::authority(self.bytes, &self.line, self.fields).ok()?;
        let host = std::str::from_utf8(without_port(authority.host)).ok()?;
        let target = if authority.target == "*" { "/" } else { authority.target };
        Some(format!("https://{host}{}{target}", if target.starts_with('?') { "/" } else { "" }).into())
    }

    /// A TLS connection carries requests for what its client asked for in the handshake.
    fn check_host(&self, host: &[u8]) -> Result<(), ProxyError> {
        let Some(session) = &self.down.session else { return Ok(()) };
        let mut lower = [0u8; 256];
        if session.is_for(lower_host(host, &mut lower)) { Ok(()) } else { Err(ProxyError::Misdirected) }
    }

    /// Only `100-continue`, once (RFC 9110 §10.1.1).
    fn check_expectation(&self) -> Result<(), Reject> {
        match self.fields.only(Kind::Expect) {
            Ok(None) => Ok(()),
            Ok(Some(field)) if field.value(self.bytes).eq_ignore_ascii_case(b"100-continue") => Ok(()),
            _ => Err(Reject::Expectation),
        }
    }

    /// Routes by the snapshot of this moment.
    fn route(&self, host: &[u8], target: &str) -> Result<(Target, Policy), ProxyError> {
        let worker = self.worker;
        let mut reader = worker.reader.borrow_mut();
        let snapshot = reader.load();
        let mut lower = [0u8; 256];
        let host = lower_host(host, &mut lower);
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        let path = if path.is_empty() { "/" } else { path };
        if let Some((service, port)) = &*self.down.entry.only.borrow() {
            let service = snapshot.services.get(service).ok_or(ProxyError::NoService)?;
            return Ok((Target { slot: service.slot, identity: identity(service), port: *port }, policy(service)));
        }
        let route = snapshot.routes.find(&self.down.entry.name, host, path).ok_or(ProxyError::NoRoute)?;
        let service = route.slot.and_then(|slot| snapshot.services.at(slot)).ok_or(ProxyError::NoService)?;
        Ok((Target { slot: service.slot, identity: identity(service), port: route.port }, policy(service)))
    }
}

/// Identifies a service across snapshots: its counters live as long as it does.
pub(crate) fn identity(service: &Service) -> usize {
    Arc::as_ptr(&service.stats).addr()
}

fn policy(service: &Service) -> Policy {
    let spec = &service.spec;
    Policy {
        connect_ms: ms(spec.timeouts.connect),
        response_ms: ms(spec.timeouts.response),
        idle_ms: ms(spec.timeouts.idle),
        tunnel_idle_ms: ms(spec.timeouts.tunnel_idle),
        request_ms: spec.timeouts.request.map_or(u64::MAX, ms),
        queue_timeout_ms: ms(spec.limits.queue_timeout),
        wake_timeout_ms: ms(spec.wake_timeout()),
        queue: spec.limits.queue,
        retries: u8::try_from(spec.retries.min(5)).unwrap_or(5),
        http2: spec.protocol == EndpointProtocol::Http2,
        tells: spec.streams.proxy_protocol.is_some(),
    }
}

/// Returns the host in lower case without port; a host longer than any DNS name matches no route by name.
fn lower_host<'a>(host: &[u8], buffer: &'a mut [u8; 256]) -> &'a str {
    let name = without_port(host);
    let Some(place) = buffer.get_mut(..name.len()) else { return "" };
    place.copy_from_slice(name);
    place.make_ascii_lowercase();
    std::str::from_utf8(place).unwrap_or("")
}

fn without_port(host: &[u8]) -> &[u8] {
    let end = if host.ends_with(b"]") { None } else { host.iter().rposition(|&b| b == b':') };
    host.get(..end.unwrap_or(host.len())).unwrap_or_default()
}

/// Writes 128 random bits as hexadecimal digits.
fn hex_id<'a>(rng: &mut Rng, into: &'a mut [u8; 32]) -> &'a [u8] {
    let bits = (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
    for (i, place) in into.iter_mut().enumerate() {
        let digit = (bits >> (4 * i)) & 15;
        *place = b"0123456789abcdef".get(digit as usize).copied().unwrap_or(b'0');
    }
    into
}
