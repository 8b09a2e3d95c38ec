//! What gRPC asks of a proxy beside HTTP/2: deadlines that calls bring along, and answers in its own terms.

use crate::http1::head::{Fields, Kind};
use crate::proxy::error::ProxyError;

/// What of a request's fields is gRPC's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// It is a call.
    pub(crate) is: bool,
    /// Its own time limit, in milliseconds.
    pub(crate) timeout_ms: Option<u64>,
}

/// Reads the fields of a request that came over HTTP/2.
pub(super) fn call(head: &[u8], fields: &Fields) -> Call {
    let mut found = Call::default();
    for field in fields.iter().filter(|field| field.kind == Kind::Other) {
        let name = field.name(head);
        if name.eq_ignore_ascii_case(b"content-type") {
            found.is = is_grpc(field.value(head));
        } else if name.eq_ignore_ascii_case(b"grpc-timeout") {
            found.timeout_ms = timeout_ms(field.value(head));
        }
    }
    if found.is { found } else { Call::default() }
}

/// `application/grpc`, with a subtype of its own or without (not gRPC-Web, which is plain HTTP).
fn is_grpc(value: &[u8]) -> bool {
    match value.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';' | b' ')),
        None => false,
    }
}

/// Reads `1*8DIGIT unit`; rounded up to a millisecond. What is malformed bounds nothing.
fn timeout_ms(value: &[u8]) -> Option<u64> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(number * 3_600_000),
        b'M' => Some(number * 60_000),
        b'S' => Some(number * 1000),
        b'm' => Some(number),
        b'u' => Some(number.div_ceil(1000)),
        b'n' => Some(number.div_ceil(1_000_000)),
        _ => None,
    }
}

/// Returns the status that a call is told: DEADLINE_EXCEEDED where its time is over, else by gRPC's table of HTTP
/// statuses.
pub(super) fn status(error: ProxyError) -> u8 {
    if matches!(error, ProxyError::CallTimeout | ProxyError::RequestTimeout) {
        return 4;
    }
    match error.status() {
        // INTERNAL, UNAUTHENTICATED, PERMISSION_DENIED, UNIMPLEMENTED, UNAVAILABLE, UNKNOWN.
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// Returns how a chunked answer that has begun ends in these terms: its last chunk and trailers.
pub(super) fn trailers(error: ProxyError) -> String {
    let (status, text, reason) = (status(error), error.text(), error.reason());
    format!("0\r\ngrpc-status: {status}\r\ngrpc-message: {text}\r\nweir-reason: {reason}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{is_grpc, status, timeout_ms};
    use crate::http1::reject::Reject;
    use crate::proxy::error::ProxyError;

    #[test]
    fn timeouts_have_every_unit_and_round_up() {
        let cases = [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("4m", 4), ("1u", 1), ("1001u", 2), ("1n", 1)];
        for (text, expected) in cases {
            assert_eq!(timeout_ms(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(timeout_ms(b"99999999H"), Some(99_999_999 * 3_600_000));
        for text in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", "+1S", " 1S"] {
            assert_eq!(timeout_ms(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_call_is_known_by_its_type() {
        for yes in ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"] {
            assert!(is_grpc(yes.as_bytes()), "{yes}");
        }
        for no in ["application/grpc-web", "application/json", "application/grp", ""] {
            assert!(!is_grpc(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn refusals_have_statuses_of_grpc() {
        let cases = [
            (ProxyError::NoRoute, 12),
            (ProxyError::NoEndpoint, 14),
            (ProxyError::Connect, 14),
            (ProxyError::ResponseTimeout, 14),
            (ProxyError::CallTimeout, 4),
            (ProxyError::RequestTimeout, 4),
            (ProxyError::Refused(Reject::Target), 13),
            (ProxyError::BodyTimeout, 2),
        ];
        for (error, expected) in cases {
            assert_eq!(status(error), expected, "{error:?}");
        }
    }
}
