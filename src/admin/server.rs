//! Accepts connections of the API and serves them with hyper until the process stops.
//!
//! Each door has its own places for connections (`seats.rs`), so that idle ones on TCP never lock out the Unix socket. The API answers
//! during a drain, so that `/readyz` can say so and `weir events` shows it; at [`Phase::Stopping`] it accepts no more and
//! ends what is open.

use crate::admin::guard::Transport;
use crate::admin::listen::{Listeners, Remote};
use crate::admin::seats::{Seat, Seats};
use crate::admin::{Options, Problem, State, router};
use crate::lifecycle::{Phase, Signal};
use axum::Router;
use axum::response::IntoResponse;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::future::ready;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::OwnedSemaphorePermit;

/// Longest time for a request's head, and for idling between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time to say that there is no place.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept (out of file descriptors): never spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for answers under way when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// One door: its router and the places of its connections.
#[derive(Clone)]
struct Door {
    router: Router,
    seats: Seats,
    http: http1::Builder,
}

impl Door {
    fn new(router: &Router, transport: Transport, options: &Options) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
        let seats = Seats::new(options.connections, options.followers);
        Self { router: router.clone().layer(axum::Extension(transport)), seats, http }
    }

    /// Serves one connection in a task of its own, as soon as it is open; `waiting` counts it until it has a place.
    fn serve<S, O>(&self, opening: O, waiting: OwnedSemaphorePermit, graceful: &GracefulShutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        O: Future<Output = io::Result<S>> + Send + 'static,
    {
        let (door, watcher) = (self.clone(), graceful.watcher());
        tokio::spawn(async move {
            let seat = door.seats.take().await;
            let limit = if seat.is_ok() { HEAD_TIMEOUT } else { REFUSAL_TIMEOUT };
            let stream = match tokio::time::timeout(limit, opening).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a handshake of another machine failed"),
                Err(_) => return tracing::debug!("a handshake of another machine took too long"),
            };
            match seat {
                Ok(seat) => {
                    drop(waiting);
                    door.connection(stream, seat, watcher).await;
                }
                Err(problem) => refuse(stream, problem).await,
            }
        });
    }

    async fn connection<S>(self, stream: S, seat: Seat, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (cut, router) = (seat.cut(), TowerToHyperService::new(self.router));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(seat.clone());
            router.call(request)
        });
        let connection = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            ended = connection => if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection ended early");
            },
            () = cut.notified() => tracing::debug!("a follower that takes nothing was cut off"),
        }
    }
}

/// Answers the first request of a connection that has no place, and ends it.
async fn refuse<S>(stream: S, problem: Problem)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |_: Request<Incoming>| {
        let answer = problem.clone().into_response();
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REFUSAL_TIMEOUT).keep_alive(false).max_buf_size(16 * 1024);
    // Who does not listen to it is gone.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, http.serve_connection(TokioIo::new(stream), service)).await;
}

/// A listening socket of either kind.
enum Listener<'a> {
    Tcp(&'a TcpListener),
    Unix(&'a UnixListener),
    Remote(&'a Remote),
}

/// Serves the API on the listeners until the process stops; returns a second later at most.
pub async fn serve(listeners: Listeners, options: Options, state: State, mut signal: Signal) {
    let router = router::build(state, options.body_bytes);
    let socket = options.socket.as_deref().map(|path| path.display().to_string());
    tracing::info!(address = listeners.address().map(tracing::field::display), socket, "answering the admin API");
    if let Some(address) = listeners.remote_address() {
        tracing::info!(%address, "answering other machines");
    }
    let graceful = GracefulShutdown::new();
    let (tcp_door, unix_door) =
        (Door::new(&router, Transport::Tcp, &options), Door::new(&router, Transport::Unix, &options));
    let tcp = listeners.tcp.as_ref().map(Listener::Tcp);
    let unix = listeners.unix.as_ref().map(|(listener, _)| Listener::Unix(listener));
    let remote = listeners.remote.as_ref();
    let tokens = remote.map(|remote| axum::Extension(remote.tokens.clone()));
    let router = tokens.map_or_else(|| router.clone(), |tokens| router.clone().layer(tokens));
    let remote_door = Door::new(&router, Transport::Remote, &options);
    tokio::select! {
        () = accept(&tcp_door, &graceful, tcp) => {}
        () = accept(&unix_door, &graceful, unix) => {}
        () = accept(&remote_door, &graceful, remote.map(Listener::Remote)) => {}
        () = signal.reached(Phase::Stopping) => {}
    }
    drop(listeners);
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::debug!("admin connections were still open at the end");
    }
}

/// Accepts for ever; without a listener it only waits.
async fn accept(door: &Door, graceful: &GracefulShutdown, listener: Option<Listener<'_>>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        let Some(waiting) = door.seats.admit().await else { return };
        let accepted = match listener {
            Listener::Tcp(tcp) => {
                tcp.accept().await.map(|(stream, _)| door.serve(ready(Ok(stream)), waiting, graceful))
            }
            Listener::Unix(unix) => {
                unix.accept().await.map(|(stream, _)| door.serve(ready(Ok(stream)), waiting, graceful))
            }
            Listener::Remote(remote) => remote.listener.accept().await.map(|(stream, _)| match remote.tls.clone() {
                Some(tls) => door.serve(async move { tls.accept(stream).await }, waiting, graceful),
                None => door.serve(ready(Ok(stream)), waiting, graceful),
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "failed to accept an admin connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
