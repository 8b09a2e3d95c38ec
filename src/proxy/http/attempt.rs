//! One attempt: send the request to one endpoint, relay its answer.
//!
//! A hand-written state machine, polled by the connection's task: the request's body goes up while the answer comes
//! down. A small exchange is one write and one read on the upstream and one write on the client. What cannot be written
//! at once is kept in `out`, and the endpoint is not read meanwhile: back-pressure reaches it.

use crate::clock;
use crate::http1::head::{self, Kind, StatusLine, Version};
use crate::http1::reject::Reject;
use crate::http1::rewrite::{self, Persistence};
use crate::net::{Stream, Unserved};
use crate::proxy::error::ProxyError;
use crate::proxy::http::Downstream;
use crate::proxy::http::bulk::Bulk;
use crate::proxy::http::request::Request;
use crate::proxy::http::response::Response;
use crate::proxy::patience::Patience;
use crate::proxy::scratch::{HEADROOM, Scratch, poll_read};
use crate::proxy::state::Worker;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// Interim answers (1xx) of one request.
const MAX_INTERIM: u8 = 16;
/// After so many octets in one poll other connections get a turn: after each full piece.
const TURN_BYTES: usize = 16 * 1024;
/// Octets of one read: a head and a body of 16 KiB come at once. Beside pieces of 32 KiB, up to two in a turn, a third of the turns
/// are longer than 200 microseconds, and bulk is no slower: what is copied stays in the near cache.
const PIECE_BYTES: usize = 20 * 1024;
/// How an attempt ended well.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer was relayed.
    Done(Finished),
    /// The endpoint switched protocols: both sides become a tunnel, starting with these octets from the endpoint.
    Switched(Vec<u8>),
}

/// A relayed answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    pub(crate) status: u16,
    /// Whether the client's connection must be closed.
    pub(crate) close: bool,
    /// Whether the request's body was not read to its end.
    pub(crate) unread: bool,
    pub(crate) reuse: Option<Option<u64>>,
}

/// One attempt in progress.
pub(crate) struct Attempt<'a> {
    pub(super) worker: &'a Worker,
    pub(super) down: &'a mut Downstream,
    pub(super) request: &'a mut Request,
    pub(super) up: &'a mut Stream,
    /// Octets of the request's buffer that were written.
    pub(super) sent: usize,
    /// The endpoint takes no more; an answer may still be there.
    pub(super) send_broken: bool,
    /// It was found there that the endpoint reset the connection, which a read is not told again: its end is none in order.
    pub(super) was_reset: bool,
    pub(super) interim: u8,
    pub(super) response: Option<Response>,
    /// The answer's head so far, when it came in pieces.
    partial: Vec<u8>,
    /// What the client has not taken yet.
    pub(super) out: Vec<u8>,
    pub(super) out_at: usize,
    /// How large bodies pass: the request's and the answer's.
    pub(super) upward: Bulk,
    pub(super) downward: Bulk,
    /// A layer towards the client holds what the client has not taken yet.
    pub(super) held_back: bool,
    /// Whether a gateway error is given to the client; else it is an error, and another endpoint is tried.
    pass_gateway_errors: bool,
    switched: Option<Vec<u8>>,
    /// Whether a part of the final answer was given to the client, and whether all of it.
    pub(super) begun: bool,
    pub(super) whole: bool,
    /// Since when the client could send the body, by the coarse clock.
    pub(super) body_since_ms: u64,
    pub(crate) sent_bytes: u64,
    /// While the client has yet to take something.
    pub(super) patience: Patience,
    pub(crate) first_byte: Option<Instant>,
}

/// What a step did.
pub(super) enum Step {
    Idle,
    Moved(usize),
    Ended(Outcome),
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(
        worker: &'a Worker,
        down: &'a mut Downstream,
        request: &'a mut Request,
        up: &'a mut Stream,
        pass_gateway_errors: bool,
    ) -> Self {
        Self {
            worker,
            down,
            request,
            up,
            sent: 0,
            send_broken: false,
            was_reset: false,
            interim: 0,
            response: None,
            partial: Vec::new(),
            out: Vec::new(),
            out_at: 0,
            upward: Bulk::default(),
            downward: Bulk::default(),
            held_back: false,
            pass_gateway_errors,
            switched: None,
            begun: false,
            whole: false,
            body_since_ms: worker.timers.now_ms(),
            sent_bytes: 0,
            patience: Patience::default(),
            first_byte: None,
        }
    }

