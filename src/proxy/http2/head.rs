//! Heads between HTTP/2 and HTTP/1.1 octets: pure, and strict both ways (RFC 9113 §8).

use crate::http1::head::{Fields, Kind};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A head that must not be passed on in any form (RFC 9113 §8.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit;

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
            return Err(Unfit);
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
