//! How an endpoint's final answer is relayed: where its body ends, in what form the client gets it, and what becomes of
//! both connections afterwards (RFC 9112 §6.3, §9.3).

use crate::http1::framing::{self, Body, Form, Framing};
use crate::http1::head::{Fields, Kind, StatusLine, Version};
use crate::http1::reject::Reject;
use crate::http1::rewrite;
use crate::proxy::http::request::Request;

/// An answer once its head has come.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) body: Body,
    /// How a chunked body is written on; `None`: as it is.
    pub(super) form: Option<Form>,
    /// Whether `Transfer-Encoding: chunked` is said to the client.
    pub(super) announces_chunks: bool,
    /// Whether only the end of the connection tells the client that the body has ended.
    pub(super) until_close: bool,
    pub(super) status: u16,
    /// Whether the client's connection is closed afterwards.
    pub(super) close: bool,
    /// Whether the upstream connection may be used again, and the endpoint's own limit.
    pub(super) reuse: Option<Option<u64>>,
    /// Whether the endpoint's stream ended, and with it the body.
    pub(super) ended: bool,
}

impl Response {
    /// Decides from the head, and from the request with whether the worker drains.
    ///
    /// # Errors
    /// [`Reject`] for contradictory or malformed framing.
    pub(super) fn decide(
        head: &[u8],
        line: &StatusLine<'_>,
        fields: &Fields,
        (request, draining): (&Request, bool),
    ) -> Result<Self, Reject> {
        let framing = framing::response_body(head, fields, line.version, line.status, request.is_head)?;
        let form = match (framing, request.version) {
            (Framing::Chunked, Version::Http11) if request.trailers => Some(Form::Chunked),
            (Framing::Chunked, Version::Http11) => Some(Form::ChunkedNoTrailers),
            (Framing::Chunked, Version::Http10) => Some(Form::Plain),
            _ => None,
        };
        let until_close = framing == Framing::Close || form == Some(Form::Plain);
        let asked = rewrite::connection(head, fields);
        let stays = if line.version == Version::Http11 { !asked.close } else { asked.keep_alive && !asked.close };
        Ok(Self {
            body: Body::new(framing),
            form,
            announces_chunks: (framing == Framing::Chunked && form != Some(Form::Plain))
                || (request.is_head && request.version == Version::Http11 && fields.has(Kind::TransferEncoding)),
            until_close,
            status: line.status,
            close: !request.keep_alive || until_close || draining || !request.body.is_done(),
            reuse: (stays && framing != Framing::Close).then(|| keep_alive_ms(head, fields)),
            ended: false,
        })
    }
}

/// Reads `Keep-Alive: timeout=N` as milliseconds, a second less for the way.
fn keep_alive_ms(head: &[u8], fields: &Fields) -> Option<u64> {
    let field = fields.only(Kind::KeepAlive).ok().flatten()?;
    let text = std::str::from_utf8(field.value(head)).ok()?;
    let seconds: u64 = text.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(seconds.saturating_sub(1).saturating_mul(1000))
}
