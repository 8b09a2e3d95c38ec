//! What can go wrong with a request, and what the client is told.
//!
//! Status, reason code and retry rule are total functions of the kind. Built without formatting.

use crate::balance::Failure;
use crate::http1::reject::Reject;

/// A failed request; closed, so that every consequence is decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyError {
    /// The client's message is refused.
    Refused(Reject),
    /// The client was too slow with its head.
    HeadTimeout,
    /// Heads that have not come whole hold too much memory, and this one more than its share.
    HeadMemory,
    /// The memory budget is used up.
    Memory,
    /// The client was too slow with its body.
    BodyTimeout,
    /// The client closed or reset its connection.
    ClientGone,
    /// The client does not read its response.
    ClientStalled,
    /// The host is not the one that the TLS connection is for.
    Misdirected,
    /// The listener takes requests only to send them to https.
    HttpsRequired,
    /// No error: an authority's challenge, which Weir answers itself.
    AcmeChallenge,
    /// No route matches.
    NoRoute,
    /// The route's service does not exist any more.
    NoService,
    /// The service has no endpoint.
    NoEndpoint,
    /// The service has no endpoint, and nobody wants replicas of it.
    ServiceOff,
    /// The service had no replica, and none served in time.
    WakeTimeout,
    /// Every endpoint was tried.
    Exhausted,
    /// The wait queue is full.
    QueueFull,
    /// The service has as many streams and flows as it may.
    StreamsFull,
    /// No replica became free in time.
    QueueTimeout,
    /// No connection to any endpoint can be made now: this machine has no descriptors, ports or memory left.
    LocalLimit,
    /// No connection to the endpoint: refused, unreachable.
    Connect,
    /// No connection to the endpoint in time.
    ConnectTimeout,
    /// The endpoint's TLS failed: its certificate, or the handshake.
    UpstreamTls,
    /// What TLS towards the endpoints needs cannot be read.
    TlsUnavailable,
    /// The endpoint closed or reset the connection before its response.
    Reset,
    /// The endpoint did nothing with the request: it refused the stream, or is going away.
    StreamRefused,
    /// The endpoint speaks HTTP/2 and allows no WebSocket over it.
    NoWebsocket,
    /// The endpoint did not answer in time.
    ResponseTimeout,
    /// The time limit that a gRPC call brought along passed.
    CallTimeout,
    /// The time that the service gives a request passed.
    RequestTimeout,
    /// The endpoint's response is malformed.
    BadResponse(Reject),
    /// The endpoint's response ended early or stalled.
    Truncated,
    /// The endpoint answered 502, 503 or 504, and another may do better.
    GatewayStatus(u16),
}

/// When another attempt is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Nothing was sent: always.
    Safe,
    /// The endpoint may have seen it: only idempotent methods (RFC 9110 §9.2.2).
    IfIdempotent,
    /// No.
    Never,
}

