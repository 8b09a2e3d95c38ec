//! Heads between HTTP/2 and HTTP/1.1 octets: pure, and strict both ways (RFC 9113 §8).

use crate::http1::head::{Fields, Kind, StatusLine};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version, request};

/// Cookie fields of one request; they are joined into one (RFC 9113 §8.2.3).
const MAX_CRUMBS: usize = 128;

/// Why a request does not reach the request path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Malformed (RFC 9113 §8.1.1): its stream is reset.
    Malformed,
    /// It is answered this status.
    Status(u16),
}

/// What a request is beside its head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Answered without a body.
    pub(super) is_head: bool,
    /// Its body is written in chunks.
    pub(super) chunked: bool,
    /// Extended CONNECT for a WebSocket (RFC 8441).
    pub(super) tunnel: bool,
}

/// Writes a request's head as HTTP/1.1; `ends`: no body follows. `key` is the `Sec-WebSocket-Key` that a tunnel gets.
///
/// # Errors
/// [`Unfit`] for what must not be passed on in any form.
pub(super) fn write_request(parts: &request::Parts, ends: bool, key: &[u8], out: &mut Vec<u8>) -> Result<Shape, Unfit> {
    let fields = &parts.headers;
    let host = authority(parts)?;
    let tunnel = match parts.extensions.get::<h2::ext::Protocol>() {
        None => false,
        Some(protocol) if protocol.as_str() == "websocket" && !ends => true,
        Some(_) => return Err(Unfit::Status(501)),
    };
    let target = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let target = match (&parts.method, target) {
        // Refused by the request path, which says so.
        (&Method::CONNECT, _) if !tunnel => std::str::from_utf8(host).map_err(|_| Unfit::Malformed)?,
        (&Method::OPTIONS, "*") => "*",
        (_, target) if target.starts_with('/') => target,
        _ => return Err(Unfit::Malformed),
    };
    let method = if tunnel { "GET" } else { parts.method.as_str() };
    put(out, &[method.as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"]);
    if !host.is_empty() {
        put(out, &[b"host: ", host, b"\r\n"]);
    }
    write_fields(fields, out)?;
    let shape = Shape { is_head: parts.method == Method::HEAD, chunked: false, tunnel };
    if tunnel {
        put(out, &[b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", key, b"\r\n\r\n"]);
        return Ok(shape);
    }
    // A call over HTTP/2 takes its status from trailers, whether it says so or not.
    if is_grpc(fields) && !fields.contains_key(header::TE) {
        put(out, &[b"te: trailers\r\n"]);
    }
    let length = fields.contains_key(header::CONTENT_LENGTH);
    let bodily = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    let chunked = !ends && !length;
    match (chunked, length) {
        (true, _) => put(out, &[b"transfer-encoding: chunked\r\n\r\n"]),
        (false, false) if bodily => put(out, &[b"content-length: 0\r\n\r\n"]),
        _ => put(out, &[b"\r\n"]),
    }
    Ok(Shape { chunked, ..shape })
}

/// Returns `:authority`, or `Host` in its absence; both must agree (RFC 9113 §8.3.1).
fn authority(parts: &request::Parts) -> Result<&[u8], Unfit> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next().map(HeaderValue::as_bytes), hosts.next());
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    match (authority, host) {
        _ if more.is_some() => Err(Unfit::Malformed),
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => Err(Unfit::Malformed),
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) if is_clean(host) => Ok(host),
        (None, Some(_)) => Err(Unfit::Malformed),
        (None, None) => Ok(b""),
    }
}

/// Writes what is not framing; cookie crumbs become one field.
fn write_fields(fields: &HeaderMap, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let mut crumbs = 0;
    for (name, value) in fields {
        if !is_clean(value.as_bytes()) || is_forbidden(name) {
            return Err(Unfit::Malformed);
        }
        if name == header::COOKIE {
            crumbs += 1;
        } else if name != header::HOST {
            put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    if crumbs > MAX_CRUMBS {
        return Err(Unfit::Status(431));
    }
    for (index, crumb) in fields.get_all(header::COOKIE).iter().enumerate() {
        put(out, &[if index == 0 { b"cookie: " } else { b"; " }, crumb.as_bytes()]);
    }
    if crumbs > 0 {
        put(out, &[b"\r\n"]);
    }
    Ok(())
}

/// RFC 9113 §8.2.1: no blank at either end; the rest is refused where it is decoded, and checked once more here.
pub(super) fn is_clean(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let plain = |&b: &u8| b == b'\t' || (b >= b' ' && b != 127);
    !blank(value.first()) && !blank(value.last()) && value.iter().all(plain)
}

/// RFC 9113 §8.2.2: what is about a connection.
pub(super) fn is_forbidden(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Returns whether the fields are those of a gRPC message.
pub(super) fn is_grpc(fields: &HeaderMap) -> bool {
    fields.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Translates a parsed HTTP/1.1 answer; `None`: it does not fit HTTP/2. A 101 becomes the 200 of a tunnel (RFC 8441 §5).
pub(super) fn answer(bytes: &[u8], line: &StatusLine<'_>, fields: &Fields) -> Option<Response<()>> {
    let tunnel = line.status == 101;
    let mut answer = Response::new(());
    *answer.version_mut() = Version::HTTP_2;
    *answer.status_mut() = if tunnel { StatusCode::OK } else { StatusCode::from_u16(line.status).ok()? };
    let drop = |name: &[u8]| tunnel && name.eq_ignore_ascii_case(b"sec-websocket-accept");
    take_fields(bytes, fields, answer.headers_mut(), drop)?;
    Some(answer)
}

/// Copies what is not about the connection; all values share one allocation.
pub(super) fn take_fields(
    bytes: &[u8],
    fields: &Fields,
    into: &mut HeaderMap,
    drop: impl Fn(&[u8]) -> bool,
) -> Option<()> {
    let shared = Bytes::copy_from_slice(bytes);
    into.reserve(fields.iter().len());
    for field in fields.iter() {
        let stays = match field.kind {
            Kind::Host | Kind::TransferEncoding | Kind::Connection | Kind::Upgrade | Kind::KeepAlive | Kind::Te => {
                false
            }
            Kind::Hop => field.name(bytes).eq_ignore_ascii_case(b"proxy-authenticate"),
            _ => !drop(field.name(bytes)),
        };
        if stays {
            let name = HeaderName::from_bytes(field.name(bytes)).ok()?;
            let value = HeaderValue::from_maybe_shared(shared.slice_ref(field.value(bytes_of(&shared, bytes)))).ok()?;
            into.append(name, value);
        }
    }
    Some(())
}

/// The copy, as long as what it was made of.
fn bytes_of<'a>(shared: &'a Bytes, bytes: &[u8]) -> &'a [u8] {
    shared.get(..bytes.len()).unwrap_or_default()
}

/// Writes the last chunk and the trailers.
pub(super) fn write_trailers(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) -> Result<(), Unfit> {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !is_clean(value.as_bytes()) {
            return Err(Unfit::Malformed);
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Reads a checked trailer section, its empty line included.
pub(super) fn trailers(section: &[u8]) -> Option<HeaderMap> {
    let mut found = HeaderMap::new();
    for line in section.split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let name = HeaderName::from_bytes(name).ok()?;
        if is_forbidden(&name) {
            continue;
        }
        found.append(name, HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?);
    }
    (!found.is_empty()).then_some(found)
}

pub(super) fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Encodes 16 octets as a `Sec-WebSocket-Key` (RFC 6455 §4.1, RFC 4648 §4).
pub(super) fn key(octets: u128) -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = [b'='; 24];
    for (index, place) in text.iter_mut().take(22).enumerate() {
        // The first of 22 digits has the highest six bits; the last has two, and four that are zero.
        let bits = if index < 21 { octets >> (122 - 6 * index) } else { octets << 4 };
        *place = DIGITS.get((bits & 63) as usize).copied().unwrap_or(b'A');
    }
    text
}
