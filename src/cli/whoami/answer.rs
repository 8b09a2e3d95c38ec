//! One request of the test backend: from its head to its answer.

use crate::cli::whoami::args::{Crash, Failure, WhoamiArgs};
use crate::cli::whoami::body::{Reply, TRAILER};
use crate::cli::whoami::websocket;
use crate::lifecycle::Signal;
use crate::{clock, rng::Rng};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRAILER as TRAILER_NAMES};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Names the request; copied to the answer so that a client can match the two.
const REQUEST_TAG: HeaderName = HeaderName::from_static("x-request-tag");
/// Number of the execution of a POST, counted from 1 in each process.
const EXECUTION: HeaderName = HeaderName::from_static("x-execution");
/// The instance that answered.
const INSTANCE: HeaderName = HeaderName::from_static("x-instance");
/// Fields that proxies add; shown in the text beside every `x-forwarded-*`.
const FORWARDING: [&str; 5] = ["forwarded", "via", "x-request-id", "x-real-ip", "traceparent"];
/// Longest `/delay/MS`: an hour, so that a typing error does not hold a connection for ever.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// What all connections share.
#[derive(Debug)]
pub(super) struct State {
    /// The flags.
    args: WhoamiArgs,
    /// Instance id: `WEIR_INSTANCE`, else host name and process id.
    instance: HeaderValue,
    /// Service name: `WEIR_SERVICE`, else `-`.
    service: String,
    /// When the server began to listen, for `--slow-start`.
    started_ms: u64,
    /// Answers given, but health checks, for `--crash-after` and the dice of `--fail`.
    requests: AtomicU64,
    /// POSTs executed.
    executions: AtomicU64,
    /// Where POSTs are written down.
    journal: Option<File>,
    /// Told when the process is to crash.
    crash: Notify,
    /// Tells tunnels of the drain and counts them.
    drain: Signal,
}

impl State {
    /// Opens the journal and notes who this is.
    ///
    /// # Errors
    /// When the journal cannot be opened for appending.
    pub(super) fn open(args: WhoamiArgs, instance: &str, service: String, drain: Signal) -> io::Result<Self> {
        let open = |path| File::options().create(true).append(true).open(path);
        Ok(Self {
            journal: args.journal.as_ref().map(open).transpose()?,
            args,
            instance: HeaderValue::from_str(instance).unwrap_or_else(|_| HeaderValue::from_static("-")),
            service,
            started_ms: clock::now_ms(),
            requests: AtomicU64::new(0),
            executions: AtomicU64::new(0),
            crash: Notify::new(),
            drain,
        })
    }

    /// Waits until a request or the time of `--crash-after` ends the process.
    pub(super) async fn crashed(&self) {
        match self.args.crash_after {
            Some(Crash::Time(after)) => tokio::time::sleep(after).await,
            Some(Crash::Requests(_)) | None => self.crash.notified().await,
        }
    }

    /// Returns the signal that connections end by.
    pub(super) fn drain(&self) -> &Signal {
        &self.drain
    }

    fn instance(&self) -> &str {
        self.instance.to_str().unwrap_or("-")
    }

    /// Counts a POST and writes it down before anything else happens to it.
    fn execute(&self, tag: Option<&HeaderValue>) -> u64 {
        let number = self.executions.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(mut journal) = self.journal.as_ref() {
            let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or("-");
            // One write with O_APPEND: lines of several replicas in one file do not mix. A full disk shows as a missing line.
            let _ = journal.write_all(format!("{tag} {} {number}\n", self.instance()).as_bytes());
        }
        number
    }