impl ProxyError {
    /// Returns the status that the client is answered; 0 when nobody is there to answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Refused(reject) => reject.status(),
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::ClientGone | Self::ClientStalled => 0,
            Self::Misdirected => 421,
            Self::HttpsRequired => 308,
            Self::AcmeChallenge => 200,
            Self::NoRoute => 404,
            Self::NoService
            | Self::NoEndpoint
            | Self::ServiceOff
            | Self::WakeTimeout
            | Self::QueueFull
            | Self::StreamsFull
            | Self::QueueTimeout
            | Self::LocalLimit
            | Self::HeadMemory
            | Self::Memory => 503,
            Self::Exhausted
            | Self::Connect
            | Self::Reset
            | Self::StreamRefused
            | Self::BadResponse(_)
            | Self::UpstreamTls
            | Self::Truncated => 502,
            Self::TlsUnavailable => 503,
            Self::NoWebsocket => 501,
            Self::GatewayStatus(status) => status,
            Self::ConnectTimeout | Self::ResponseTimeout | Self::CallTimeout | Self::RequestTimeout => 504,
        }
    }

    /// Returns the reason code for the `weir-reason` header, logs and metrics; a closed list.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Refused(reject) => reject.reason(),
            Self::HeadTimeout => "head_timeout",
            Self::HeadMemory => "head_memory",
            Self::Memory => "memory",
            Self::BodyTimeout => "body_timeout",
            Self::ClientGone => "client_gone",
            Self::ClientStalled => "client_stalled",
            Self::Misdirected => "misdirected",
            Self::HttpsRequired => "https_required",
            Self::AcmeChallenge => "acme_challenge",
            Self::NoRoute => "no_route",
            Self::NoService => "no_service",
            Self::NoEndpoint => "no_endpoint",
            Self::ServiceOff => "service_off",
            Self::WakeTimeout => "wake_timeout",
            Self::Exhausted => "endpoints_exhausted",
            Self::QueueFull => "queue_full",
            Self::StreamsFull => "streams_full",
            Self::QueueTimeout => "queue_timeout",
            Self::LocalLimit => "local_limit",
            Self::Connect => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTls => "upstream_tls",
            Self::TlsUnavailable => "tls_unavailable",
            Self::Reset => "upstream_reset",
            Self::StreamRefused => "stream_refused",
            Self::NoWebsocket => "no_websocket",
            Self::ResponseTimeout => "response_timeout",
            Self::CallTimeout => "grpc_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::BadResponse(_) => "bad_response",
            Self::Truncated => "truncated",
            Self::GatewayStatus(_) => "gateway_status",
        }
    }

    /// Returns what the client reads in the body: what happened and what to do.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Refused(_) => "the request was refused; the weir-reason header says why",
            Self::HeadTimeout => "the request head did not arrive in time",
            Self::HeadMemory => "too many request heads come in pieces; send the head at once, or try again",
            Self::Memory => "the load balancer is out of memory; try again",
            Self::BodyTimeout => "the request body did not arrive in time",
            Self::ClientGone | Self::ClientStalled => "the client went away",
            Self::Misdirected => "this connection was opened for another host: open one for this host",
            Self::HttpsRequired => "ask for the same under https",
            Self::AcmeChallenge => "",
            Self::NoRoute => "no route matches this host and path",
            Self::NoService => "the service of this route does not exist",
            Self::NoEndpoint => "the service has no ready endpoint; try again",
            Self::ServiceOff => "the service is scaled to 0",
            Self::WakeTimeout => "the service had no replica, and none was ready in time; try again",
            Self::Exhausted => "every endpoint of the service failed; try again",
            Self::StreamsFull => "the service has as many streams as it may",
            Self::QueueFull => "the service is saturated and its queue is full; try again",
            Self::QueueTimeout => "the service is saturated; try again",
            Self::LocalLimit => "the load balancer is out of connections; try again",
            Self::Connect => "the endpoint could not be reached",
            Self::ConnectTimeout => "the endpoint could not be reached in time",
            Self::UpstreamTls => "no TLS connection to the endpoint could be made",
            Self::TlsUnavailable => "the load balancer cannot speak TLS to the endpoints now",
            Self::Reset => "the endpoint closed the connection before it answered",
            Self::StreamRefused => "the endpoint refused the request; try again",
            Self::NoWebsocket => "the endpoint takes no WebSocket over HTTP/2",
            Self::ResponseTimeout => "the endpoint did not answer in time",
            Self::CallTimeout => "the endpoint did not answer within the time limit of the call",
            Self::RequestTimeout => "the request took longer than the service allows",
            Self::BadResponse(_) => "the endpoint's response was malformed",
            Self::Truncated => "the endpoint's response ended early",
            Self::GatewayStatus(_) => "the endpoint answered with a gateway error",
        }
    }

    /// Returns when another attempt is safe.
    pub(crate) fn retry(self) -> Retry {
        match self {
            Self::Connect | Self::ConnectTimeout | Self::UpstreamTls | Self::StreamRefused => Retry::Safe,
            Self::Reset | Self::GatewayStatus(_) | Self::BadResponse(_) => Retry::IfIdempotent,
            _ => Retry::Never,
        }
    }

    /// Returns what it says about the endpoint; `None`: nothing.
    pub(crate) fn failure(self) -> Option<Failure> {
        match self {
            Self::Connect
            | Self::ConnectTimeout
            | Self::UpstreamTls
            | Self::Reset
            | Self::BadResponse(_)
            | Self::Truncated => Some(Failure::Transport),
            Self::ResponseTimeout | Self::GatewayStatus(_) => Some(Failure::Gateway),
            _ => None,
        }
    }

    /// Returns whether the connection's framing is lost, so that it must be closed.
    pub(crate) fn closes(self) -> bool {
        matches!(self, Self::Refused(_) | Self::HeadTimeout | Self::BodyTimeout)
    }
}

/// Returns the reason phrase of a status that Weir itself sends (RFC 9110 §15).
pub(crate) fn phrase(status: u16) -> &'static str {
    match status {
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}
