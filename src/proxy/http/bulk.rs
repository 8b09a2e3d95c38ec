//! Large bodies of answers between two bare sockets pass by splice(2), as TCP streams do: not through this process's memory.
//!
//! After some full reads in a row, where much is left; until little comes at once. What is in the pipe has passed the body's
//! count, and was not given to the client yet.

use crate::proxy::error::ProxyError;
use crate::proxy::http::attempt::{Attempt, Step};
use std::io;
use std::task::{Context, Poll};
use tokio::io::Interest;

/// After so many full reads in a row splice pays.
const FULL_READS: u8 = 3;
/// Less than this left, or at once, is copied: splice takes two calls too, and dearer ones.
const LITTLE_BYTES: usize = 16 * 1024;
/// Where so much is left it begins.
const MUCH_BYTES: u64 = 128 * 1024;
/// Octets of one splice, and with it of one turn: well below a hundred microseconds.
const SPLICE_BYTES: u64 = 128 * 1024;

impl Attempt<'_> {
    /// Notes a read of a body, and whether it brought as much as there was room for.
    pub(super) fn was_read(&mut self, full: bool) {
        self.full_reads = if full { self.full_reads.saturating_add(1) } else { 0 };
    }

    /// Returns whether the client has yet to take what is in the pipe.
    pub(super) fn fills_pipe(&self) -> bool {
        self.pipe.as_ref().is_some_and(|pipe| pipe.fill() > 0)
    }

    /// Moves what is in the pipe, or more of the body through it; `None`: it is to be copied.
    ///
    /// # Errors
    /// One of the sides is gone.
    pub(super) fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Result<Option<Step>, ProxyError> {
        if self.fills_pipe() {
            return self.poll_drain(cx).map(Some);
        }
        let plain = self.response.as_ref().filter(|response| response.form.is_none());
        let left = plain.and_then(|response| response.body.left()).unwrap_or(0);
        if self.full_reads < FULL_READS || left < MUCH_BYTES || !self.may_splice() {
            return Ok(None);
        }
        let Some(from) = self.up.socket() else { return Ok(None) };
        let Some(mut pipe) = self.worker.pipes.take() else {
            // Enough are in use: this one copies, and looks again later.
            self.full_reads = 0;
            return Ok(None);
        };
        let most = usize::try_from(left.min(SPLICE_BYTES)).unwrap_or(LITTLE_BYTES);
        let filled = loop {
            match from.poll_read_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Err(error),
                // The pipe is given back meanwhile: the endpoint may take its time.
                Poll::Pending => return Ok(Some(Step::Idle)),
            }
            match from.try_io(Interest::READABLE, || pipe.fill_from(from, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => break filled,
            }
        };
        let moved = match filled {
            Ok(0) => return self.lost(None).map(Some),
            Ok(moved) => moved,
            Err(error) => return self.lost(Some(error)).map(Some),
        };
        if let Some(response) = &mut self.response {
            response.body.pass(moved as u64);
        }
        self.full_reads = if moved < LITTLE_BYTES { 0 } else { FULL_READS };
        self.pipe = Some(pipe);
        self.poll_drain(cx)?;
        Ok(Some(Step::Moved(moved)))
    }

    /// Gives the client what is in the pipe, and the empty pipe back.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Result<Step, ProxyError> {
        let (Some(to), Some(pipe)) = (self.down.stream.socket(), &mut self.pipe) else {
            return Err(ProxyError::ClientGone);
        };
        let mut moved = 0;
        while pipe.fill() > 0 {
            match to.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(ProxyError::ClientGone),
                Poll::Pending => break,
            }
            match to.try_io(Interest::WRITABLE, || pipe.drain_to(to)) {
                Ok(n) if n > 0 => moved += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Err(ProxyError::ClientGone),
            }
        }
        if pipe.fill() == 0 {
            self.pipe = None;
        }
        self.sent_bytes += moved as u64;
        Ok(if moved > 0 { Step::Moved(moved) } else { Step::Idle })
    }

    /// Returns whether both sides are bare sockets. The client's is watched from now on.
    fn may_splice(&mut self) -> bool {
        self.up.socket().is_some() && self.down.stream.watch().is_ok() && self.down.stream.socket().is_some()
    }
}
