//! The thread's scratch buffer: what is read is parsed, rewritten and written within one poll.
//!
//! One for each worker, not for each connection: it stays in the CPU's cache, and idle connections own no buffer.

use crate::http1::head::Fields;
use crate::net::Stream;
use crate::proxy::options::Limits;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Room in front of what is read, so that a rewritten head can be put before the body without moving it.
pub(crate) const HEADROOM: usize = 16 * 1024;
/// One read: a head and a body of 16 KiB arrive at once; bulk moves in few calls.
const READ_BYTES: usize = 64 * 1024 + 4096;

/// The buffers of one worker.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// `HEADROOM` octets, then room for a read.
    pub(crate) input: Box<[u8]>,
    /// A head being written, and after it a transcoded body.
    pub(crate) output: Vec<u8>,
    /// The fields of the head being parsed.
    pub(crate) fields: Fields,
}

impl Scratch {
    pub(crate) fn new(limits: &Limits) -> Self {
        let read = READ_BYTES.max(limits.head_bytes + 4096);
        Self {
            input: vec![0; HEADROOM + read].into(),
            output: Vec::with_capacity(16 * 1024),
            fields: Fields::with_capacity(limits.header_fields),
        }
    }
}

/// Reads once; a short read tells tokio that the socket is drained, so that no call is wasted on EAGAIN.
pub(crate) fn poll_read(stream: &mut Stream, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<std::io::Result<usize>> {
    let mut buffer = ReadBuf::new(into);
    match Pin::new(stream).poll_read(cx, &mut buffer) {
        Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}
