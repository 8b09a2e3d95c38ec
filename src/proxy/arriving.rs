//! Taking datagrams from a listener's socket for as long as it is there.

use crate::clock;
use crate::proxy::shortage::Shortage;
use std::io;
use std::net::UdpSocket;
use tokio::io::unix::AsyncFd;

/// Has `receive` take what has come each time that something has, until the socket is watched no longer. It returns whether there
/// may be more. Where the kernel gives nothing but an error, which may last, it is asked again after a pause: other tasks go on.
pub(crate) async fn arriving(
    socket: &AsyncFd<UdpSocket>,
    listener: &str,
    mut receive: impl FnMut() -> io::Result<bool>,
) {
    let failing = Shortage::new();
    while let Ok(mut ready) = socket.readable().await {
        match receive() {
            // Others get their turn between two batches.
            Ok(true) => tokio::task::yield_now().await,
            // What comes from now on makes the socket ready again.
            Ok(false) => {
                ready.clear_ready();
                failing.end(None);
            }
            Err(error) => {
                let (pause, first) = failing.begin(clock::now());
                if first {
                    tracing::warn!(%error, listener, "failed to receive datagrams");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::arriving;
    use std::cell::Cell;
    use std::io;
    use std::net::UdpSocket;
    use std::time::Duration;

    #[tokio::test]
    async fn an_error_that_lasts_is_met_again_after_pauses_that_grow() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.send_to(b"waits", socket.local_addr().unwrap()).unwrap();
        let socket = crate::sys::accept::watch_datagrams(socket).unwrap();
        let calls = Cell::new(0);
        let lasting = || {
            calls.set(calls.get() + 1);
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        };
        let ended = tokio::time::timeout(Duration::from_millis(200), arriving(&socket, "game", lasting)).await;
        // After 0, 10, 30, 70 and 150 ms.
        assert!(ended.is_err() && (1..=5).contains(&calls.get()), "{} calls", calls.get());
        // When the kernel gives again what came, it is taken.
        let mut taken = Vec::new();
        let receive = || {
            let mut octets = [0; 16];
            match socket.get_ref().recv(&mut octets) {
                Ok(length) => {
                    taken.extend_from_slice(&octets[..length]);
                    Ok(true)
                }
                Err(_) => Ok(false),
            }
        };
        let ended = tokio::time::timeout(Duration::from_millis(50), arriving(&socket, "game", receive)).await;
        assert!(ended.is_err() && taken == b"waits");
    }
}
