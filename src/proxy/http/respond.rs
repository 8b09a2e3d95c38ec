//! Weir's own answers: status, `weir-reason`, and a sentence for people.

use crate::clock;
use crate::http1::date::imf_fixdate;
use crate::proxy::error::phrase;
use crate::proxy::http::exchange::Next;
use crate::proxy::http::request::Refusal;
use crate::proxy::http::{Downstream, grpc};
use crate::proxy::state::Worker;
use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::task::Poll;
use tokio::io::AsyncWrite;

/// The client gets so long to take the answer.
pub(super) const WRITE_MS: u64 = 5000;

/// Answers a request that is refused or failed, and says what becomes of the connection.
pub(crate) async fn refuse(worker: &Worker, down: &mut Downstream, refusal: &Refusal) -> Next {
    worker.shard.refused(refusal.error.reason());
    let keep = refusal.keep && worker.ending_since(&down.entry).is_none();
    let hsts = down.session.as_ref().map_or("", |session| session.hsts());
    let answer = compose(refusal, keep, hsts, clock::unix_ms() / 1000);
    down.deadline.set(WRITE_MS);
    let mut at = 0;
    let written = poll_fn(|cx| {
        while let Some(rest) = answer.get(at..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut down.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(n)) if n > 0 => at += n,
                Poll::Ready(_) => return Poll::Ready(false),
                Poll::Pending if down.deadline.poll_expired(cx) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(true)
    })
    .await;
    match (written, keep) {
        (true, true) => Next::Keep,
        (true, false) => Next::Linger,
        (false, _) => Next::Close,
    }
}

fn compose(refusal: &Refusal, keep: bool, hsts: &str, unix_seconds: u64) -> Vec<u8> {
    if refusal.grpc {
        return compose_trailers(refusal, keep);
    }
    let (status, reason) = (refusal.error.status(), refusal.error.reason());
    let text = refusal.text.as_deref().unwrap_or_else(|| refusal.error.text());
    let mut answer = Vec::with_capacity(256);
    // Writing to a vector cannot fail.
    let _ = write!(
        answer,
        "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nCache-Control: no-store\r\nweir-reason: {reason}\r\n{hsts}{}{}{}",
        phrase(status),
        imf_fixdate(unix_seconds),
        text.len() + 1,
        if status == 503 { "Retry-After: 1\r\n" } else { "" },
        if status == 405 { "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" } else { "" },
        if keep { "" } else { "Connection: close\r\n" },
    );
    if let Some(location) = &refusal.location {
        let _ = write!(answer, "Location: {location}\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    if !refusal.is_head {
        let _ = writeln!(answer, "{text}");
    }
    answer
}

/// A gRPC answer without a message: what would be its trailers is its head.
fn compose_trailers(refusal: &Refusal, keep: bool) -> Vec<u8> {
    let mut answer = Vec::with_capacity(256);
    // Writing to a vector cannot fail.
    let _ = write!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\ngrpc-status: {}\r\ngrpc-message: {}\r\nweir-reason: {}\r\nContent-Length: 0\r\n{}\r\n",
        grpc::status(refusal.error),
        refusal.error.text(),
        refusal.error.reason(),
        if keep { "" } else { "Connection: close\r\n" },
    );
    answer
}
