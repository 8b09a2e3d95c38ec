//! Large bodies between two bare sockets pass by splice(2), as TCP streams do: not through this process's memory.
//!
//! After some full reads in a row, where much is left; until little comes at once. What is in the pipe has passed the body's
//! count, and was not given to the other side yet. Of a request's body, nothing passes so that may be sent again.

use crate::proxy::error::ProxyError;
use crate::proxy::http::attempt::{Attempt, Step};
use crate::proxy::pipe::{Pipe, Pipes};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// After so many full reads in a row splice pays.
const FULL_READS: u8 = 3;
/// Less than this left, or at once, is copied: splice takes two calls too, and dearer ones.
const LITTLE_BYTES: usize = 16 * 1024;
/// Where so much is left it begins.
const MUCH_BYTES: u64 = 128 * 1024;
/// Octets of one splice, and with it of one turn: well below a hundred microseconds.
const SPLICE_BYTES: u64 = 128 * 1024;

/// One body on its way.
#[derive(Debug, Default)]
pub(super) struct Bulk {
    /// Full reads in a row.
    full_reads: u8,
    /// What it passes through while that holds something.
    pipe: Option<Pipe>,
}

/// What became of filling the pipe.
enum Filled {
    /// The body is to be copied.
    Not,
    /// Its sender has nothing now.
    Waits,
    /// So much; nothing: the sender has ended.
    By(usize),
}

impl Bulk {
    /// Notes a read of the body, and whether it brought as much as there was room for.
    pub(super) fn was_read(&mut self, full: bool) {
        self.full_reads = if full { self.full_reads.saturating_add(1) } else { 0 };
    }

    /// Returns whether the receiver has yet to take what is in the pipe.
    pub(super) fn holds(&self) -> bool {
        self.pipe.is_some()
    }

    /// Returns whether splice pays for a body of which so much is left.
    fn pays(&self, left: u64) -> bool {
        self.full_reads >= FULL_READS && left >= MUCH_BYTES
    }

    /// Moves at most so much from the sender into a pipe.
    fn poll_fill(
        &mut self,
        pipes: &Rc<Pipes>,
        from: &TcpStream,
        left: u64,
        cx: &mut Context<'_>,
    ) -> io::Result<Filled> {
        let Some(mut pipe) = pipes.take() else {
            // Enough are in use: this one copies, and looks again later.
            self.full_reads = 0;
            return Ok(Filled::Not);
        };
        let most = usize::try_from(left.min(SPLICE_BYTES)).unwrap_or(LITTLE_BYTES);
        let filled = loop {
            match from.poll_read_ready(cx)? {
                Poll::Ready(()) => {}
                // The pipe is given back meanwhile: the sender may take its time.
                Poll::Pending => return Ok(Filled::Waits),
            }
            match from.try_io(Interest::READABLE, || pipe.fill_from(from, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                filled => break filled?,
            }
        };
        self.full_reads = if filled < LITTLE_BYTES { 0 } else { FULL_READS };
        self.pipe = Some(pipe).filter(|pipe| pipe.fill() > 0);
        Ok(Filled::By(filled))
    }

    /// Gives the receiver what is in the pipe, and the empty pipe back; `moved` grows by what it took.
    fn poll_drain(&mut self, to: &TcpStream, moved: &mut usize, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        while pipe.fill() > 0 {
            match to.poll_write_ready(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Ok(()),
            }
            match to.try_io(Interest::WRITABLE, || pipe.drain_to(to)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => *moved += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.pipe = None;
        Ok(())
    }
}

impl Attempt<'_> {
    /// Moves what is in the answer's pipe, or more of its body through it; `None`: it is to be copied.
    ///
    /// # Errors
    /// One of the sides is gone.
    pub(super) fn poll_download(&mut self, cx: &mut Context<'_>) -> Result<Option<Step>, ProxyError> {
        if self.downward.holds() {
            return self.poll_drain(cx).map(Some);
        }
        let plain = self.response.as_ref().filter(|response| response.form.is_none());
        let left = plain.and_then(|response| response.body.left()).unwrap_or(0);
        if !self.downward.pays(left) || !self.may_splice() {
            return Ok(None);
        }
        let Some(from) = self.up.socket() else { return Ok(None) };
        let filled = match self.downward.poll_fill(&self.worker.pipes, from, left, cx) {
            Ok(Filled::Not) => return Ok(None),
            Ok(Filled::Waits) => return Ok(Some(Step::Idle)),
            Ok(Filled::By(0)) => return self.lost(None).map(Some),
            Ok(Filled::By(filled)) => filled,
            Err(error) => return self.lost(Some(error)).map(Some),
        };
        if let Some(response) = &mut self.response {
            response.body.pass(filled as u64);
        }
        self.poll_drain(cx)?;
        Ok(Some(Step::Moved(filled)))
    }

    /// Gives the client what is in the answer's pipe.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Result<Step, ProxyError> {
        let Some(to) = self.down.stream.socket() else { return Err(ProxyError::ClientGone) };
        let mut moved = 0;
        let drained = self.downward.poll_drain(to, &mut moved, cx);
        self.sent_bytes += moved as u64;
        drained.map_err(|_| ProxyError::ClientGone)?;
        Ok(if moved > 0 { Step::Moved(moved) } else { Step::Idle })
    }

    /// Moves what is in the request's pipe, or more of its body through it; returns how many octets moved. `None`: it is to
    /// be copied. What of the buffer is left was sent before.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, ProxyError> {
        let mut moved = 0;
        if !self.upward.holds() {
            let left = self.request.body.left().unwrap_or(0);
            if self.request.replayable || !self.upward.pays(left) || !self.may_splice() {
                return Ok(None);
            }
            let Some(from) = self.down.stream.socket() else { return Ok(None) };
            moved = match self.upward.poll_fill(&self.worker.pipes, from, left, cx) {
                Ok(Filled::Not) => return Ok(None),
                Ok(Filled::Waits) => return Ok(Some(0)),
                Ok(Filled::By(0)) | Err(_) => return Err(ProxyError::ClientGone),
                Ok(Filled::By(filled)) => filled,
            };
            self.request.body.pass(moved as u64);
        }
        let Some(to) = self.up.socket() else { return Ok(None) };
        if let Err(error) = self.upward.poll_drain(to, &mut moved, cx) {
            self.sends_no_more(Some(error));
        }
        Ok(Some(moved))
    }

    /// Returns whether both sides are bare sockets. The client's is watched from now on.
    fn may_splice(&mut self) -> bool {
        self.up.socket().is_some() && self.down.stream.watch().is_ok() && self.down.stream.socket().is_some()
    }
}
