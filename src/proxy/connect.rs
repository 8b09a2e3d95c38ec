//! Dialling an endpoint under a deadline.

use crate::model::UpstreamTlsSpec;
use crate::net::{Stream, tls};
use crate::proxy::error::ProxyError;
use crate::proxy::state::Worker;
use crate::proxy::timer::{Deadline, ms};
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::TcpStream;

/// The kernel takes no longer times.
const MAX_QUIET: Duration = Duration::from_secs(32_000);

/// What is spoken over a connection to an endpoint, for ALPN where that is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    Http1,
    Http2,
    Octets,
}

/// Connects to an endpoint of a service, with TLS where its definition says so; the deadline is the connection's own and is
/// replaced.
///
/// # Errors
/// [`ProxyError::Connect`], [`ProxyError::ConnectTimeout`], [`ProxyError::LocalLimit`], [`ProxyError::UpstreamTls`] or
/// [`ProxyError::TlsUnavailable`].
pub(crate) async fn connect(
    worker: &Worker,
    (slot, address): (usize, SocketAddr),
    inside: Inside,
    timeout_ms: u64,
    deadline: &Deadline,
) -> Result<Stream, ProxyError> {
    let socket = connect_tcp(address, timeout_ms, deadline).await?;
    if inside == Inside::Http2 {
        watch_host(
            &socket,
            worker.locals.borrow_mut().at(slot).map_or(0, |local| ms(local.service.spec.timeouts.ping)),
        );
    }
    let tls = worker.locals.borrow_mut().at(slot).and_then(|local| local.service.spec.tls.clone());
    let Some(spec) = tls else { return Ok(socket.into()) };
    let mut securing = Box::pin(secure(worker, socket, (spec, inside), address));
    poll_fn(|cx| match securing.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(ProxyError::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

async fn secure(
    worker: &Worker,
    socket: TcpStream,
    (spec, inside): (Arc<UpstreamTlsSpec>, Inside),
    address: SocketAddr,
) -> Result<Stream, ProxyError> {
    let clients = worker.tls.clients();
    let ready = match clients.find(&spec) {
        Some(ready) => ready,
        None => clients.wait(&spec).await,
    };
    // What is wrong with the files was said when they were read.
    let config = ready.map_err(|_| ProxyError::TlsUnavailable)?;
    let config = match inside {
        Inside::Http1 => config,
        Inside::Http2 => tls::speaking(&config, tls::HTTP2),
        Inside::Octets => tls::speaking(&config, b""),
    };
    tls::connect(socket, config, (&spec, address.ip())).await.map_err(|error| {
        worker.underway.say_upstream(worker.timers.now_ms(), address, &error);
        ProxyError::UpstreamTls
    })
}

async fn connect_tcp(address: SocketAddr, timeout_ms: u64, deadline: &Deadline) -> Result<TcpStream, ProxyError> {
    deadline.set(timeout_ms);
    // Boxed: rare, and it would make every connection's future larger.
    let mut dialling = Box::pin(TcpStream::connect(address));
    let stream = poll_fn(|cx| match dialling.as_mut().poll(cx) {
        Poll::Ready(Ok(stream)) => Poll::Ready(Ok(stream)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(classify(&error))),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(ProxyError::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    stream.set_nodelay(true).map_err(|_| ProxyError::Connect)?;
    Ok(stream)
}

/// Has the kernel find a host that is gone, which costs the endpoint nothing: it is asked when nothing came for `quiet_ms`, and
/// given up when it was silent, or acknowledged nothing, for twice as long (RFC 9293 §3.8.4, RFC 5482). 0: never.
fn watch_host(socket: &TcpStream, quiet_ms: u64) {
    if quiet_ms == 0 {
        return;
    }
    let quiet = Duration::from_millis(quiet_ms).clamp(Duration::from_secs(1), MAX_QUIET);
    let asks =
        TcpKeepalive::new().with_time(quiet).with_interval((quiet / 3).max(Duration::from_secs(1))).with_retries(3);
    let socket = SockRef::from(socket);
    let set = socket.set_tcp_keepalive(&asks).and_then(|()| socket.set_tcp_user_timeout(Some(quiet * 2)));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection to an endpoint is not watched by the kernel");
    }
}

/// Tells what is wrong with the endpoint from what is wrong with this machine, which must eject nobody.
fn classify(error: &io::Error) -> ProxyError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL) => {
            ProxyError::LocalLimit
        }
        _ => ProxyError::Connect,
    }
}

#[cfg(test)]
mod tests {
    use super::{classify, watch_host};
    use crate::proxy::error::ProxyError;
    use socket2::SockRef;
    use std::io;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn the_kernel_asks_after_a_silence_and_gives_up_after_two() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch_host(&socket, 0);
        assert!(!SockRef::from(&socket).keepalive().unwrap());
        for (quiet_ms, asks, again) in [(15_000, 15, 5), (200, 1, 1), (u64::MAX, 32_000, 10_666)] {
            watch_host(&socket, quiet_ms);
            let set = SockRef::from(&socket);
            assert!(set.keepalive().unwrap());
            let seconds = Duration::from_secs;
            assert_eq!(
                (set.tcp_keepalive_time().unwrap(), set.tcp_keepalive_interval().unwrap()),
                (seconds(asks), seconds(again))
            );
            assert_eq!(set.tcp_user_timeout().unwrap(), Some(seconds(2 * asks)));
        }
    }

    #[test]
    fn no_descriptors_left_is_not_the_endpoint_s_failure() {
        let local = classify(&io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!((local, local.failure(), local.status()), (ProxyError::LocalLimit, None, 503));
        let refused = classify(&io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert!(refused == ProxyError::Connect && refused.failure().is_some());
    }
}
