//! Typed options of the data plane, with their defaults and why.

use crate::proxy::patience::Pace;
use crate::proxy::timer::ms;
use std::time::Duration;

/// Options of the proxy: workers, limits and time limits that hold for every listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Worker threads; `None`: the CPUs that the process may use.
    pub workers: Option<usize>,
    /// Whether workers are pinned to CPUs; `None`: with four CPUs or more.
    pub pin: Option<bool>,
    /// Bounds on what a client may send or hold.
    pub limits: Limits,
    /// Bounds on HTTP/2 connections of clients.
    pub http2: Http2Options,
    /// Time limits towards clients.
    pub timeouts: Timeouts,
    /// Idle connections kept to one endpoint by one worker. 512: above the concurrency of a busy worker.
    pub max_idle_per_endpoint: usize,
    /// An idle upstream connection is closed after this: below the 5 s keepalive of common servers.
    pub pool_idle: Duration,
}

/// Bounds on what a client may send or hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one worker; further ones wait in the accept queue.
    pub connections: usize,
    /// Octets of a request or response head, request line included; above: 431.
    pub head_bytes: usize,
    /// Header fields of a head; above: 431.
    pub header_fields: usize,
    /// Octets that heads which have not come whole may hold on one worker together; beyond, the largest: 503.
    pub partial_heads_bytes: usize,
    /// Octets of the request target; above: 414.
    pub uri_bytes: usize,
    /// Octets of a request body; above: 413. `None`: no bound.
    pub body_bytes: Option<u64>,
    /// Octets of a request body that are kept for a retry.
    pub retry_body_bytes: usize,
    /// Resident octets of the process: from 95 % new connections are reset, from 98 % requests are answered 503. `None`: the
    /// limit of the control group that the process is in, if it has one.
    pub memory_bytes: Option<u64>,
    /// TLS handshakes that one worker does at a time; above, the oldest is given up. 1024: some 30 MiB.
    pub handshakes: usize,
}

/// Bounds on one HTTP/2 connection of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams open at once; above: REFUSED_STREAM.
    pub streams: u32,
    /// Octets of one request's body that are taken before the endpoint takes them.
    pub stream_window: u32,
    /// As `stream_window`, for all streams together.
    pub connection_window: u32,
    /// Streams in ten seconds that the client resets before they are answered, or makes us reset or refuse; above, or where
    /// they are more than half of more than twice as many streams: ENHANCE_YOUR_CALM.
    pub resets: u32,
    /// Control frames in ten seconds that move nothing forward; above: ENHANCE_YOUR_CALM.
    pub control_frames: u32,
    /// CONTINUATION frames of one head; above: ENHANCE_YOUR_CALM.
    pub continuations: u32,
}

/// Time limits towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Whole TLS handshake; above: closed. 5 s: four round trips by satellite.
    pub handshake: Duration,
    /// Whole request head, from its first byte; above: 408.
    pub head: Duration,
    /// Idle keepalive connection.
    pub keepalive: Duration,
    /// Pause inside a request body.
    pub body_idle: Duration,
    /// After a grace of 5 s a request body must move at least this many bytes a second.
    pub body_min_bytes_per_second: u64,
    /// While there is more of an answer than the client has taken, it must keep the pace within each such time. 10 s: what
    /// holds an answer back holds an endpoint.
    pub answer_window: Duration,
    /// That pace; 0: anything at all.
    pub answer_min_bytes_per_second: u64,
    /// After the drain began, idle connections are closed after this.
    pub drain_idle: Duration,
    /// After the drain began, what still runs is reset after this.
    pub drain: Duration,
}

impl Timeouts {
    /// Returns the pace at which a client takes an answer at least.
    pub(crate) fn answer_pace(&self) -> Pace {
        Pace::new(ms(self.answer_window), self.answer_min_bytes_per_second)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: None,
            pin: None,
            limits: Limits::default(),
            http2: Http2Options::default(),
            timeouts: Timeouts::default(),
            max_idle_per_endpoint: 512,
            pool_idle: Duration::from_secs(4),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            head_bytes: 64 * 1024,
            header_fields: 128,
            partial_heads_bytes: 64 << 20,
            uri_bytes: 16 * 1024,
            body_bytes: None,
            retry_body_bytes: 64 * 1024,
            memory_bytes: None,
            handshakes: 1024,
        }
    }
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            streams: 100,
            stream_window: 64 * 1024,
            connection_window: 256 * 1024,
            resets: 100,
            control_frames: 1000,
            continuations: 8,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            keepalive: Duration::from_secs(60),
            body_idle: Duration::from_secs(30),
            body_min_bytes_per_second: 256,
            answer_window: Duration::from_secs(10),
            answer_min_bytes_per_second: 1024,
            drain_idle: Duration::from_secs(2),
            drain: Duration::from_secs(30),
        }
    }
}
