//! How PostgreSQL begins TLS: a client asks in clear text, and is answered by one octet (PostgreSQL documentation, 54.2.11).

/// The longest first message that is told apart.
pub const REQUEST_BYTES: usize = 8;
/// A client's request to speak TLS.
pub const SSL_REQUEST: [u8; REQUEST_BYTES] = [0, 0, 0, 8, 4, 210, 22, 47];
/// A client's request to speak GSSAPI.
const GSS_REQUEST: [u8; REQUEST_BYTES] = [0, 0, 0, 8, 4, 210, 22, 48];

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// It cannot be told yet.
    Partial,
    /// It asks for TLS; the request has [`REQUEST_BYTES`].
    Tls,
    /// It asks for GSSAPI; the request has [`REQUEST_BYTES`].
    Gss,
    /// TLS at once, or the protocol in clear text.
    Other,
}

/// Reads the first octets of a connection.
pub fn read(octets: &[u8]) -> Reading {
    let head = octets.get(..REQUEST_BYTES).unwrap_or(octets);
    match head {
        head if head == SSL_REQUEST => Reading::Tls,
        head if head == GSS_REQUEST => Reading::Gss,
        head if SSL_REQUEST.starts_with(head) || GSS_REQUEST.starts_with(head) => Reading::Partial,
        _ => Reading::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{GSS_REQUEST, Reading, SSL_REQUEST, read};

    #[test]
    fn requests_are_told_from_what_else_a_client_may_begin_with() {
        for (request, reading) in [(SSL_REQUEST, Reading::Tls), (GSS_REQUEST, Reading::Gss)] {
            for cut in 0..request.len() {
                assert_eq!(read(&request[..cut]), Reading::Partial);
            }
            assert_eq!(read(&request), reading);
            assert_eq!(read(&[&request[..], b"x"].concat()), reading);
        }
        // A start in clear text, a request to cancel, and TLS at once.
        for other in [&b"\0\0\0\x20\0\x03\0\0user"[..], b"\0\0\0\x10\x04\xd2\x16\x2e", b"\x16\x03\x01", b"\0\0\0\x09"] {
            assert_eq!(read(other), Reading::Other, "{}", other.escape_ascii());
        }
    }
}
