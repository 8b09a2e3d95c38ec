//! Whose turn it is in an attempt, how long it may take, and what becomes of a call that took too long.

use crate::http1::framing::Form;
use crate::proxy::error::ProxyError;
use crate::proxy::http::attempt::{Attempt, Outcome};
use crate::proxy::http::{grpc, respond};
use crate::proxy::timer::ms;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// A slow body is tolerated for so long before its rate counts.
const RATE_GRACE_MS: u64 = 5000;

impl Drop for Attempt<'_> {
    /// A close would pass for the proper end of an answer that only the close ends: where it is cut, also by the end of the
    /// time to drain, the client's connection is reset.
    fn drop(&mut self) {
        if self.begun && !self.whole && self.response.as_ref().is_some_and(|response| response.until_close) {
            self.down.stream.abort_on_close();
        }
    }
}

impl Attempt<'_> {
    /// The endpoint may have answered before it closed: its answer is read next.
    pub(super) fn sends_no_more(&mut self, error: Option<io::Error>) {
        self.send_broken = true;
        self.was_reset |= error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
    }

    /// Returns whether the endpoint has taken what was read of the request.
    pub(super) fn was_sent(&self) -> bool {
        self.sent >= self.request.buffer.len() && !self.upward.holds()
    }

    /// Pushes on what a layer under either side still holds; sockets hold nothing.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), ProxyError> {
        if self.up.buffers() && matches!(Pin::new(&mut *self.up).poll_flush(cx), Poll::Ready(Err(_))) {
            self.send_broken = true;
        }
        if self.down.stream.buffers() && matches!(Pin::new(&mut self.down.stream).poll_flush(cx), Poll::Ready(Err(_))) {
            return Err(ProxyError::ClientGone);
        }
        Ok(())
    }

    /// Sets the deadline for what is waited for now.
    pub(super) fn touch(&self) {
        let timeouts = &self.worker.options.timeouts;
        let now = self.worker.timers.now_ms();
        // The time that so many octets may take; without a least pace they may take any.
        let time = |bytes: u64| bytes.saturating_mul(1000).checked_div(timeouts.body_min_bytes_per_second);
        let rate =
            |bytes: u64| time(bytes).map_or(u64::MAX, |time| (self.body_since_ms + RATE_GRACE_MS).saturating_add(time));
        let idle = now + ms(timeouts.body_idle);
        let waits_for_client = self.waits_for_client();
        if !waits_for_client {
            self.patience.rest();
        }
        let at = if waits_for_client {
            self.patience.until(now, timeouts.answer_pace(), self.written(), || self.down.stream.queued())
        } else if self.response.is_some() {
            now + self.request.policy.idle_ms
        } else if !self.awaits_body() {
            now + self.request.policy.response_ms
        } else if self.request.grpc {
            // A stream of messages may be quiet as long as an answer may.
            now + self.request.policy.idle_ms
        } else {
            idle.min(rate(self.request.body.passed()))
        };
        self.down.deadline.set_at(at.min(self.request.until_ms));
    }

    /// Returns how much of the answer was written to the client.
    fn written(&self) -> u64 {
        self.sent_bytes.saturating_sub((self.out.len() - self.out_at) as u64)
    }

    /// Returns whether a client that seems to take nothing has taken enough of what the kernel holds for it; then it is waited
    /// for again.
    pub(super) fn takes_unseen(&self) -> bool {
        let now = self.worker.timers.now_ms();
        let pace = self.worker.options.timeouts.answer_pace();
        let takes = now < self.request.until_ms
            && self.waits_for_client()
            && self.patience.renew(now, pace, self.written(), self.down.stream.queued());
        if takes {
            self.touch();
        }
        takes
    }

    /// Returns whether it is the client's turn: more of the body must come, and it does not wait for `100 Continue`.
    pub(super) fn awaits_body(&self) -> bool {
        let held_back = self.request.expects && self.interim == 0 && self.request.body.passed() == 0;
        !self.request.body.is_done() && !held_back
    }

    /// Returns whether the client has yet to take something of the answer.
    pub(super) fn waits_for_client(&self) -> bool {
        self.held_back || self.out_at < self.out.len() || self.downward.holds()
    }

    /// Says who was too slow.
    pub(super) fn expired(&self) -> ProxyError {
        if let Some(error) = self.request.overdue(self.worker.timers.now_ms()) {
            error
        } else if self.waits_for_client() {
            ProxyError::ClientStalled
        } else if self.response.is_some() {
            ProxyError::Truncated
        } else if self.awaits_body() && self.was_sent() {
            ProxyError::BodyTimeout
        } else {
            ProxyError::ResponseTimeout
        }
    }

    /// Returns whether a layer towards the client still holds of the answer: nothing more is read for it, and it is the
    /// client's turn.
    pub(super) fn holds_back(&mut self, cx: &mut Context<'_>) -> Result<bool, ProxyError> {
        if !self.down.stream.buffers() {
            return Ok(false);
        }
        match Pin::new(&mut self.down.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => self.held_back = false,
            Poll::Ready(Err(_)) => return Err(ProxyError::ClientGone),
            Poll::Pending => self.held_back = true,
        }
        Ok(self.held_back)
    }

    /// Makes the attempt; a call whose time is over inside its answer is ended in gRPC's terms.
    pub(super) async fn run(&mut self) -> Result<Outcome, ProxyError> {
        let result = poll_fn(|cx| self.poll(cx)).await;
        if let Err(error @ (ProxyError::CallTimeout | ProxyError::RequestTimeout)) = result {
            // Boxed: rare.
            Box::pin(self.end_call(error)).await;
        }
        result
    }

    /// Ends the answer to a gRPC call that has begun with the error's status in its trailers, if its body is in chunks: what
    /// was written of it is whole ones. Else, and where the client does not take them in time, it stays unended.
    async fn end_call(&mut self, error: ProxyError) {
        let open = self.response.as_ref().is_some_and(|r| r.form == Some(Form::Chunked) && !r.body.is_done());
        if !self.request.grpc || !open {
            return;
        }
        self.out.extend_from_slice(grpc::trailers(error).as_bytes());
        self.down.deadline.set(respond::WRITE_MS);
        poll_fn(|cx| {
            while let Some(rest) = self.out.get(self.out_at..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut self.down.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(n)) if n > 0 => self.out_at += n,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending if self.down.deadline.poll_expired(cx) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        })
        .await;
    }
}
