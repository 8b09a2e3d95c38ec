//! Connections to HTTP/2 endpoints: multiplexed, and for each request a layer that takes it as HTTP/1.1 octets and gives
//! the answer back as such.

use crate::http1::framing::{self, Framing};
use crate::http1::head::{self as head1, Fields, Kind};
use crate::net::{Layer, Stream, Unserved};
use crate::proxy::http2::pulse::{Beat, Ear, Listening, Pulse, Signs};
use crate::proxy::http2::reply;
use crate::proxy::http2::sink::Sink;
use crate::proxy::http2::source::{Source, lost};
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Response;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Streams on one connection; endpoints may allow less.
const MAX_STREAMS: usize = 100;
/// What an endpoint may send of one answer before the client takes it.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all answers of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What one request may have waiting for the socket.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What the requests on one connection share.
struct Shared {
    active: Cell<usize>,
    /// It takes no further request.
    over: Cell<bool>,
    /// Since when nothing is active.
    idle_since_ms: Cell<u64>,
    ear: Rc<Ear>,
    /// A part of an answer came since it was looked at.
    answered: Cell<bool>,
    /// The endpoint is gone without a word: the connection ends.
    dead: Cell<bool>,
    /// Wakes who drives the connection.
    driver: RefCell<Option<Waker>>,
    limits: head1::Limits,
    /// Whether TLS is below.
    scheme: &'static str,
    fields: RefCell<Fields>,
}

/// A connection to an endpoint.
pub(crate) struct Multiplexed {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
    pulse: RefCell<Life>,
}

/// What is known of the life at the other end.
struct Life {
    pulse: Pulse,
    pings: Option<PingPong>,
}

/// Begins HTTP/2 on a socket, by prior knowledge, or inside of TLS, and drives it in a task of its own until its last request
/// has ended. `quiet_ms`: silence after which the endpoint is asked by PING, and as long again after which it is dead; 0: never.
///
/// # Errors
/// When the stream takes nothing.
pub(crate) async fn begin(stream: Stream, limits: head1::Limits, quiet_ms: u64) -> io::Result<Multiplexed> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES);
    let scheme = if stream.buffers() { "https" } else { "http" };
    let ear = Rc::new(Ear::default());
    let stream = Listening::new(stream, ear.clone());
    let (send, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| lost(&error))?;
    let pings = connection.ping_pong();
    let limits = head1::Limits {
        // What is written here was bounded when it was read.
        head_bytes: limits.head_bytes + 16 * 1024,
        fields: limits.fields + 32,
        target_bytes: limits.target_bytes,
    };
    let shared = Rc::new(Shared {
        active: Cell::new(0),
        over: Cell::new(false),
        idle_since_ms: Cell::new(0),
        ear,
        answered: Cell::new(false),
        dead: Cell::new(false),
        driver: RefCell::default(),
        limits,
        scheme,
        fields: RefCell::default(),
    });
    let driven = shared.clone();
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| {
            if driven.dead.get() {
                return Poll::Ready(Ok(()));
            }
            driven.driver.replace(Some(cx.waker().clone()));
            Pin::new(&mut connection).poll(cx)
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "HTTP/2 connection to an endpoint ended");
        }
        driven.over.set(true);
        driven.ear.wake();
        // Requests that are still on it hear of it.
        drop(connection);
    });
    Ok(Multiplexed { send, shared, pulse: RefCell::new(Life { pulse: Pulse::new(quiet_ms), pings }) })
}

impl Multiplexed {
    /// Returns a stream for one request; `None`: there is no room for it.
    pub(crate) fn open(&self) -> Option<Stream> {
        // An endpoint that has said GOAWAY takes no more here.
        let leaves = || self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(_)) = leaves() {
            self.shared.over.set(true);
        }
        let room = self.shared.active.get() < MAX_STREAMS.min(self.send.current_max_send_streams());
        if self.shared.over.get() || !room {
            return None;
        }
        self.shared.active.set(self.shared.active.get() + 1);
        let call = Call {
            send: self.send.clone(),
            shared: self.shared.clone(),
            stage: Stage::Unsent,
            is_head: false,
            bodily: false,
            partial: Vec::new(),
            source: Source::default(),
            sink: Sink::default(),
            tunnel: None,
            unserved: None,
            number: 0,
        };
        Some(Stream::Layered(Box::new(call)))
    }

    /// Returns whether it may be kept: alive, and idle no longer than `idle_ms`. Asks an endpoint that is silent.
    pub(crate) fn stays(&self, idle_ms: u64, now_ms: u64) -> bool {
        if self.shared.active.get() > 0 {
            self.shared.idle_since_ms.set(0);
        } else if self.shared.idle_since_ms.get() == 0 {
            self.shared.idle_since_ms.set(now_ms);
        }
        self.listen(now_ms);
        let since = self.shared.idle_since_ms.get();
        !self.shared.over.get() && (since == 0 || now_ms <= since + idle_ms)
    }
}

