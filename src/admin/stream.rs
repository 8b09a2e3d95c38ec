//! A bounded channel as a stream: what a task sends becomes the body of an answer.

use futures_core::Stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Ends when the sender is dropped; dropping it tells the sender that the reader is gone.
#[derive(Debug)]
pub(super) struct Feed<T>(pub(super) mpsc::Receiver<T>);

impl<T> Stream for Feed<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(context)
    }
}