    /// Returns the status that `--fail` forces on request `number`.
    fn failure(&self, number: u64) -> Option<StatusCode> {
        match self.args.fail? {
            Failure::Status(status) => StatusCode::from_u16(status).ok(),
            Failure::Rate(rate) => (Rng::from_seed(number).unit() < rate).then_some(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn is_warm(&self) -> bool {
        let slow_start = self.args.slow_start.unwrap_or_default();
        Duration::from_millis(clock::now_ms() - self.started_ms) >= slow_start
    }
}

/// Answers one request.
///
/// # Errors
/// When the request's body breaks off.
pub(super) async fn answer(
    state: Arc<State>,
    remote: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Reply>, hyper::Error> {
    let tag = request.headers().get(REQUEST_TAG).cloned();
    let execution = (request.method() == Method::POST).then(|| state.execute(tag.as_ref()));
    let mut response = if request.uri().path() == "/health" {
        health(&state)
    } else {
        let number = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(Crash::Requests(most)) = state.args.crash_after
            && number > most
        {
            state.crash.notify_one();
            std::future::pending::<()>().await;
        }
        if !state.args.delay.is_zero() {
            tokio::time::sleep(state.args.delay).await;
        }
        match state.failure(number) {
            Some(status) => {
                drain_body(request.into_body()).await?;
                plain(status, format!("failed as asked: {status}\n"))
            }
            None => route(&state, remote, request).await?,
        }
    };
    let headers = response.headers_mut();
    headers.insert(INSTANCE, state.instance.clone());
    if let Some(tag) = tag {
        headers.insert(REQUEST_TAG, tag);
    }
    if let Some(number) = execution {
        headers.insert(EXECUTION, HeaderValue::from(number));
    }
    Ok(response)
}

/// Chooses the answer by the path's first segment.
async fn route(state: &State, remote: SocketAddr, request: Request<Incoming>) -> Result<Response<Reply>, hyper::Error> {
    let path = request.uri().path();
    let (name, argument) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = argument.parse::<u64>().ok();
    match (name, number) {
        ("echo", _) => return Ok(echo(request)),
        ("ws", _) => return Ok(websocket::upgrade(request, state.drain.clone())),
        ("bytes" | "chunked" | "delay" | "status", None) => {
            let text = format!("{name} needs a number: /{name}/N\n");
            drain_body(request.into_body()).await?;
            return Ok(plain(StatusCode::BAD_REQUEST, text));
        }
        ("bytes", Some(length)) => {
            drain_body(request.into_body()).await?;
            return Ok(pattern(length));
        }
        ("chunked", Some(length)) => {
            drain_body(request.into_body()).await?;
            return Ok(chunked(length));
        }
        ("status", Some(code)) => {
            drain_body(request.into_body()).await?;
            return Ok(status(code));
        }
        ("delay", Some(ms)) => tokio::time::sleep(Duration::from_millis(ms).min(MAX_DELAY)).await,
        _ => {}
    }
    let (head, body) = request.into_parts();
    let body_bytes = drain_body(body).await?;
    Ok(plain(StatusCode::OK, describe(state, remote, &head, body_bytes)))
}

/// Reads the body to its end and returns its length in bytes.
async fn drain_body(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(length)
}

/// Writes the text that gave the command its name.
fn describe(state: &State, remote: SocketAddr, head: &http::request::Parts, body_bytes: u64) -> String {
    let mut text = String::with_capacity(512);
    let host = head.headers.get(HOST).map_or("-".into(), |host| String::from_utf8_lossy(host.as_bytes()));
    // A socket of both families writes IPv4 as IPv6.
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path(), |target| target.as_str());
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "Instance: {}\nService: {}\nPid: {}\nMethod: {}\nPath: {target}\nHost: {host}\nRemote: {remote}\nBody: {body_bytes} bytes\n",
        state.instance(),
        state.service,
        std::process::id(),
        head.method,
    );
    for (name, value) in &head.headers {
        if name.as_str().starts_with("x-forwarded-") || FORWARDING.contains(&name.as_str()) {
            let _ = writeln!(text, "Header: {name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
    }
    text
}

fn health(state: &State) -> Response<Reply> {
    if state.is_warm() { plain(StatusCode::OK, "ok\n") } else { plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n") }
}

fn echo(request: Request<Incoming>) -> Response<Reply> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Reply::Echo(body));
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response
}

fn pattern(length: u64) -> Response<Reply> {
    let mut response = Response::new(Reply::Pattern(length));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn chunked(length: u64) -> Response<Reply> {
    let mut response = Response::new(Reply::Chunked { left: length, total: Some(length) });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // hyper sends only trailers that are announced (RFC 9110 §6.6.2).
    response.headers_mut().insert(TRAILER_NAMES, HeaderValue::from(TRAILER));
    response
}

fn status(code: u64) -> Response<Reply> {
    let known = u16::try_from(code).ok().filter(|code| (200..=599).contains(code));
    match known.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(code @ (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)) => {
            let mut response = Response::new(Reply::empty());
            *response.status_mut() = code;
            response
        }
        Some(code) => plain(code, format!("{code}\n")),
        None => plain(StatusCode::BAD_REQUEST, "write a status 200..599: /status/N\n"),
    }
}

/// Returns a text answer.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(Reply::Text(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
