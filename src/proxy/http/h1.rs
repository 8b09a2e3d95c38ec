//! A client's HTTP/1.1 connection: head, exchange, and again while it stays open.

use crate::proxy::http::exchange::{self, Next};
use crate::proxy::http::request::{self, Head, Wait};
use crate::proxy::http::{Downstream, respond};
use crate::proxy::scratch::poll_read;
use crate::proxy::state::Worker;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use tokio::io::AsyncWriteExt;

/// After an answer that closes, so many octets are read and thrown away, so that the answer is not lost to a reset.
const LINGER_BYTES: usize = 64 * 1024;
/// And for so long.
const LINGER_MS: u64 = 2000;

/// Serves the connection to its end.
pub(crate) async fn serve(worker: &Rc<Worker>, down: &mut Downstream) {
    let mut first = true;
    loop {
        let mut wait = Wait::new(worker, down, first);
        first = false;
        let next = match poll_fn(|cx| request::poll_head(worker, down, &mut wait, cx)).await {
            Head::Request(request) => exchange::handle(worker, down, request).await,
            Head::Answer(refusal) => respond::refuse(worker, down, &refusal).await,
            Head::Closed => return,
        };
        match next {
            Next::Keep => {}
            Next::Close => return,
            Next::Linger => return linger(worker, down).await,
        }
    }
}

/// Closes in a way that lets the client read the answer: our side first, then wait for its end (RFC 9112 §9.6).
async fn linger(worker: &Worker, down: &mut Downstream) {
    if down.stream.shutdown().await.is_err() {
        return;
    }
    down.deadline.set(LINGER_MS);
    let mut left = LINGER_BYTES;
    poll_fn(|cx| {
        loop {
            let read = worker.with_scratch(|scratch| poll_read(&mut down.stream, cx, &mut scratch.input));
            match read {
                Poll::Ready(Ok(n)) if n > 0 && n <= left => left -= n,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if down.deadline.poll_expired(cx) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
