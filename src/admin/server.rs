//! Accepts connections of the API and serves them with hyper until the process stops.
//!
//! Each door has its own bound on connections, so that idle ones on TCP never lock out the Unix socket. The API answers
//! during a drain, so that `/readyz` can say so and `weir events` shows it; at [`Phase::Stopping`] it accepts no more and
//! ends what is open.

use crate::admin::guard::Transport;
use crate::admin::listen::{Listeners, Remote};
use crate::admin::{Options, State, router};
use crate::lifecycle::{Phase, Signal};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest time for a request's head, and for idling between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (out of file descriptors): never spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for answers under way when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// One door: its router and its bound on connections.
#[derive(Clone)]
struct Door {
    router: Router,
    permits: Arc<Semaphore>,
    http: http1::Builder,
}

impl Door {
    fn new(router: &Router, transport: Transport, connections: usize) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
        Self {
            router: router.clone().layer(axum::Extension(transport)),
            permits: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
            http,
        }
    }

    /// Serves one connection in a task of its own; the permit is released at its end.
    fn serve<S>(&self, stream: S, permit: OwnedSemaphorePermit, graceful: &GracefulShutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        tokio::spawn(self.connection(stream, permit, graceful.watcher()));
    }

    /// As [`Door::serve`], after the handshake where there is one.
    fn serve_remote(
        &self,
        stream: TcpStream,
        remote: &Remote,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) {
        let Some(tls) = remote.tls.clone() else { return self.serve(stream, permit, graceful) };
        let (door, watcher) = (self.clone(), graceful.watcher());
        tokio::spawn(async move {
            match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => door.connection(stream, permit, watcher).await,
                Ok(Err(error)) => tracing::debug!(%error, "a handshake of another machine failed"),
                Err(_) => tracing::debug!("a handshake of another machine took too long"),
            }
        });
    }

    fn connection<S>(
        &self,
        stream: S,
        permit: OwnedSemaphorePermit,
        watcher: Watcher,
    ) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = watcher.watch(self.http.serve_connection(TokioIo::new(stream), service));
        async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin connection ended early");
            }
        }
    }
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
    let (tcp_door, unix_door) = (
        Door::new(&router, Transport::Tcp, options.connections),
        Door::new(&router, Transport::Unix, options.connections),
    );
    let tcp = listeners.tcp.as_ref().map(Listener::Tcp);
    let unix = listeners.unix.as_ref().map(|(listener, _)| Listener::Unix(listener));
    let remote = listeners.remote.as_ref();
    let tokens = remote.map(|remote| axum::Extension(remote.tokens.clone()));
    let router = tokens.map_or_else(|| router.clone(), |tokens| router.clone().layer(tokens));
    let remote_door = Door::new(&router, Transport::Remote, options.connections);
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
        // The semaphore is never closed.
        let Ok(permit) = door.permits.clone().acquire_owned().await else { return };
        let accepted = match listener {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(stream, _)| door.serve(stream, permit, graceful)),
            Listener::Unix(unix) => unix.accept().await.map(|(stream, _)| door.serve(stream, permit, graceful)),
            Listener::Remote(remote) => {
                remote.listener.accept().await.map(|(stream, _)| door.serve_remote(stream, remote, permit, graceful))
            }
        };
        if let Err(error) = accepted {
            tracing::warn!(%error, "failed to accept an admin connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}