impl Multiplexed {
    /// Looks whether the endpoint lives; where it does not, the connection ends, and with it every request on it.
    fn listen(&self, now_ms: u64) {
        let Life { pulse, pings } = &mut *self.pulse.borrow_mut();
        let Some(pings) = pings else { return };
        // Takes the answer, so that it can be asked again.
        let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
        let answered = self.shared.answered.take();
        let signs = Signs { heard: self.shared.ear.heard.take(), answered, waits: self.shared.active.get() > 0 };
        match pulse.look(now_ms, signs) {
            Beat::Nothing => {}
            // It fails where the connection is over.
            Beat::Ping => drop(pings.send_ping(Ping::opaque())),
            Beat::Dead => {
                tracing::debug!("an HTTP/2 endpoint answers no PING: its connection is given up");
                self.shared.dead.set(true);
                self.shared.over.set(true);
                if let Some(driver) = self.shared.driver.take() {
                    driver.wake();
                }
            }
        }
    }
}

impl fmt::Debug for Multiplexed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multiplexed")
            .field("active", &self.shared.active)
            .field("over", &self.shared.over)
            .finish_non_exhaustive()
    }
}

enum Stage {
    /// The request's head has not come whole.
    Unsent,
    /// The answer has not begun.
    Asked(ResponseFuture),
    Answering,
    Failed,
}

/// One request on a connection.
struct Call {
    send: SendRequest<Bytes>,
    shared: Rc<Shared>,
    stage: Stage,
    is_head: bool,
    /// The answer's head was not the last on its stream: a block that is its last has trailers.
    bodily: bool,
    /// A request's head that came in pieces.
    partial: Vec<u8>,
    source: Source,
    sink: Sink,
    /// For a WebSocket: what proves to its client that the key was read.
    tunnel: Option<String>,
    /// Why the endpoint certainly did nothing with it.
    unserved: Option<Unserved>,
    /// The stream that it is on; 0: none yet.
    number: u32,
}

impl Call {
    /// Fails where a head or trailers on the stream must not be passed on (RFC 9113 §8.1.1).
    fn check(&self) -> io::Result<()> {
        let ear = &self.shared.ear;
        let trailers = self.bodily && ear.ended_with_status(self.number);
        if ear.is_malformed(self.number) || trailers { Err(broken()) } else { Ok(()) }
    }

    /// Takes octets of the request's head; returns how many.
    fn poll_head(&mut self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        if let Err(error) = ready!(self.send.poll_ready(cx)) {
            return Poll::Ready(Err(self.unsent(&error)));
        }
        let before = self.partial.len();
        self.partial.extend_from_slice(octets);
        let shared = self.shared.clone();
        let mut fields = shared.fields.borrow_mut();
        let parsed = head1::parse_request(&self.partial, &shared.limits, &mut fields).map_err(|_| broken())?;
        let Some(line) = parsed else { return Poll::Ready(Ok(octets.len())) };
        let (len, bytes) = (line.len, self.partial.get(..line.len).unwrap_or_default());
        let framing = framing::request_body(bytes, &fields, line.version).map_err(|_| broken())?;
        self.is_head = line.method == "HEAD";
        // It is there only where a WebSocket is asked for.
        let tunnel = fields.has(Kind::Upgrade);
        if tunnel && !self.send.is_extended_connect_protocol_enabled() {
            if shared.ear.poll_settled(cx).is_pending() {
                self.partial.truncate(before);
                return Poll::Pending;
            }
            self.unserved = Some(Unserved::NoTunnel);
            self.stage = Stage::Failed;
            return Poll::Ready(Err(ErrorKind::Unsupported.into()));
        }
        let translate = if tunnel { reply::tunnel } else { reply::request };
        let request = translate(bytes, &line, &fields, shared.scheme).ok_or_else(broken)?;
        self.tunnel = tunnel.then(|| reply::proof(bytes, &fields));
        let ends = !tunnel && matches!(framing, Framing::None | Framing::Length(0));
        match self.send.send_request(request, ends) {
            Ok((answer, stream)) => {
                // A tunnel ends where its octets end.
                self.sink.begin(stream, if tunnel { Framing::Close } else { framing });
                self.number = answer.stream_id().into();
                shared.ear.expect(self.number);
                self.stage = Stage::Asked(answer);
                self.partial = Vec::new();
                Poll::Ready(Ok(len.saturating_sub(before)))
            }
            Err(error) => Poll::Ready(Err(self.unsent(&error))),
        }
    }

