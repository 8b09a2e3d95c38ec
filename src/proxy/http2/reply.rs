//! Heads towards an HTTP/2 endpoint: the request as HTTP/2, its answer as HTTP/1.1 octets.

use crate::http1::digest::websocket_accept;
use crate::http1::head::{Fields, Kind, RequestLine};
use crate::proxy::http2::head::{Unfit, is_clean, is_forbidden, put, take_fields};
use h2::ext::Protocol;
use http::header::{self, HeaderValue};
use http::{Method, Request, Uri, Version, response};

/// Translates a parsed HTTP/1.1 request for the other side; `None`: it does not fit HTTP/2.
pub(super) fn request(
    bytes: &[u8],
    line: &RequestLine<'_>,
    fields: &Fields,
    scheme: &'static str,
) -> Option<Request<()>> {
    let host = fields.only(Kind::Host).ok()??.value(bytes);
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(line.target).build().ok()?;
    let mut asked = Request::new(());
    *asked.version_mut() = Version::HTTP_2;
    *asked.method_mut() = Method::from_bytes(line.method.as_bytes()).ok()?;
    *asked.uri_mut() = uri;
    take_fields(bytes, fields, asked.headers_mut(), |_| false)?;
    if fields.has(Kind::Te) {
        asked.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Some(asked)
}

/// Translates a request for a WebSocket into extended CONNECT (RFC 8441 §5), which needs no proof by a key.
pub(super) fn tunnel(
    bytes: &[u8],
    line: &RequestLine<'_>,
    fields: &Fields,
    scheme: &'static str,
) -> Option<Request<()>> {
    let mut asked = request(bytes, line, fields, scheme)?;
    *asked.method_mut() = Method::CONNECT;
    asked.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
    asked.extensions_mut().insert(Protocol::from_static("websocket"));
    Some(asked)
}

/// Returns what proves to the client of a WebSocket that its key was read; nothing where there is none.
pub(super) fn proof(bytes: &[u8], fields: &Fields) -> String {
    let key = fields.iter().find(|field| field.name(bytes).eq_ignore_ascii_case(b"sec-websocket-key"));
    key.map_or_else(String::new, |key| websocket_accept(key.value(bytes)))
}

/// Writes the answer that opens a tunnel as HTTP/1.1.
pub(super) fn write_switch(parts: &response::Parts, proof: &str, out: &mut Vec<u8>) -> Result<(), Unfit> {
    put(out, &[b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"]);
    if !proof.is_empty() {
        put(out, &[b"sec-websocket-accept: ", proof.as_bytes(), b"\r\n"]);
    }
    for (name, value) in &parts.headers {
        if !is_clean(value.as_bytes()) || is_forbidden(name) {
            return Err(Unfit);
        }
        if *name != header::CONTENT_LENGTH && *name != header::SEC_WEBSOCKET_ACCEPT {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    put(out, &[b"\r\n"]);
    Ok(())
}

/// Writes an answer's head as HTTP/1.1; returns whether its body is written in chunks. `ends`: no body follows.
pub(super) fn write_answer(
    parts: &response::Parts,
    ends: bool,
    is_head: bool,
    out: &mut Vec<u8>,
) -> Result<bool, Unfit> {
    let status = parts.status.as_u16();
    put(out, &[b"HTTP/1.1 ", parts.status.as_str().as_bytes(), b" "]);
    put(out, &[parts.status.canonical_reason().unwrap_or_default().as_bytes(), b"\r\n"]);
    for (name, value) in &parts.headers {
        if !is_clean(value.as_bytes()) || is_forbidden(name) {
            return Err(Unfit);
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    let bodiless = is_head || status < 200 || status == 204 || status == 304;
    let length = parts.headers.contains_key(header::CONTENT_LENGTH);
    let chunked = !bodiless && !length && !ends;
    match (chunked, bodiless || length) {
        (true, _) => put(out, &[b"transfer-encoding: chunked\r\n\r\n"]),
        (false, false) => put(out, &[b"content-length: 0\r\n\r\n"]),
        (false, true) => put(out, &[b"\r\n"]),
    }
    Ok(chunked)
}
