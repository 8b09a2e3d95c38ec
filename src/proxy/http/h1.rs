//! A client's HTTP/1.1 connection: head, exchange, and again while it stays open.
//!
//! A future by hand, so that what an idle connection holds is little: its socket and its deadline. What a request needs
//! lives in an [`Exchange`], which the worker lends for as long as the request takes; so a warm connection allocates
//! nothing. Rare things are boxed.

use crate::proxy::http::exchange::{self, Next};
use crate::proxy::http::request::{self, Head, Request, Wait};
use crate::proxy::http::{Downstream, respond};
use crate::proxy::scratch::poll_read;
use crate::proxy::state::{Open, Spare, Worker};
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// After an answer that closes, so many octets are read and thrown away, so that the answer is not lost to a reset.
const LINGER_BYTES: usize = 64 * 1024;
/// And for so long.
const LINGER_MS: u64 = 2000;

/// One client's connection; the future that its task runs.
pub(crate) struct Connection {
    worker: Rc<Worker>,
    state: State,
    /// Counts the connection as open; `None`: it is a part of one that is counted.
    open: Option<Open>,
}

enum State {
    /// Waits for a head.
    Idle { down: Box<Downstream>, wait: Wait },
    /// A request is under way; the connection is lent to it.
    Busy(Box<Exchange>),
    /// An answer of Weir's own, or the end of the connection.
    Rare(Pin<Box<dyn Future<Output = Finished>>>),
    /// Nothing is left.
    Over,
    /// The client speaks HTTP/2 on this connection.
    Http2(Box<Downstream>),
}

/// A connection whose client speaks HTTP/2; what came of it is in its carry.
pub(crate) struct Handover {
    pub(crate) open: Open,
    pub(crate) worker: Rc<Worker>,
    pub(crate) down: Box<Downstream>,
}

/// The connection after something that it was lent to.
struct Finished {
    down: Box<Downstream>,
    next: Next,
}

impl Connection {
    pub(crate) fn new(open: Open, worker: Rc<Worker>, down: Downstream) -> Self {
        let wait = Wait::new(&worker, &down, true);
        Self { worker, state: State::Idle { down: down.into(), wait }, open: Some(open) }
    }

    /// One of the streams of a connection that is counted elsewhere.
    pub(crate) fn stream(worker: Rc<Worker>, down: Downstream) -> Self {
        let wait = Wait::new(&worker, &down, true);
        Self { worker, state: State::Idle { down: down.into(), wait }, open: None }
    }

    /// Goes on after a request or an answer.
    fn after(&self, Finished { mut down, next }: Finished) -> State {
        match next {
            Next::Keep if down.stream.watch().is_err() => State::Over,
            Next::Keep => State::Idle { wait: Wait::new(&self.worker, &down, false), down },
            // What a layer holds is lost with it: it is closed in order.
            Next::Close if down.stream.buffers() => State::Rare(Box::pin(close(down))),
            Next::Close => State::Over,
            Next::Linger => State::Rare(Box::pin(linger(self.worker.clone(), down))),
            Next::Over => State::Over,
        }
    }

    fn begin(&self, down: Box<Downstream>, head: Head) -> State {
        match head {
            Head::Closed if down.stream.buffers() => State::Rare(Box::pin(close(down))),
            Head::Closed => State::Over,
            Head::Http2 => State::Http2(down),
            Head::Request(request) => {
                let spare = self.worker.take_spare(Spare::Exchange);
                let exchange = spare.unwrap_or_else(Exchange::new);
                exchange.begin(self.worker.clone(), down, request);
                State::Busy(exchange)
            }
            Head::Answer(refusal) => {
                let (worker, mut down) = (self.worker.clone(), down);
                if !refusal.keep {
                    // The answer may take its time; nothing of this is read any more.
                    down.forget(&worker);
                }
                State::Rare(Box::pin(async move {
                    let next = respond::refuse(&worker, &mut down, &refusal).await;
                    Finished { down, next }
                }))
            }
        }
    }
}

