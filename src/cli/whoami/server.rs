//! Life of the test backend: bind, accept, end on a signal or a crash.

use crate::cli::whoami::answer::{State, answer};
use crate::cli::whoami::args::{Listen, WhoamiArgs};
use crate::cli::whoami::datagram;
use crate::lifecycle::{self, Phase, Trigger};
use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Connections that may wait for accept, as for Weir's own listeners: a proxy opens many at once.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// From the stop to the end of idle connections: a request that was on its way is still answered.
const IDLE_GRACE: Duration = Duration::from_millis(100);

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Asked to stop; everything in flight was finished.
    Drained,
    /// `--crash-after`.
    Crashed,
}

/// Runs `weir whoami` until SIGTERM or SIGINT; returns failure after `--crash-after`.
///
/// # Errors
/// When the address cannot be bound or the journal cannot be opened.
pub fn run(args: WhoamiArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let ending = runtime.block_on(async {
        let variable = std::env::var("PORT").ok();
        let listen = args.listen.unwrap_or_else(|| Listen::from_port_variable(variable.as_deref()));
        let listener = bind(listen)?;
        let instance = std::env::var("WEIR_INSTANCE").unwrap_or_else(|_| default_instance());
        let service = std::env::var("WEIR_SERVICE").unwrap_or_else(|_| "-".to_owned());
        if let Some(address) = args.udp {
            datagram::serve(address, &instance).await?;
        }
        let (trigger, drain) = lifecycle::drain();
        let state = State::open(args, &instance, service, drain).context("open the journal")?;
        say_listening(&instance, listener.local_addr()?);
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let serving = serve(listener, Arc::new(state), trigger, async {
            tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
        });
        anyhow::Ok(serving.await)
    })?;
    // Dropping the runtime drops what is still open: that is the crash.
    Ok(match ending {
        Ending::Drained => ExitCode::SUCCESS,
        Ending::Crashed => ExitCode::FAILURE,
    })
}

/// Tells the user of a command where it listens.
fn say_listening(instance: &str, address: SocketAddr) {
    // Standard output may be a log file on a full disk: that is no reason not to serve.
    let _ = writeln!(io::stdout(), "{instance} listening on {address}");
}

/// Returns the host name with the process id.
fn default_instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    format!("{}-{}", if host.is_empty() { "whoami" } else { host }, std::process::id())
}

fn bind(listen: Listen) -> anyhow::Result<TcpListener> {
    let mut failure = None;
    for address in listen.candidates() {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = Some(anyhow::Error::new(error).context(format!("listen on {address}"))),
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no address to listen on")))
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is ready, then finishes what is in flight; a crash ends at once.
pub(super) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    trigger: Trigger,
    stop: impl Future<Output = ()>,
) -> Ending {
    let crashed = state.crashed();
    tokio::pin!(stop, crashed);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = &mut crashed => return Ending::Crashed,
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => serve_connection(stream, remote, &state),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    for (stream, remote) in accept_rest(listener) {
        serve_connection(stream, remote, &state);
    }
    trigger.raise(Phase::Draining);
    tokio::select! {
        () = trigger.finished() => Ending::Drained,
        () = &mut crashed => Ending::Crashed,
    }
}

/// Takes what waits in the accept queue, so that closing the listener resets nobody.
fn accept_rest(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let accept = || -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, remote) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((TcpStream::from_std(stream)?, remote))
    };
    std::iter::from_fn(|| accept().ok()).collect()
}

/// Drives one connection in a task of its own; the drain waits for it.
fn serve_connection(stream: TcpStream, remote: SocketAddr, state: &Arc<State>) {
    // Without it a small last segment waits for an acknowledgement; a socket that refuses is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let mut drain = state.drain().clone();
    let guard = drain.guard();
    let state = state.clone();
    tokio::spawn(async move {
        let _guard = guard;
        let service = service_fn(move |request| answer(state.clone(), remote, request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let draining = async {
            drain.reached(Phase::Draining).await;
            tokio::time::sleep(IDLE_GRACE).await;
        };
        // A client that breaks off is its own business.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = draining => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    });
}
