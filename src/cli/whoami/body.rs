//! Bodies of the test backend: short text, the position pattern, an echo.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

/// Period of the pattern: a prime, so that a lost or repeated block of any usual size shifts what follows.
const PERIOD: u64 = 251;
/// Bytes of one frame of `/bytes/N`: a multiple of [`PERIOD`] just below 64 KiB.
const BLOCK_BYTES: usize = 251 * 261;
/// Bytes of one chunk of `/chunked/N`: small, so that a few kilobytes already make several chunks.
const CHUNK_BYTES: usize = 251 * 4;
/// The trailer after `/chunked/N`: the number of bytes sent.
pub(super) const TRAILER: HeaderName = HeaderName::from_static("x-bytes");

static BLOCK: LazyLock<Bytes> = LazyLock::new(|| (0..BLOCK_BYTES as u64).map(pattern_byte).collect::<Vec<u8>>().into());

/// Returns the byte at `offset` of every `/bytes/N` and `/chunked/N` answer: the offset modulo 251.
pub fn pattern_byte(offset: u64) -> u8 {
    (offset % PERIOD) as u8
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// A ready text, taken by the first frame.
    Text(Bytes),
    /// So many more bytes of the pattern, with a content-length.
    Pattern(u64),
    /// The pattern in chunks and a trailer.
    Chunked {
        /// Bytes still to send.
        left: u64,
        /// The trailer's value, taken when it is sent.
        total: Option<u64>,
    },
    /// The request's own body.
    Echo(Incoming),
}

impl Reply {
    /// Returns an empty body.
    pub(super) fn empty() -> Self {
        Self::Text(Bytes::new())
    }
}

/// Takes up to `most` bytes of the pattern from what is left; frames start at multiples of the period.
fn take_pattern(left: &mut u64, most: usize) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(most);
    *left -= length as u64;
    BLOCK.slice(..length)
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match self.get_mut() {
            Self::Text(text) if text.is_empty() => return Poll::Ready(None),
            Self::Text(text) => Frame::data(std::mem::take(text)),
            Self::Pattern(0) => return Poll::Ready(None),
            Self::Pattern(left) => Frame::data(take_pattern(left, BLOCK_BYTES)),
            Self::Chunked { left: 0, total } => {
                let Some(total) = total.take() else { return Poll::Ready(None) };
                Frame::trailers(HeaderMap::from_iter([(TRAILER, HeaderValue::from(total))]))
            }
            Self::Chunked { left, .. } => Frame::data(take_pattern(left, CHUNK_BYTES)),
            Self::Echo(incoming) => return Pin::new(incoming).poll_frame(context),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Pattern(left) => *left == 0,
            Self::Chunked { left, total } => *left == 0 && total.is_none(),
            Self::Echo(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Pattern(left) => SizeHint::with_exact(*left),
            Self::Chunked { .. } => SizeHint::default(),
            Self::Echo(incoming) => incoming.size_hint(),
        }
    }
}