impl Future for Connection {
    type Output = Option<Handover>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = this.poll_state(cx);
        this.worker.turn_ended();
        polled
    }
}

impl Connection {
    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<Option<Handover>> {
        loop {
            let next = match &mut self.state {
                State::Over => return Poll::Ready(None),
                State::Http2(_) => {
                    let State::Http2(down) = std::mem::replace(&mut self.state, State::Over) else {
                        return Poll::Ready(None);
                    };
                    let worker = self.worker.clone();
                    return Poll::Ready(self.open.take().map(|open| Handover { open, worker, down }));
                }
                State::Idle { down, wait } => match request::poll_head(&self.worker, down, wait, cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(head) => {
                        let State::Idle { down, .. } = std::mem::replace(&mut self.state, State::Over) else {
                            return Poll::Ready(None);
                        };
                        self.begin(down, head)
                    }
                },
                State::Busy(exchange) => match exchange.poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(finished) => {
                        if let State::Busy(exchange) = std::mem::replace(&mut self.state, State::Over) {
                            self.worker.give_spare(Spare::Exchange, exchange);
                        }
                        self.after(finished)
                    }
                },
                State::Rare(future) => match future.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(finished) => self.after(finished),
                },
            };
            self.state = next;
        }
    }
}

/// What one request at a time is served in; serves the next when it is done with one, of whatever connection.
pub(crate) struct Exchange {
    desk: Rc<Desk>,
    work: Pin<Box<dyn Future<Output = ()>>>,
}

/// Where work is handed in and out.
#[derive(Default)]
struct Desk {
    job: Cell<Option<Job>>,
    finished: Cell<Option<Finished>>,
}

struct Job {
    worker: Rc<Worker>,
    down: Box<Downstream>,
    request: Box<Request>,
}

impl Exchange {
    fn new() -> Box<Self> {
        let desk = Rc::new(Desk::default());
        Box::new(Self { work: Box::pin(serve(desk.clone())), desk })
    }

    fn begin(&self, worker: Rc<Worker>, down: Box<Downstream>, request: Box<Request>) {
        self.desk.job.set(Some(Job { worker, down, request }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        // It never ends: it waits for the next request, for which nobody needs to wake it.
        let _ = self.work.as_mut().poll(cx);
        self.desk.finished.take().map_or(Poll::Pending, Poll::Ready)
    }
}

async fn serve(desk: Rc<Desk>) {
    loop {
        let job = poll_fn(|_| desk.job.take().map_or(Poll::Pending, Poll::Ready)).await;
        let Job { worker, mut down, request } = job;
        let next = exchange::handle(&worker, &mut down, request).await;
        desk.finished.set(Some(Finished { down, next }));
    }
}

/// Closes our side in order, within a bounded time.
async fn close(mut down: Box<Downstream>) -> Finished {
    down.deadline.set(LINGER_MS);
    poll_fn(|cx| match Pin::new(&mut down.stream).poll_shutdown(cx) {
        Poll::Pending if !down.deadline.poll_expired(cx) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
    Finished { down, next: Next::Over }
}

/// Closes in a way that lets the client read the answer: our side first, then wait for its end (RFC 9112 §9.6).
async fn linger(worker: Rc<Worker>, mut down: Box<Downstream>) -> Finished {
    down.deadline.set(LINGER_MS);
    let ended = poll_fn(|cx| match Pin::new(&mut down.stream).poll_shutdown(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.is_ok()),
        Poll::Pending if down.deadline.poll_expired(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await;
    if ended {
        let mut left = LINGER_BYTES;
        poll_fn(|cx| {
            loop {
                let read = worker.with_scratch(|scratch| poll_read(&mut down.stream, cx, &mut scratch.input));
                match read {
                    Poll::Ready(Ok(n)) if n > 0 && n <= left => left -= n,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if down.deadline.poll_expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
    Finished { down, next: Next::Over }
}
