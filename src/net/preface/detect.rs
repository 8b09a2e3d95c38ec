//! What a client speaks, by its first octets. Pure.

/// So many octets tell; fewer mostly do.
pub const MAX_BYTES: usize = 24;
/// How HTTP/2 begins without TLS (RFC 9113 §3.4).
const HTTP2: &[u8; MAX_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest method that is looked for.
const MAX_METHOD: usize = 16;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge.
    Http2,
    /// TLS.
    Tls,
    /// Anything else.
    Other,
}

/// Returns what is spoken; `None`: more octets are needed to tell. [`MAX_BYTES`] always tell.
pub fn detect(octets: &[u8]) -> Option<Protocol> {
    let head = octets.get(..MAX_BYTES).unwrap_or(octets);
    if HTTP2.starts_with(head) {
        return (head.len() == MAX_BYTES).then_some(Protocol::Http2);
    }
    match head {
        // A handshake record of any version that there is.
        [22, 3, ..] => return Some(Protocol::Tls),
        [22] => return None,
        _ => {}
    }
    // A method is a token (RFC 9110 §9.1) and a blank.
    let is_token = |octet: &u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet);
    let token = head.iter().take_while(|octet| is_token(octet)).count();
    match head.get(token) {
        _ if token > MAX_METHOD => Some(Protocol::Other),
        None => None,
        Some(b' ') if token > 0 => Some(Protocol::Http1),
        Some(_) => Some(Protocol::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::{HTTP2, Protocol, detect};

    #[test]
    fn first_octets_tell_as_soon_as_they_can() {
        use Protocol::{Http1, Http2, Other, Tls};
        for (octets, expected) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", Some(Http1)),
            (b"get / HTTP/1.1\r\n", Some(Http1)),
            (b"M-SEARCH *", Some(Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/1.1\r\n", Some(Http1)),
            (b"PRIX", None),
            (b" GET /", Some(Other)),
            (b"GET\t/", Some(Other)),
            (b"SSH-2.0-x\r\n", Some(Other)),
            (b"AAAAAAAAAAAAAAAAA", Some(Other)),
            (b"AAAAAAAAAAAAAAAA ", Some(Http1)),
            (b"\x16", None),
            (b"\x16\x03", Some(Tls)),
            (b"\x16\x02", Some(Other)),
            (b"\0\0\0\x08", Some(Other)),
        ] {
            assert_eq!(detect(octets), expected, "{}", octets.escape_ascii());
        }
        assert_eq!(detect(HTTP2), Some(Http2));
        assert_eq!(detect(&[&HTTP2[..], b"more"].concat()), Some(Http2));
    }
}
