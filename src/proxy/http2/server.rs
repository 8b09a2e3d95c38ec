//! A client's HTTP/2 connection: streams in, lanes for them, bounds, and an end in two steps.

use crate::http1::head as head1;
use crate::net::Stream;
use crate::proxy::http2::head::{self, Unfit};
use crate::proxy::http2::lane::{Hub, Job, Lane, Seat};
use crate::proxy::http2::meter::{Bounds, Breach};
use crate::proxy::http2::wire::{Watch, Wire};
use crate::proxy::timer::{Deadline, Timers};
use crate::telemetry::Shard;
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// After the last stream and GOAWAY, and after a breach, the peer gets so long.
const CLOSE_MS: u64 = 1000;
/// The largest frame that is taken: the least that must be.
const FRAME_BYTES: u32 = 16 * 1024;
/// What one stream may have waiting for the socket.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// What a connection needs of its worker.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) timers: Rc<Timers>,
    pub(crate) shard: Arc<Shard>,
    pub(crate) limits: head1::Limits,
    pub(crate) streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) bounds: Bounds,
    /// Time for the preface and the first request.
    pub(crate) head_ms: u64,
    pub(crate) keepalive_ms: u64,
    /// So long may the peer take nothing of what is to be sent.
    pub(crate) stall_ms: u64,
    pub(crate) drain_idle_ms: u64,
}

/// What only the caller can do.
pub(crate) trait Host {
    /// Serves a lane, in a task of its own.
    fn open(&mut self, lane: Stream);
    /// Returns 128 random bits.
    fn random(&mut self) -> u128;
    /// Returns since when connections end with their next answer.
    fn ending_since(&self) -> Option<u64>;
}

/// Serves a connection to its end. `front` was read already, from the preface on.
pub(crate) async fn serve(terms: Terms, (stream, front): (Stream, Vec<u8>), deadline: Deadline, host: impl Host) {
    let watch = Rc::new(Watch::new(terms.timers.clone(), terms.bounds));
    let wire = Wire::new(stream, front, watch.clone());
    deadline.set(terms.head_ms);
    let mut handshake = pin!(builder(&terms).handshake::<_, Bytes>(wire));
    let connection = poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Pending if deadline.poll_expired(cx) || watch.breach().is_some() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
        Poll::Ready(done) => Poll::Ready(done.ok()),
    })
    .await;
    let Some(connection) = connection else {
        terms.shard.refused("h2_preface");
        return;
    };
    let hub = Rc::new(Hub {
        free: RefCell::default(),
        busy: Cell::new(0),
        closed: Cell::new(false),
        watch: watch.clone(),
        shard: terms.shard.clone(),
        limits: head1::Limits {
            // The request path bounds what it writes; this only must not be less.
            head_bytes: terms.limits.head_bytes + 16 * 1024,
            fields: terms.limits.fields + 32,
            target_bytes: terms.limits.target_bytes,
        },
        fields: RefCell::default(),
        waker: RefCell::default(),
    });
    let mut server =
        Server { terms, connection, hub: hub.clone(), watch, deadline, host, state: State::Open, begun: false };
    poll_fn(|cx| server.poll(cx)).await;
    drop(server);
    hub.closed.set(true);
    for seat in hub.free.borrow().iter() {
        seat.wake();
    }
}