    /// The connection takes no request: another one will.
    fn unsent(&mut self, error: &h2::Error) -> io::Error {
        self.shared.over.set(true);
        self.unserved = Some(Unserved::Refused);
        self.stage = Stage::Failed;
        lost(error)
    }

    /// Waits for the answer's head, interim ones first.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stage::Asked(answer) = &mut self.stage else { return Poll::Ready(Ok(())) };
        if let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            self.check()?;
            let into = self.source.begin();
            return Poll::Ready(reply::write_answer(&parts, true, true, into).map(|_| ()).map_err(|_| broken()));
        }
        match ready!(Pin::new(answer).poll(cx)) {
            Ok(answer) => Poll::Ready(self.answered(answer)),
            Err(error) => {
                self.unserved = was_refused(&error).then_some(Unserved::Refused);
                self.stage = Stage::Failed;
                // What the codec itself objects to is a malformed answer.
                Poll::Ready(Err(if error.is_library() { broken() } else { lost(&error) }))
            }
        }
    }

    fn answered(&mut self, answer: Response<RecvStream>) -> io::Result<()> {
        self.check()?;
        let (parts, body) = answer.into_parts();
        self.bodily = !body.is_end_stream();
        let into = self.source.begin();
        if let Some(proof) = self.tunnel.as_deref().filter(|_| parts.status.is_success()) {
            reply::write_switch(&parts, proof, into).map_err(|_| broken())?;
            self.source.follow(body, false);
            self.stage = Stage::Answering;
            return Ok(());
        }
        let chunked = reply::write_answer(&parts, body.is_end_stream(), self.is_head, into).map_err(|_| broken())?;
        self.source.follow(body, chunked);
        self.stage = Stage::Answering;
        Ok(())
    }
}

/// REFUSED_STREAM, and GOAWAY for streams behind its last, whatever its reason, say that nothing was done (RFC 9113 §8.7).
/// Streams up to the last one never meet GOAWAY as their error: they go on, or are lost with the connection.
fn was_refused(error: &h2::Error) -> bool {
    let reset = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || reset)
}

impl AsyncRead for Call {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What waits for flow control goes on; where it fails the answer says more.
        let _ = this.sink.poll_flush(cx);
        loop {
            match this.stage {
                Stage::Unsent => return Poll::Pending,
                Stage::Failed => return Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
                Stage::Answering => {
                    this.check()?;
                    let read = this.source.poll_read(cx, into);
                    if read.is_ready() {
                        this.shared.answered.set(true);
                    }
                    return read;
                }
                Stage::Asked(_) => {
                    ready!(this.poll_answer(cx))?;
                    this.shared.answered.set(true);
                    if matches!(this.stage, Stage::Asked(_)) {
                        this.source.put_ready(into);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Call {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut taken = 0;
        while let Some(rest) = octets.get(taken..).filter(|rest| !rest.is_empty()) {
            let step = match this.stage {
                Stage::Unsent => this.poll_head(cx, rest),
                Stage::Failed => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
                Stage::Asked(_) | Stage::Answering => this.sink.poll_write(cx, rest),
            };
            match step {
                Poll::Ready(Ok(n)) => taken += n,
                Poll::Ready(Err(_)) if taken > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if taken > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.stage {
            Stage::Unsent | Stage::Failed => Poll::Ready(Ok(())),
            _ => this.sink.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.stage {
            Stage::Unsent | Stage::Failed => Poll::Ready(Ok(())),
            _ => this.sink.poll_end(cx),
        }
    }
}

impl Layer for Call {
    /// A stream carries one request.
    fn is_idle(&mut self) -> bool {
        false
    }

    fn abort_on_close(&mut self) {
        self.sink.reset(Reason::CANCEL);
    }

    fn unserved(&self) -> Option<Unserved> {
        self.unserved
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("is_head", &self.is_head).field("unserved", &self.unserved).finish_non_exhaustive()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.shared.ear.forget(self.number);
        // What did not end is reset by the codec when nothing holds it any more.
        self.shared.active.set(self.shared.active.get() - 1);
    }
}

fn broken() -> io::Error {
    ErrorKind::InvalidData.into()
}
