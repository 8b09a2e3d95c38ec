//! Dialling an endpoint under a deadline.

use crate::net::Stream;
use crate::proxy::error::ProxyError;
use crate::proxy::timer::Deadline;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use tokio::net::TcpStream;

/// Connects to an endpoint; the deadline is the connection's own and is replaced.
///
/// # Errors
/// [`ProxyError::Connect`], [`ProxyError::ConnectTimeout`], or [`ProxyError::LocalLimit`].
pub(crate) async fn connect(address: SocketAddr, timeout_ms: u64, deadline: &Deadline) -> Result<Stream, ProxyError> {
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
    Ok(stream.into())
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