    /// Returns whether the client's connection is inside an answer, so that no other can be given.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun || !self.out.is_empty()
    }

    /// Returns whether the endpoint has sent anything.
    pub(crate) fn was_answered(&self) -> bool {
        self.first_byte.is_some()
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome, ProxyError>> {
        let mut moved = 0;
        loop {
            let before = moved;
            match self.poll_request(cx) {
                Ok(n) => moved += n,
                Err(error) => return Poll::Ready(Err(error)),
            }
            let progress = match self.poll_response(cx) {
                Ok(Step::Ended(outcome)) => {
                    self.whole = true;
                    return Poll::Ready(Ok(outcome));
                }
                Ok(Step::Moved(n)) => {
                    moved += n;
                    true
                }
                Ok(Step::Idle) => moved > before,
                Err(error) => return Poll::Ready(Err(error)),
            };
            if !progress {
                break;
            }
            self.touch();
            if moved > TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.flush(cx)?;
        if !self.down.deadline.poll_expired(cx) || (self.takes_unseen() && !self.down.deadline.poll_expired(cx)) {
            return Poll::Pending;
        }
        Poll::Ready(Err(self.expired()))
    }

    /// Moves the request up; returns how many octets moved.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<usize, ProxyError> {
        let mut moved = 0;
        while !self.send_broken && moved <= TURN_BYTES {
            let pending = self.request.buffer.get(self.sent..).unwrap_or_default();
            if pending.is_empty() {
                let more = match self.poll_upload(cx)? {
                    Some(n) => n,
                    None if self.request.body.is_done() => 0,
                    None => usize::from(self.poll_body(cx)?),
                };
                if more == 0 {
                    return Ok(moved);
                }
                moved += more;
                continue;
            }
            match Pin::new(&mut *self.up).poll_write(cx, pending) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.sent += n;
                    moved += n;
                }
                Poll::Ready(sent) => self.sends_no_more(sent.err()),
                Poll::Pending => return Ok(moved),
            }
        }
        Ok(moved)
    }

    /// Reads more of the request's body; returns whether any came.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Result<bool, ProxyError> {
        let Self { worker, down, request, sent, upward, .. } = self;
        let limits = &worker.options.limits;
        if !request.replayable || request.buffer.len() > request.head_len + limits.retry_body_bytes {
            request.replayable = false;
            request.buffer.clear();
            *sent = 0;
        }
        worker.with_scratch(|scratch| {
            let room = scratch.input.get_mut(HEADROOM..).unwrap_or_default();
            let most = PIECE_BYTES.min(room.len());
            let n = match poll_read(&mut down.stream, cx, room.get_mut(..most).unwrap_or_default()) {
                Poll::Ready(Ok(n)) if n > 0 => n,
                Poll::Ready(_) => return Err(ProxyError::ClientGone),
                Poll::Pending => return Ok(false),
            };
            upward.was_read(n == most);
            let input = room.get(..n).unwrap_or_default();
            let used = request.take_body(input, limits.body_bytes).map_err(ProxyError::Refused)?;
            request.keep_alive &= down.keep(worker, input.get(used..).unwrap_or_default());
            Ok(true)
        })
    }

    /// Moves the answer down.
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Result<Step, ProxyError> {
        let mut moved = 0;
        while let Some(pending) = self.out.get(self.out_at..).filter(|pending| !pending.is_empty()) {
            match Pin::new(&mut self.down.stream).poll_write(cx, pending) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.out_at += n;
                    moved += n;
                }
                Poll::Ready(_) => return Err(ProxyError::ClientGone),
                Poll::Pending if moved > 0 => return Ok(Step::Moved(moved)),
                Poll::Pending => return Ok(Step::Idle),
            }
        }
        self.out.clear();
        self.out_at = 0;
        if self.holds_back(cx)? {
            return Ok(if moved > 0 { Step::Moved(moved) } else { Step::Idle });
        }
        if let Some(outcome) = self.ended().filter(|_| !self.downward.holds()) {
            return Ok(Step::Ended(outcome));
        }
        if let Some(step) = self.poll_download(cx)? {
            return Ok(step);
        }
        let worker = self.worker;
        worker.with_scratch(|scratch| self.receive(scratch, cx))
    }

    fn ended(&mut self) -> Option<Outcome> {
        if let Some(rest) = self.switched.take() {
            return Some(Outcome::Switched(rest));
        }
        let response = self.response.as_ref().filter(|r| r.ended || r.body.is_done())?;
        let unread = !self.request.body.is_done();
        let complete = !unread && self.was_sent() && !self.send_broken;
        Some(Outcome::Done(Finished {
            status: response.status,
            close: response.close || unread || !self.request.keep_alive,
            unread,
            reuse: response.reuse.filter(|_| complete && !response.ended),
        }))
    }

    /// Reads from the endpoint and writes what came to the client.
    fn receive(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Result<Step, ProxyError> {
        let have = self.partial.len();
        if let Some(front) = scratch.input.get_mut(HEADROOM..HEADROOM + have) {
            front.copy_from_slice(&self.partial);
        }
        let room = scratch.input.get_mut(HEADROOM + have..).unwrap_or_default();
        let most = self.down.stream.room().min(room.len()).min(PIECE_BYTES);
        let n = match poll_read(self.up, cx, room.get_mut(..most).unwrap_or_default()) {
            Poll::Pending => return Ok(Step::Idle),
            Poll::Ready(Ok(n)) if n > 0 => n,
            Poll::Ready(read) => return self.lost(read.err()),
        };
        if self.first_byte.is_none() {
            self.first_byte = Some(clock::now());
        }
        self.partial.clear();
        let end = HEADROOM + have + n;
        scratch.output.clear();
        let start = match self.response {
            Some(_) => HEADROOM,
            None => match self.heads(scratch, HEADROOM, end)? {
                Some(start) => start,
                None => {
                    self.write_parts(scratch, cx)?;
                    return Ok(Step::Moved(n));
                }
            },
        };
        self.downward.was_read(n == most);
        self.relay(scratch, (start, end), cx)?;
        let passed_on = self.out.is_empty() && !self.holds_back(cx)?;
        match self.ended().filter(|_| passed_on) {
            Some(outcome) => Ok(Step::Ended(outcome)),
            None => Ok(Step::Moved(n)),
        }
    }

    /// The endpoint's stream ended, in order or by an error.
    pub(super) fn lost(&mut self, error: Option<io::Error>) -> Result<Step, ProxyError> {
        let malformed = error.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData);
        match &mut self.response {
            None => Err(match self.up.unserved() {
                Some(Unserved::Refused) => ProxyError::StreamRefused,
                Some(Unserved::NoTunnel) => ProxyError::NoWebsocket,
                None if malformed => ProxyError::BadResponse(Reject::FieldName),
                None => ProxyError::Reset,
            }),
            Some(response) if error.is_none() && !self.was_reset && response.body.ends_with_connection() => {
                response.ended = true;
                Ok(Step::Moved(0))
            }
            Some(_) => Err(ProxyError::Truncated),
        }
    }

    /// Parses heads until the final one; its rewritten form is in `scratch.output`. Returns where the body starts.
    fn heads(&mut self, scratch: &mut Scratch, mut start: usize, end: usize) -> Result<Option<usize>, ProxyError> {
        loop {
            let Scratch { input, output, fields } = scratch;
            let bytes = input.get(start..end).unwrap_or_default();
            let parsed = head::parse_response(bytes, &self.worker.limits, fields).map_err(ProxyError::BadResponse)?;
            let Some(line) = parsed else {
                self.partial.extend_from_slice(bytes);
                return Ok(None);
            };
            let head = bytes.get(..line.len).unwrap_or_default();
            if line.status == 101 {
                self.switch(head, &line, fields, output)?;
                self.switched = Some(bytes.get(line.len..).unwrap_or_default().to_vec());
                return Ok(None);
            }
            start += line.len;
            if line.status >= 200 {
                self.begin(head, &line, fields, output)?;
                return Ok(Some(start));
            }
            if self.interim == 0 && self.request.expects {
                self.body_since_ms = self.worker.timers.now_ms();
            }
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(ProxyError::BadResponse(Reject::StartLine));
            }
            // An HTTP/1.0 client knows no interim answers (RFC 9110 §15.2).
            if self.request.version == Version::Http11 {
                rewrite::response(head, &line, fields, false, Persistence::Open, output);
            }
        }
    }

    /// Accepts a 101: only for a request that asked for it.
    fn switch(
        &self,
        head: &[u8],
        line: &StatusLine<'_>,
        fields: &head::Fields,
        out: &mut Vec<u8>,
    ) -> Result<(), ProxyError> {
        let websocket =
            fields.only(Kind::Upgrade).ok().flatten().is_some_and(|f| f.value(head).eq_ignore_ascii_case(b"websocket"));
        if !self.request.websocket || !websocket {
            return Err(ProxyError::BadResponse(Reject::StartLine));
        }
        rewrite::response(head, line, fields, false, Persistence::Upgrade, out);
        Ok(())
    }

    /// Decides how the final answer is relayed and rewrites its head.
    fn begin(
        &mut self,
        head: &[u8],
        line: &StatusLine<'_>,
        fields: &head::Fields,
        out: &mut Vec<u8>,
    ) -> Result<(), ProxyError> {
        let request = &*self.request;
        let draining = self.worker.ending_since(&self.down.entry).is_some();
        let response = Response::decide(head, line, fields, (request, draining)).map_err(ProxyError::BadResponse)?;
        let may_move_on = !self.pass_gateway_errors && request.replayable;
        if matches!(line.status, 502..=504) && may_move_on && self.worker.affords_retry(request.target.slot) {
            return Err(ProxyError::GatewayStatus(line.status));
        }
        let persistence = match (response.close, request.version) {
            (true, _) => Persistence::Close,
            (false, Version::Http11) => Persistence::Open,
            (false, Version::Http10) => Persistence::KeepAlive,
        };
        rewrite::response(head, line, fields, response.announces_chunks, persistence, out);
        if let Some(session) = &self.down.session {
            session.add_hsts(out, fields.iter().map(|field| field.name(head)));
        }
        self.response = Some(response);
        Ok(())
    }

    /// Relays what is at hand of the body, after the head in `scratch.output` if there is one.
    fn relay(
        &mut self,
        scratch: &mut Scratch,
        (start, end): (usize, usize),
        cx: &mut Context<'_>,
    ) -> Result<(), ProxyError> {
        let Some(response) = &mut self.response else { return Ok(()) };
        let bytes = scratch.input.get(start..end).unwrap_or_default();
        let used = match response.form {
            Some(form) => response.body.transcode(bytes, form, &mut scratch.output),
            None => response.body.advance(bytes),
        }
        .map_err(ProxyError::BadResponse)?;
        if used < bytes.len() {
            // Octets after the end of the answer: the endpoint is out of step, its connection is not used again.
            response.reuse = None;
        }
        if response.form.is_some() || used == 0 {
            return self.write_parts(scratch, cx);
        }
        // The rewritten head goes right before the body, where the endpoint's own head was: one plain write.
        let head = &scratch.output;
        let from = start.saturating_sub(head.len());
        if from + head.len() == start
            && let Some(place) = scratch.input.get_mut(from..start)
        {
            place.copy_from_slice(head);
            let whole = scratch.input.get(from..start + used).unwrap_or_default();
            return self.write(whole, cx);
        }
        self.write(&scratch.output, cx)?;
        let body = scratch.input.get(start..start + used).unwrap_or_default();
        self.write(body, cx)
    }

    /// Returns whether the client's connection is closed at once when everything at hand is written.
    fn closes_next(&self) -> bool {
        let whole = self.response.as_ref().is_some_and(|response| response.body.is_done());
        whole && !self.request.keep_alive && self.request.body.is_done()
    }

    /// Writes `scratch.output`.
    fn write_parts(&mut self, scratch: &Scratch, cx: &mut Context<'_>) -> Result<(), ProxyError> {
        self.write(&scratch.output, cx)
    }

    /// Writes to the client at once if nothing is pending; keeps what it does not take.
    fn write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Result<(), ProxyError> {
        self.begun |= self.response.is_some() || self.switched.is_some();
        self.sent_bytes += bytes.len() as u64;
        let mut written = 0;
        let last = self.closes_next();
        if self.out.is_empty() && !bytes.is_empty() {
            let stream = &mut self.down.stream;
            let wrote = match last {
                true => stream.poll_write_last(cx, bytes),
                false => Pin::new(stream).poll_write(cx, bytes),
            };
            match wrote {
                Poll::Ready(Ok(n)) if n > 0 => written = n,
                Poll::Ready(_) => return Err(ProxyError::ClientGone),
                Poll::Pending => {}
            }
        }
        self.out.extend_from_slice(bytes.get(written..).unwrap_or_default());
        Ok(())
    }
}
