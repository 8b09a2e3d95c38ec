//! One form of each path: what is routed by is what is forwarded.
//!
//! RFC 3986 §6.2.2: percent-encoded unreserved characters are decoded, hexadecimal digits are upper case, dot segments are
//! removed; segments that are a dot segment with parameters (`..;x`) count as one, and empty segments are dropped, because
//! servers behind see both. Refused, never repaired: an encoded slash, backslash or NUL, a backslash, a broken escape, and
//! overlong UTF-8. Invariant: the result is a fixed point. The query is left as it is.

use crate::http1::reject::Reject;

/// Returns the normal form of an origin-form target; `None` when it is in normal form, which costs one look at each octet.
///
/// # Errors
/// [`Reject::Target`] for a path that two servers read in two ways.
pub fn normalise(target: &str) -> Result<Option<String>, Reject> {
    let end = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    if !path.starts_with('/') || is_plain(path.as_bytes()) {
        return Ok(None);
    }
    let decoded = decode(path.as_bytes())?;
    let mut normal = String::with_capacity(target.len());
    for segment in remove_dots(&decoded) {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() || ends_in_folder(&decoded) {
        normal.push('/');
    }
    normal.push_str(query);
    Ok((normal != target).then_some(normal))
}

/// Returns whether nothing in a path can need a change: no escape, no backslash, no `//`, no segment that begins with a dot.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let suspicious = matches!(byte, b'%' | b'\\') || (before == b'/' && matches!(byte, b'/' | b'.'));
        if suspicious {
            return false;
        }
        before = byte;
    }
    true
}

/// Decodes unreserved characters and checks every escape.
fn decode(path: &[u8]) -> Result<String, Reject> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'\\' {
            return Err(Reject::Target);
        }
        if byte != b'%' {
            decoded.push(char::from(byte));
            continue;
        }
        let value = escaped(rest).ok_or(Reject::Target)?;
        rest = rest.get(2..).unwrap_or_default();
        if matches!(value, b'/' | b'\\' | 0) || is_overlong(value, rest) {
            return Err(Reject::Target);
        }
        if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
            decoded.push(char::from(value));
        } else {
            decoded.push_str(&format!("%{value:02X}"));
        }
    }
    Ok(decoded)
}

/// Returns the value of the two hexadecimal digits at the start.
fn escaped(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let &[high, low] = digits.first_chunk::<2>()?;
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Returns whether an octet begins an encoding of a character that has a shorter one (RFC 3629 §3), the classic disguise of
/// a dot or a slash. `rest` follows it.
fn is_overlong(first: u8, rest: &[u8]) -> bool {
    let second = match rest {
        [b'%', digits @ ..] => escaped(digits),
        _ => None,
    };
    matches!((first, second), (0xC0 | 0xC1, Some(0x80..=0xBF)) | (0xE0, Some(0x80..=0x9F)) | (0xF0, Some(0x80..=0x8F)))
}

/// Returns a segment without its parameters, when those could hide a dot segment.
fn name(segment: &str) -> &str {
    let end = segment.find(';').or_else(|| segment.find("%3B")).unwrap_or(segment.len());
    segment.get(..end).unwrap_or(segment)
}

/// Returns the segments that are left: RFC 3986 §5.2.4, without empty ones.
fn remove_dots(path: &str) -> Vec<&str> {
    let mut kept = Vec::new();
    for segment in path.split('/') {
        match name(segment) {
            "" if segment.is_empty() => {}
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    kept
}

/// Returns whether a path leads to a folder: it ends with a slash or a dot segment.
fn ends_in_folder(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.is_empty() || matches!(name(last), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::normalise;
    use crate::http1::reject::Reject;
    use proptest::prelude::{prop, proptest};

    fn normal(target: &str) -> String {
        normalise(target).unwrap().unwrap_or_else(|| target.to_owned())
    }

    #[test]
    fn what_is_normal_stays_as_it_is() {
        for target in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/a.",
            "/a/b..c",
            "/a;v=1/b",
            "/a?x=/../%2f//",
            "/%C3%A4",
            "/a%20b",
            "/x%252e",
            "/%E9",
            "/a/b?",
            "/...",
            "/.well-known/x",
            "*",
            "/%C0",
        ] {
            assert_eq!(normalise(target), Ok(None), "{target}");
        }
    }

    #[test]
    fn every_disguise_has_one_form() {
        for (target, expected) in [
            ("/a/../admin", "/admin"),
            ("/a/./b", "/a/b"),
            ("/..", "/"),
            ("/../../x", "/x"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/%2e%2E/x", "/x"),
            ("/a/.%2e/x?q=%2e", "/x?q=%2e"),
            ("/a/..;x=1/admin", "/admin"),
            ("/a/..;/admin", "/admin"),
            ("/a/%2e%2e%3bx/admin", "/admin"),
            ("/.;/admin", "/admin"),
            ("//admin", "/admin"),
            ("/a//b///c", "/a/b/c"),
            ("///", "/"),
            ("/a//", "/a/"),
            ("/a//../b", "/b"),
            ("/%61dmin", "/admin"),
            ("/%7euser/%c3%a4", "/~user/%C3%A4"),
            ("/;x/..", "/"),
        ] {
            assert_eq!(normal(target), expected, "{target}");
        }
    }

    #[test]
    fn what_two_servers_read_in_two_ways_is_refused() {
        for target in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a%00",
            "/a\\b",
            "/..\\x",
            "/%",
            "/%2",
            "/%zz",
            "/a%",
            "/%c0%ae",
            "/%c0%af",
            "/%C1%9C",
            "/%e0%80%af",
            "/%f0%80%80%af",
        ] {
            assert_eq!(normalise(target), Err(Reject::Target), "{target}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_a_fixed_point_without_dot_segments(
            parts in prop::collection::vec("(/|\\.|\\.\\.|;|%2e|%3b|%61|%2541|a|b\\?|%C3%A4)", 0..12)
        ) {
            let target = format!("/{}", parts.concat());
            let once = normal(&target);
            assert_eq!(normalise(&once), Ok(None), "{target} → {once}");
            let path = once.split('?').next().unwrap();
            let mut segments = path.split('/').skip(1).peekable();
            while let Some(segment) = segments.next() {
                assert!(!matches!(segment, "." | ".."), "{target} → {once}");
                assert!(!segment.is_empty() || segments.peek().is_none(), "{target} → {once}");
            }
        }

        #[test]
        fn no_text_makes_it_panic(target in "[ -~]{0,40}") {
            let _ = normalise(&target);
        }
    }
}
