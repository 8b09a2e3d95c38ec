//! Questions over HTTPS (RFC 8484): GET and POST of `/dns-query`, over HTTP/2 and HTTP/1.1 by hyper.
//!
//! Sizes are looked at before anything is decoded or read; streams of a connection are bounded; a connection on which
//! nothing is asked is closed after the idle time of TCP. An error of DNS is an answer with status 200 (§4.2.1).

use crate::clock;
use crate::dns::responder::{Origin, Responder};
use crate::dnswire::least_ttl;
use crate::lifecycle::{Phase, Signal};
use crate::net::tls::{Accepted, Protocol};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// The path of the service (RFC 8484 §4.1 leaves it to the server; its examples have this one).
const PATH: &str = "/dns-query";
/// The media type of questions and answers, RFC 8484 §6.
const MEDIA_TYPE: &str = "application/dns-message";
/// Longest question in octets, as over UDP and TCP.
const QUESTION_BYTES: usize = 4096;
/// The same in base64url without padding.
const QUESTION_CHARACTERS: usize = QUESTION_BYTES.div_ceil(3) * 4;
/// Streams of one HTTP/2 connection.
const STREAMS: u32 = 100;
/// Octets that wait to be written for one HTTP/2 stream.
const SEND_BYTES: usize = 64 * 1024;
/// Octets of a head, HTTP/1.1's buffer and HTTP/2's list of fields: the longest GET and some fields beside it.
const HEAD_BYTES: usize = 16 * 1024;
/// Wait for a connection to end in order after it was told to.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// What is going on in a connection.
#[derive(Debug)]
struct Activity {
    requests: Cell<usize>,
    last: Cell<std::time::Instant>,
}

#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves one connection until it ends, is idle for too long, or the drain begins.
pub(crate) async fn serve(
    responder: Rc<Responder>,
    accepted: Accepted,
    origin: Origin,
    signal: &mut Signal,
) -> io::Result<()> {
    let idle = responder.settings.load().tcp_idle;
    let activity = Rc::new(Activity { requests: Cell::new(0), last: Cell::new(clock::now()) });
    let seen = activity.clone();
    let service = service_fn(move |request| {
        let (responder, seen) = (responder.clone(), seen.clone());
        async move {
            seen.requests.set(seen.requests.get() + 1);
            let response = respond(&responder, request, origin, idle).await;
            seen.requests.set(seen.requests.get() - 1);
            seen.last.set(clock::now());
            Ok::<_, Infallible>(response)
        }
    });
    let io = TokioIo::new(accepted.stream);
    match accepted.protocol {
        Protocol::Http2 => {
            let mut builder = http2::Builder::new(Local);
            builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_send_buf_size(SEND_BYTES);
            builder.max_header_list_size(HEAD_BYTES as u32);
            watch(builder.serve_connection(io, service), &activity, idle, signal).await
        }
        _ => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEAD_BYTES);
            watch(builder.serve_connection(io, service), &activity, idle, signal).await
        }
    }
}

/// A connection that can be told to end in order.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::Connection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<I, S, Local>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Full<Bytes>>,
    S::Future: 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

async fn watch(connection: impl Graceful, activity: &Activity, idle: Duration, signal: &mut Signal) -> io::Result<()> {
    let mut connection = pin!(connection);
    loop {
        let until = activity.last.get() + idle;
        let over = activity.requests.get() == 0 && clock::now() >= until;
        if over {
            connection.as_mut().end();
            let rest = poll_fn(|context: &mut Context<'_>| connection.as_mut().poll(context));
            return timeout(CLOSE_WAIT, rest).await?.map_err(io::Error::other);
        }
        // A request that is under way is looked at again after the same time.
        let next = if activity.requests.get() == 0 { until } else { clock::now() + idle };
        let ended = tokio::select! {
            ended = poll_fn(|context: &mut Context<'_>| -> Poll<_> { connection.as_mut().poll(context) }) => Some(ended),
            () = sleep_until(Instant::from_std(next)) => None,
            () = signal.reached(Phase::Draining) => return Ok(()),
        };
        if let Some(ended) = ended {
            return ended.map_err(io::Error::other);
        }
    }
}

async fn respond(
    responder: &Responder,
    request: Request<Incoming>,
    origin: Origin,
    wait: Duration,
) -> Response<Full<Bytes>> {
    let message = match question(request, wait).await {
        Ok(message) => message,
        Err(status) => return refusal(status),
    };
    // What is no query has no answer over UDP; here something must come back.
    let Some(answer) = responder.resolve(&message, origin).await else { return refusal(StatusCode::BAD_REQUEST) };
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    // RFC 8484 §5.1: fresh no longer than the record that ends first.
    let fresh = format!("max-age={}", least_ttl(&answer).unwrap_or(0));
    if let Ok(value) = HeaderValue::from_str(&fresh) {
        fields.insert(CACHE_CONTROL, value);
    }
    *response.body_mut() = Full::new(answer.into());
    response
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// Returns the message that a request brings, or the status that turns it down (RFC 8484 §4.1, §4.2.1).
async fn question(request: Request<Incoming>, wait: Duration) -> Result<Vec<u8>, StatusCode> {
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    match *request.method() {
        Method::GET => {
            let text = request.uri().query().and_then(parameter).ok_or(StatusCode::BAD_REQUEST)?;
            if text.len() > QUESTION_CHARACTERS {
                return Err(StatusCode::URI_TOO_LONG);
            }
            decode(text).ok_or(StatusCode::BAD_REQUEST)
        }
        Method::POST => {
            let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let kind = kind.split(';').next().unwrap_or_default().trim();
            if !kind.eq_ignore_ascii_case(MEDIA_TYPE) {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
            let body = Limited::new(request.into_body(), QUESTION_BYTES).collect();
            match timeout(wait, body).await {
                Ok(Ok(body)) => Ok(body.to_bytes().into()),
                Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
                Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
                Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
            }
        }
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Returns the value of `dns` in a query string.
fn parameter(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("dns="))
}

/// Decodes base64url without padding (RFC 4648 §5, RFC 8484 §6).
fn decode(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut count) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xFF) as u8);
        }
    }
    // A lone character has no octet; what is left of the last one must be zero.
    (count < 6 && bits & ((1 << count) - 1) == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::{decode, parameter};

    #[test]
    fn decodes_base64url() {
        assert_eq!(decode("").as_deref(), Some(&[][..]));
        assert_eq!(decode("AAABAAABAAAAAAAA").map(|m| m.len()), Some(12));
        assert_eq!(decode("_-8").as_deref(), Some(&[0xFF, 0xEF][..]));
        for bad in ["A", "AA==", "A+", "A/", "A ", "AB", "AAB"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_the_parameter_among_others() {
        assert_eq!(parameter("a=b&dns=AAA"), Some("AAA"));
        assert_eq!(parameter("dns="), Some(""));
        assert_eq!(parameter("DNS=AAA&xdns=b"), None);
    }
}
