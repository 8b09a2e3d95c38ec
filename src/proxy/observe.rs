//! Counters and access line: one call for each finished request.

use crate::clock;
use crate::http1::head::RequestLine;
use crate::http1::rewrite::Authority;
use crate::model::ListenerSpec;
use crate::proxy::state::Worker;
use crate::telemetry::AccessRecord;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What the access log needs of a request; made only when the log is on.
#[derive(Debug)]
pub(crate) struct Access {
    method: String,
    host: String,
    path: String,
    request_id: String,
}

impl Access {
    pub(crate) fn new(line: &RequestLine<'_>, authority: &Authority<'_>, id: &[u8]) -> Self {
        // Queries carry tokens and personal data: they are not logged.
        let path = authority.target.split_once('?').map_or(authority.target, |(path, _)| path);
        let path = if path.is_empty() { "/" } else { path };
        Self {
            method: line.method.to_owned(),
            host: String::from_utf8_lossy(authority.host).into_owned(),
            path: path.to_owned(),
            request_id: String::from_utf8_lossy(id).into_owned(),
        }
    }
}

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    /// Slot of its service.
    pub(crate) slot: usize,
    pub(crate) peer: IpAddr,
    /// Octets of its body that came.
    pub(crate) received_bytes: u64,
    pub(crate) access: Option<&'a Access>,
    /// 0: the client got no status.
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) attempts: u8,
    pub(crate) sent_bytes: u64,
    pub(crate) duration: Duration,
    /// Time in service: from the pick to the end of the answer; `None` for tunnels, and where no endpoint answered well.
    pub(crate) service: Option<Duration>,
    pub(crate) first_byte: Duration,
    pub(crate) endpoint: Option<SocketAddr>,
}

/// What streams to an address of no service are told and counted by, where others have their service's name.
pub(crate) const ORIGINAL: &str = "(original)";

/// How a TCP stream ended.
#[derive(Debug)]
pub(crate) struct StreamSummary {
    pub(crate) started: Instant,
    /// When there was a connection to an endpoint.
    pub(crate) connected: Instant,
    pub(crate) endpoint: Option<SocketAddr>,
    /// Empty: both sides closed.
    pub(crate) reason: &'static str,
    pub(crate) attempts: u8,
    pub(crate) sent_bytes: u64,
    pub(crate) received_bytes: u64,
}

/// Writes the access line of a TCP stream; its octets were counted while it ran.
pub(crate) fn record_stream(
    worker: &Worker,
    (listener, service): (&ListenerSpec, &str),
    peer: IpAddr,
    summary: &StreamSummary,
) {
    let Some(log) = &worker.access else { return };
    let since = |at: Instant| us(at.saturating_duration_since(summary.started));
    log.record(AccessRecord {
        client: peer,
        request_id: String::new(),
        method: if listener.protocol.is_udp() { "UDP".to_owned() } else { "TCP".to_owned() },
        host: listener.name.to_string(),
        path: String::new(),
        service: service.to_owned(),
        endpoint: summary.endpoint,
        status: 0,
        reason: summary.reason,
        sent_bytes: summary.sent_bytes,
        received_bytes: summary.received_bytes,
        duration_us: since(clock::now()),
        first_byte_us: since(summary.connected),
        attempts: summary.attempts,
    });
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Counts a finished request and writes its access line.
pub(crate) fn record(worker: &Worker, summary: &Summary<'_>) {
    let mut locals = worker.locals.borrow_mut();
    let local = locals.at(summary.slot);
    if let Some(local) = &local {
        local.counters.finished(summary.status, us(summary.duration));
        local.counters.sent_bytes.add(summary.sent_bytes);
        local.counters.received_bytes.add(summary.received_bytes);
        if let Some(latency) = local.service.spec.scaled_by() {
            match summary.service {
                Some(service) => local.counters.served(us(service), us(summary.duration), us(latency)),
                None if summary.attempts == 0 => local.counters.unserved(),
                None => {}
            }
        }
    }
    let (Some(log), Some(access)) = (&worker.access, summary.access) else { return };
    log.record(AccessRecord {
        client: summary.peer,
        request_id: access.request_id.clone(),
        method: access.method.clone(),
        host: access.host.clone(),
        path: access.path.clone(),
        service: local.map(|l| l.service.name().as_str().to_owned()).unwrap_or_default(),
        endpoint: summary.endpoint,
        status: summary.status,
        reason: summary.reason,
        sent_bytes: summary.sent_bytes,
        received_bytes: summary.received_bytes,
        duration_us: us(summary.duration),
        first_byte_us: us(summary.first_byte),
        attempts: summary.attempts,
    });
}
