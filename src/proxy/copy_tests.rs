//! Streams between two sides that take and give exactly what a test says.

use super::{End, Relay, Watch};
use crate::net::{Layer, Stream};
use crate::proxy::fixture::worker;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A side of a stream. Where nothing more is said it has to be waited for.
#[derive(Debug, Default)]
struct Side {
    /// What it takes of one write; `None`: it has to be waited for once, 0: it is broken.
    takes: VecDeque<Option<usize>>,
    /// What one read gives; empty: it has ended.
    gives: VecDeque<&'static [u8]>,
}

impl Side {
    fn that(takes: &[Option<usize>], gives: &[&'static [u8]]) -> Stream {
        let side = Self { takes: takes.iter().copied().collect(), gives: gives.iter().copied().collect() };
        Stream::Layered(Box::new(side))
    }
}

impl AsyncRead for Side {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.gives.pop_front() {
            Some(octets) => {
                into.put_slice(octets);
                Poll::Ready(Ok(()))
            }
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Side {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.takes.pop_front().flatten() {
            Some(0) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(most) => Poll::Ready(Ok(most.min(octets.len()))),
            None => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Layer for Side {
    fn is_idle(&mut self) -> bool {
        false
    }

    fn abort_on_close(&mut self) {}
}

/// Octets counted: received from the client, sent to it.
fn counted(relay: &Relay<'_>) -> (u64, u64) {
    let counters = &relay.watch.counters;
    (counters.received_bytes.value(), counters.sent_bytes.value())
}

#[test]
fn what_is_delivered_before_a_poll_has_to_wait_is_counted_by_that_poll() {
    let worker = worker();
    let deadline = worker.timers.register();
    let mut cx = Context::from_waker(Waker::noop());
    let mut down = Side::that(&[Some(2), None, Some(5)], &[b"question"]);
    let mut up = Side::that(&[Some(3), None, Some(4), Some(100), None, None, Some(1)], &[b"answer"]);
    let watch = Watch::original(&worker, &deadline);
    let mut relay = Relay::new(watch, (&mut down, &mut up), (b"0123456789".to_vec(), Vec::new()));
    // Three of what was read before, two of the answer; then both have to be waited for.
    assert!(relay.poll(&mut cx).is_pending());
    assert_eq!((counted(&relay), relay.carried(), relay.moved()), ((3, 2), (2, 3), 5));
    // The rest of both; of the question nothing is taken yet.
    assert!(relay.poll(&mut cx).is_pending());
    assert_eq!((counted(&relay), relay.carried(), relay.moved()), ((10, 6), (6, 10), 11));
    assert!(relay.poll(&mut cx).is_pending());
    assert_eq!((counted(&relay), relay.carried(), relay.moved()), ((11, 6), (6, 11), 1));
    assert!(relay.poll(&mut cx).is_pending());
    assert_eq!((counted(&relay), relay.moved()), ((11, 6), 0));
}

#[test]
fn what_a_side_sent_before_it_took_nothing_any_more_is_delivered_and_counted() {
    let worker = worker();
    let deadline = worker.timers.register();
    let mut cx = Context::from_waker(Waker::noop());
    let mut down = Side::that(&[Some(2), None, Some(4)], &[b"more"]);
    let mut up = Side::that(&[Some(3), Some(0)], &[b"answer", b""]);
    let watch = Watch::original(&worker, &deadline);
    let mut relay = Relay::new(watch, (&mut down, &mut up), (b"0123456789".to_vec(), Vec::new()));
    assert!(relay.poll(&mut cx).is_pending());
    assert_eq!((counted(&relay), relay.carried()), ((3, 2), (2, 3)));
    assert_eq!(relay.poll(&mut cx), Poll::Ready(End::Broken));
    assert_eq!((counted(&relay), relay.carried(), relay.moved()), ((3, 6), (6, 3), 4));
}
