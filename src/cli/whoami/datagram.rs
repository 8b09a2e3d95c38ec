//! Datagrams: each is answered by the instance's name, a space, and the datagram itself.

use anyhow::Context;
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Room for the longest datagram.
const DATAGRAM_BYTES: usize = 1 << 16;

/// Answers datagrams on an address until the task is aborted.
///
/// # Errors
/// The address cannot be bound.
pub(super) async fn serve(address: SocketAddr, instance: &str) -> anyhow::Result<AbortHandle> {
    let socket = UdpSocket::bind(address).await.with_context(|| format!("listen on {address} for datagrams"))?;
    let mut buffer = format!("{instance} ").into_bytes();
    let head = buffer.len();
    buffer.resize(head + DATAGRAM_BYTES, 0);
    let answering = tokio::spawn(async move {
        loop {
            let Some(room) = buffer.get_mut(head..) else { return };
            // An ICMP error about an answer is no end, nor is an answer that became too long.
            let Ok((length, from)) = socket.recv_from(room).await else { continue };
            let _ = socket.send_to(buffer.get(..head + length).unwrap_or_default(), from).await;
        }
    });
    Ok(answering.abort_handle())
}