fn builder(terms: &Terms) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(terms.streams)
        .initial_window_size(terms.stream_window)
        .initial_connection_window_size(terms.connection_window)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(u32::try_from(terms.limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        // Streams that were reset before they were looked at, at one time.
        .max_pending_accept_reset_streams(terms.bounds.resets as usize)
        // Streams that the peer made us reset, in all.
        .max_local_error_reset_streams(Some(terms.bounds.resets as usize))
        .enable_connect_protocol();
    builder
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// GOAWAY was sent: what runs ends, until this time of the worker's clock when nothing does.
    Leaving,
    /// Nothing but GOAWAY is still to be sent.
    Closing,
}

struct Server<H> {
    terms: Terms,
    connection: Connection<Wire, Bytes>,
    hub: Rc<Hub>,
    watch: Rc<Watch>,
    deadline: Deadline,
    host: H,
    state: State,
    /// A stream has come.
    begun: bool,
}

impl<H: Host> Server<H> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let known = self.hub.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            self.hub.waker.replace(Some(cx.waker().clone()));
        }
        let mut moved = false;
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    moved = true;
                    self.accept(request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed(&error);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        if self.state != State::Closing
            && let Some(breach) = self.watch.breach()
        {
            self.end(breach);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.set_deadline(moved);
        if self.deadline.poll_expired(cx) { self.expired(cx) } else { Poll::Pending }
    }

    /// Sets how long what is waited for now may take.
    fn set_deadline(&mut self, moved: bool) {
        if self.state == State::Closing {
            return;
        }
        if let Some(since) = self.host.ending_since()
            && self.state == State::Open
        {
            self.connection.graceful_shutdown();
            self.state = State::Leaving;
            self.deadline.set_at(since + self.terms.drain_idle_ms);
        }
        let now = self.terms.timers.now_ms();
        if self.hub.busy.get() > 0 {
            self.begun = true;
            let since = self.watch.blocked_since().unwrap_or(now);
            self.deadline.set_at(since + self.terms.stall_ms);
        } else if moved || self.begun {
            self.begun = false;
            let wait = if self.state == State::Leaving { CLOSE_MS } else { self.terms.keepalive_ms };
            self.deadline.set(wait);
        }
    }

    fn expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.terms.timers.now_ms();
        let stalled = self.watch.blocked_since().is_some_and(|at| at + self.terms.stall_ms <= now);
        match self.state {
            _ if stalled => {
                self.say(Breach::Stalled);
                self.watch.abort_on_close();
                return Poll::Ready(());
            }
            State::Closing => return Poll::Ready(()),
            _ if self.hub.busy.get() > 0 => {}
            State::Open => {
                self.connection.graceful_shutdown();
                self.state = State::Leaving;
                self.deadline.set(CLOSE_MS);
            }
            State::Leaving => {
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
                self.state = State::Closing;
                self.deadline.set(CLOSE_MS);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends the connection of a peer that breaks a bound.
    fn end(&mut self, breach: Breach) {
        self.say(breach);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.state = State::Closing;
        self.deadline.set(CLOSE_MS);
    }

    fn say(&self, breach: Breach) {
        self.terms.shard.refused(breach.reason());
        tracing::info!(reason = breach.reason(), "HTTP/2 connection ended");
    }

    /// What the codec itself did not stand.
    fn failed(&self, error: &h2::Error) {
        let reason = match error.reason() {
            _ if error.is_io() || error.is_remote() => return,
            Some(Reason::NO_ERROR) => return,
            Some(Reason::ENHANCE_YOUR_CALM) => "h2_calm",
            _ => "h2_protocol",
        };
        self.terms.shard.refused(reason);
        tracing::info!(reason, %error, "HTTP/2 connection ended");
    }

    /// Gives a stream to a lane.
    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        // Those that were reset count until their endpoint's connection is really gone.
        if self.hub.busy.get() >= 2 * self.terms.streams as usize {
            self.terms.shard.refused("h2_streams");
            respond.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let (parts, body) = request.into_parts();
        let free = {
            let mut free = self.hub.free.borrow_mut();
            free.retain(|seat| !seat.gone.get());
            free.pop()
        };
        let fresh = free.is_none();
        let seat = free.unwrap_or_else(|| Rc::new(Seat::default()));
        let key = match parts.extensions.get::<h2::ext::Protocol>() {
            Some(_) => head::key(self.host.random()),
            None => [0; 24],
        };
        let written = {
            let mut head = seat.head.borrow_mut();
            head.clear();
            head::write_request(&parts, body.is_end_stream(), &key, &mut head)
        };
        match written {
            Ok(shape) => {
                self.hub.busy.set(self.hub.busy.get() + 1);
                seat.give(Job { body, respond, shape });
                if fresh {
                    self.host.open(Stream::Layered(Box::new(Lane::new(self.hub.clone(), seat))));
                }
                return;
            }
            Err(Unfit::Malformed) => {
                self.terms.shard.refused("h2_malformed");
                respond.send_reset(Reason::PROTOCOL_ERROR);
            }
            Err(Unfit::Status(status)) => {
                self.terms.shard.refused(if status == 431 { "too_many_fields" } else { "connect" });
                let mut answer = Response::new(());
                *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
                // The stream may be gone already: then there is nobody to tell.
                let _ = respond.send_response(answer, true);
            }
        }
        if !fresh {
            self.hub.free.borrow_mut().push(seat);
        }
    }
}
