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

/// Octets moved before the other direction, and then other connections, get a turn.
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

    /// Moves what is there; `Err`: the tunnel is broken. Returns how many octets moved, an end counted as one.
    fn poll(
        &mut self,
        worker: &Worker,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Result<usize, ()> {
        let mut moved = 0;
        while moved <= TURN_BYTES {
            moved += self.poll_pending(to, cx)?;
            if !self.pending.is_empty() {
                return Ok(moved);
            }
            if self.read_ended {
                return self.poll_shutdown(to, cx).map(|ended| moved + usize::from(ended));
            }
            let read = worker.with_scratch(|scratch| {
                let room = scratch.input.get_mut(HEADROOM..).unwrap_or_default();
                match poll_read(from, cx, room) {
                    Poll::Ready(Ok(n)) => self.pass(to, room.get(..n).unwrap_or_default(), cx).map(|()| Poll::Ready(n)),
                    Poll::Ready(Err(_)) => Err(()),
                    Poll::Pending => Ok(Poll::Pending),
                }
            });
            match read? {
                Poll::Ready(0) => self.read_ended = true,
                Poll::Ready(n) => moved += n,
                Poll::Pending => return Ok(moved),
            }
        }
        Ok(moved)
    }

    /// Writes what came at once; only what the receiver does not take is kept, so an idle tunnel owns no buffer.
    fn pass(&mut self, to: &mut TcpStream, octets: &[u8], cx: &mut Context<'_>) -> Result<(), ()> {
        if octets.is_empty() {
            return Ok(());
        }
        let written = match Pin::new(to).poll_write(cx, octets) {
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(_) => return Err(()),
            Poll::Pending => 0,
        };
        self.pending.extend_from_slice(octets.get(written..).unwrap_or_default());
        Ok(())
    }

    /// Writes what was kept and returns how many octets; `pending` is empty when nothing is left.
    fn poll_pending(&mut self, to: &mut TcpStream, cx: &mut Context<'_>) -> Result<usize, ()> {
        let mut moved = 0;
        while let Some(rest) = self.pending.get(self.at..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.at += n;
                    moved += n;
                }
                Poll::Ready(_) => return Err(()),
                Poll::Pending => return Ok(moved),
            }
        }
        if self.pending.capacity() > 0 {
            self.pending = Vec::new();
        }
        self.at = 0;
        Ok(moved)
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
        let mut turn = 0;
        loop {
            let Ok(a) = upward.poll(worker, &mut down.stream, &mut up, cx) else { return Poll::Ready(()) };
            let Ok(b) = downward.poll(worker, &mut up, &mut down.stream, cx) else { return Poll::Ready(()) };
            if upward.write_ended && downward.write_ended {
                return Poll::Ready(());
            }
            if a + b == 0 {
                break;
            }
            down.deadline.set(idle_ms);
            turn += a + b;
            if turn > TURN_BYTES {
                // Other connections get their turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if down.deadline.poll_expired(cx) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    drop(picked);
}
