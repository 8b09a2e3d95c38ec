//! A tunnel after the endpoint's 101: octets both ways until both sides closed, idle for long, or the drain deadline.
//!
//! The in-flight guard is held to the end, so a drain waits for tunnels too.

use crate::proxy::http::Downstream;
use crate::proxy::http::pick::Picked;
use crate::proxy::scratch::{HEADROOM, poll_read};
use crate::proxy::state::Worker;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

/// Octets moved in one direction in one poll before the other gets a turn.
const TURN_BYTES: usize = 256 * 1024;

/// One direction of a tunnel.
struct Direction {
    /// What the receiver has not taken yet.
    pending: Vec<u8>,
    at: usize,
    read_ended: bool,
    write_ended: bool,
}

impl Direction {
    fn new(pending: Vec<u8>) -> Self {
        Self { pending, at: 0, read_ended: false, write_ended: false }
    }

    /// Moves what is there; `Err`: the tunnel is broken. Returns whether anything moved.
    fn poll(
        &mut self,
        worker: &Worker,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Result<bool, ()> {
        let mut moved = 0;
        loop {
            while let Some(rest) = self.pending.get(self.at..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.at += n;
                        moved += n;
                    }
                    Poll::Ready(_) => return Err(()),
                    Poll::Pending => return Ok(moved > 0),
                }
            }
            self.pending.clear();
            self.at = 0;
            if self.read_ended {
                return self.poll_shutdown(to, cx).map(|ended| ended || moved > 0);
            }
            if moved > TURN_BYTES {
                cx.waker().wake_by_ref();
                return Ok(true);
            }
            let read = worker.with_scratch(|scratch| {
                let room = scratch.input.get_mut(HEADROOM..).unwrap_or_default();
                match poll_read(from, cx, room) {
                    Poll::Ready(Ok(n)) => {
                        self.pending.extend_from_slice(room.get(..n).unwrap_or_default());
                        Poll::Ready(Ok(n))
                    }
                    other => other,
                }
            });
            match read {
                Poll::Ready(Ok(0)) => self.read_ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => return Ok(moved > 0),
            }
        }
    }

    /// Half-closes the receiver once its sender has ended and everything was delivered.
    fn poll_shutdown(&mut self, to: &mut TcpStream, cx: &mut Context<'_>) -> Result<bool, ()> {
        if self.write_ended {
            return Ok(false);
        }
        match Pin::new(to).poll_shutdown(cx) {
            Poll::Ready(Ok(())) => {
                self.write_ended = true;
                Ok(true)
            }
            Poll::Ready(Err(_)) => Err(()),
            Poll::Pending => Ok(false),
        }
    }
}

/// Carries a tunnel to its end; `rest` came from the endpoint behind its 101.
pub(crate) async fn tunnel(
    worker: &Worker,
    down: &mut Downstream,
    mut up: TcpStream,
    rest: Vec<u8>,
    picked: Picked,
    idle_ms: u64,
) {
    let mut upward = Direction::new(std::mem::take(&mut down.carry));
    let mut downward = Direction::new(rest);
    down.deadline.set(idle_ms);
    poll_fn(|cx| {
        loop {
            let Ok(a) = upward.poll(worker, &mut down.stream, &mut up, cx) else { return Poll::Ready(()) };
            let Ok(b) = downward.poll(worker, &mut up, &mut down.stream, cx) else { return Poll::Ready(()) };
            if upward.write_ended && downward.write_ended {
                return Poll::Ready(());
            }
            if !a && !b {
                break;
            }
            down.deadline.set(idle_ms);
        }
        if down.deadline.poll_expired(cx) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(picked);
}
