//! Dialling an endpoint under a deadline.

use crate::proxy::error::ProxyError;
use crate::proxy::timer::Deadline;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use tokio::net::TcpStream;

/// Connects to an endpoint; the deadline is the connection's own and is replaced.
///
/// # Errors
/// [`ProxyError::Connect`] or [`ProxyError::ConnectTimeout`].
pub(crate) async fn connect(
    address: SocketAddr,
    timeout_ms: u64,
    deadline: &Deadline,
) -> Result<TcpStream, ProxyError> {
    deadline.set(timeout_ms);
    // Boxed: rare, and it would make every connection's future larger.
    let mut dialling = Box::pin(TcpStream::connect(address));
    let stream = poll_fn(|cx| match dialling.as_mut().poll(cx) {
        Poll::Ready(Ok(stream)) => Poll::Ready(Ok(stream)),
        Poll::Ready(Err(_)) => Poll::Ready(Err(ProxyError::Connect)),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(ProxyError::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    stream.set_nodelay(true).map_err(|_| ProxyError::Connect)?;
    Ok(stream)
}
