//! Dialling an endpoint under a deadline.

use crate::model::UpstreamTlsSpec;
use crate::net::{Stream, tls};
use crate::proxy::error::ProxyError;
use crate::proxy::state::Worker;
use crate::proxy::timer::Deadline;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use tokio::net::TcpStream;

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
    use super::classify;
    use crate::proxy::error::ProxyError;
    use std::io;

    #[test]
    fn no_descriptors_left_is_not_the_endpoint_s_failure() {
        let local = classify(&io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!((local, local.failure(), local.status()), (ProxyError::LocalLimit, None, 503));
        let refused = classify(&io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert!(refused == ProxyError::Connect && refused.failure().is_some());
    }
}
