//! A parsed HTTP/1.1 answer → the block of its head; and a trailer section → the block of trailers.

use crate::http1::head::{Fields, Kind, StatusLine, kind};
use crate::http2::hpack::Encoder;

/// How an answer ends its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With its head.
    Head,
    /// Later.
    Body,
    /// Not by itself: it is the 101 that opens a tunnel, and becomes the 200 of it (RFC 8441 §5).
    Tunnel,
}

/// Appends the block of an answer's head: what is about the connection is left out.
pub fn encode(
    bytes: &[u8],
    line: &StatusLine<'_>,
    fields: &Fields,
    ending: Ending,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) {
    let tunnel = ending == Ending::Tunnel;
    encoder.begin(if tunnel { 200 } else { line.status }, out);
    // Trailers alone have no length.
    let call = ending == Ending::Head && fields.iter().any(|f| f.name(bytes).eq_ignore_ascii_case(b"grpc-status"));
    for field in fields.iter() {
        let name = field.name(bytes);
        let stays = match field.kind {
            Kind::Host | Kind::TransferEncoding | Kind::Connection | Kind::Upgrade | Kind::KeepAlive | Kind::Te => {
                false
            }
            Kind::Hop => name.eq_ignore_ascii_case(b"proxy-authenticate"),
            Kind::ContentLength => !call,
            _ => !(tunnel && name.eq_ignore_ascii_case(b"sec-websocket-accept")),
        };
        if stays {
            lower(name, |name| encoder.field(name, field.value(bytes), out));
        }
    }
}

/// Appends the block of a checked trailer section; returns whether there is a field in it.
pub fn encode_trailers(section: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) -> bool {
    let at = out.len();
    let lines = || {
        section.split(|&b| b == b'\n').filter_map(|line| {
            let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
            Some((name, value.get(1..)?.trim_ascii()))
        })
    };
    let stays = |name: &[u8]| matches!(kind(name), Kind::Other | Kind::RequestId);
    if !lines().any(|(name, _)| stays(name)) {
        return false;
    }
    encoder.begin_trailers(out);
    for (name, value) in lines().filter(|(name, _)| stays(name)) {
        lower(name, |name| encoder.field(name, value, out));
    }
    out.len() > at
}

/// Gives a name in lower case (RFC 9113 §8.2).
fn lower(name: &[u8], with: impl FnOnce(&[u8])) {
    let mut short = [0u8; 64];
    match short.get_mut(..name.len()) {
        Some(place) => {
            place.copy_from_slice(name);
            place.make_ascii_lowercase();
            with(place);
        }
        None => with(&name.to_ascii_lowercase()),
    }
}
