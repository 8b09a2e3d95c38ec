//! A parsed head → the head that is forwarded, in one pass into the caller's buffer.
//!
//! Removes hop-by-hop fields and what `Connection` names (RFC 9110 §7.6.1), sets the forwarding fields (RFC 7239's
//! predecessors that applications read), `Via` (RFC 9110 §7.6.3) and the framing. Lines that stay are copied as they are,
//! neighbours in one copy.

use crate::http1::framing::Framing;
use crate::http1::head::{Fields, Kind, RequestLine, StatusLine, Version};
use crate::http1::reject::Reject;

/// What the forwarded request says of where it goes and whence it came.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'a> {
    /// The effective authority and target.
    pub authority: Authority<'a>,
    /// How the body is delimited.
    pub framing: Framing,
    /// The client's address as text.
    pub client: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Whether the client is a trusted proxy: its forwarding fields are kept and `X-Forwarded-For` is appended to.
    pub trusted: bool,
    /// Field lines that say who the client is by its certificate, or nothing.
    pub identity: &'a [u8],
    /// The id to set when the client sent none that is kept.
    pub request_id: &'a [u8],
    /// Whether the head was received over HTTP/2.
    pub http2: bool,
}

/// What `Connection` and its companions ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connection {
    /// `close` was there.
    pub close: bool,
    /// `keep-alive` was there.
    pub keep_alive: bool,
    /// `upgrade` was there and `Upgrade` is `websocket` alone.
    pub websocket: bool,
    /// `TE: trailers` was there.
    pub trailers: bool,
}

/// Reads `Connection`, `Upgrade` and `TE`.
pub fn connection(head: &[u8], fields: &Fields) -> Connection {
    let mut found = Connection::default();
    let mut upgrade = false;
    for field in fields.iter() {
        match field.kind {
            Kind::Connection => {
                for option in options(field.value(head)) {
                    found.close |= option.eq_ignore_ascii_case(b"close");
                    found.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            Kind::Te => found.trailers |= options(field.value(head)).any(|o| o.eq_ignore_ascii_case(b"trailers")),
            _ => {}
        }
    }
    if upgrade && let Ok(Some(field)) = fields.only(Kind::Upgrade) {
        found.websocket = field.value(head).eq_ignore_ascii_case(b"websocket");
    }
    found
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

/// Returns whether some `Connection` field names this field.
fn is_named(head: &[u8], fields: &Fields, name: &[u8]) -> bool {
    fields
        .iter()
        .filter(|f| f.kind == Kind::Connection)
        .any(|f| options(f.value(head)).any(|option| option.eq_ignore_ascii_case(name)))
}

/// Returns whether `Connection` names anything but the options that every connection uses.
fn names_fields(head: &[u8], fields: &Fields) -> bool {
    const USUAL: [&[u8]; 4] = [b"close", b"keep-alive", b"upgrade", b"te"];
    fields
        .iter()
        .filter(|f| f.kind == Kind::Connection)
        .any(|f| options(f.value(head)).any(|o| !USUAL.iter().any(|usual| o.eq_ignore_ascii_case(usual))))
}

/// Copies lines that stay, merging neighbours into one copy.
struct Copier<'a, 'b> {
    head: &'a [u8],
    out: &'b mut Vec<u8>,
    from: usize,
    to: usize,
}

impl Copier<'_, '_> {
    fn keep(&mut self, (start, end): (usize, usize)) {
        if start != self.to {
            self.flush();
            self.from = start;
        }
        self.to = end;
    }

    fn flush(&mut self) {
        self.out.extend_from_slice(self.head.get(self.from..self.to).unwrap_or_default());
        self.from = self.to;
    }
}

/// Writes the request head for the upstream.
pub fn request(head: &[u8], line: &RequestLine<'_>, fields: &Fields, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    let Forwarding { authority: Authority { host, target }, framing, .. } = *forwarding;
    let asked = connection(head, fields);
    // Absolute form with a query and no path: the path is `/` (RFC 9112 §3.2.2).
    let slash: &[u8] = if target.starts_with('?') { b"/" } else { b"" };
    put(out, &[line.method.as_bytes(), b" ", slash, target.as_bytes(), b" HTTP/1.1\r\nHost: ", host, b"\r\n"]);
    let named = names_fields(head, fields);
    let mut request_id = false;
    let mut copier = Copier { head, out, from: 0, to: 0 };
    for field in fields.iter() {
        let stays = match field.kind {
            Kind::Other => !named || !is_named(head, fields, field.name(head)),
            Kind::ContentLength => matches!(framing, Framing::Length(_)) || framing == Framing::None,
            // RFC 9110 §10.1.1: without a body there is nothing to wait for, and HTTP/1.0 knows no expectation.
            Kind::Expect => framing != Framing::None && line.version > Version::Http10,
            Kind::Forwarded => forwarding.trusted,
            Kind::RequestId => {
                let stays = forwarding.trusted && !field.value(head).is_empty();
                request_id |= stays;
                stays
            }
            Kind::Host
            | Kind::TransferEncoding
            | Kind::Connection
            | Kind::Upgrade
            | Kind::Te
            | Kind::KeepAlive
            | Kind::Hop
            | Kind::Identity
            | Kind::ForwardedFor => false,
        };
        if stays {
            copier.keep(field.line());
        }
    }
    copier.flush();
    if framing == Framing::Chunked {
        put(out, &[b"Transfer-Encoding: chunked\r\n"]);
    }
    if asked.websocket && may_upgrade(line, framing) {
        put(out, &[b"Connection: upgrade\r\nUpgrade: websocket\r\n"]);
    } else if asked.trailers {
        put(out, &[b"Connection: te\r\nTE: trailers\r\n"]);
    }
    forwarded_for(head, fields, forwarding, out);
    if !forwarding.trusted || !fields.iter().any(|f| f.name(head).eq_ignore_ascii_case(b"x-forwarded-proto")) {
        put(out, &[b"X-Forwarded-Proto: ", forwarding.scheme.as_bytes(), b"\r\n"]);
    }
    if !forwarding.trusted || !fields.iter().any(|f| f.name(head).eq_ignore_ascii_case(b"x-forwarded-host")) {
        put(out, &[b"X-Forwarded-Host: ", host, b"\r\n"]);
    }
    put(out, &[forwarding.identity]);
    if !request_id {
        put(out, &[b"X-Request-Id: ", forwarding.request_id, b"\r\n"]);
    }
    // RFC 9110 §7.6.3: the version is the one that was received.
    let via: &[u8] = match line.version {
        _ if forwarding.http2 => b"Via: 2 weir\r\n\r\n",
        Version::Http10 => b"Via: 1.0 weir\r\n\r\n",
        Version::Http11 => b"Via: 1.1 weir\r\n\r\n",
    };
    put(out, &[via]);
}

/// Returns whether a request may ask for a tunnel: a GET without a body, not HTTP/1.0 (RFC 6455 §4.1, RFC 9110 §7.8).
pub fn may_upgrade(line: &RequestLine<'_>, framing: Framing) -> bool {
    line.method == "GET" && framing == Framing::None && line.version > Version::Http10
}

fn forwarded_for(head: &[u8], fields: &Fields, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
    put(out, &[b"X-Forwarded-For: "]);
    if forwarding.trusted {
        for field in fields.iter().filter(|f| f.kind == Kind::ForwardedFor && !f.value(head).is_empty()) {
            put(out, &[field.value(head), b", "]);
        }
    }
    put(out, &[forwarding.client, b"\r\n"]);
}

/// How the connection to the client goes on after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1 and stays open: nothing to say.
    Open,
    /// HTTP/1.0 that asked to stay open.
    KeepAlive,
    /// Closes after this response.
    Close,
    /// Becomes a tunnel: the 101 itself.
    Upgrade,
}

/// Writes the response head for the client; `chunked` says whether the body is sent chunked.
pub fn response(
    head: &[u8],
    line: &StatusLine<'_>,
    fields: &Fields,
    chunked: bool,
    persistence: Persistence,
    out: &mut Vec<u8>,
) {
    let [a, b, c] =
        [line.status / 100, line.status / 10 % 10, line.status % 10].map(|d| b'0' + u8::try_from(d).unwrap_or(0));
    put(out, &[b"HTTP/1.1 ", &[a, b, c], b" ", line.reason, b"\r\n"]);
    let named = names_fields(head, fields);
    let mut copier = Copier { head, out, from: 0, to: 0 };
    for field in fields.iter() {
        let stays = match field.kind {
            Kind::TransferEncoding | Kind::Connection | Kind::KeepAlive | Kind::Te => false,
            Kind::Upgrade => persistence == Persistence::Upgrade,
            Kind::Hop => field.name(head).eq_ignore_ascii_case(b"proxy-authenticate"),
            // RFC 9110 §8.6: a 1xx or 204 has none.
            Kind::ContentLength => line.status >= 200 && line.status != 204,
            Kind::Host => true,
            _ => !named || !is_named(head, fields, field.name(head)),
        };
        if stays {
            copier.keep(field.line());
        }
    }
    copier.flush();
    if chunked {
        put(out, &[b"Transfer-Encoding: chunked\r\n"]);
    }
    match persistence {
        Persistence::Open => put(out, &[b"\r\n"]),
        Persistence::KeepAlive => put(out, &[b"Connection: keep-alive\r\n\r\n"]),
        Persistence::Close => put(out, &[b"Connection: close\r\n\r\n"]),
        Persistence::Upgrade => put(out, &[b"Connection: upgrade\r\n\r\n"]),
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// The authority and the origin-form target of a request (RFC 9112 §3.2), or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Host and optional port, as written.
    pub host: &'a [u8],
    /// Path and query, starting with `/`, or with `?` where an absolute form has no path; `*` for `OPTIONS *`.
    pub target: &'a str,
}

/// Finds the effective authority: absolute form wins over Host (RFC 9112 §3.2.2).
///
/// # Errors
/// [`Reject::Host`], [`Reject::Target`] or [`Reject::Connect`].
pub fn authority<'a>(head: &'a [u8], line: &RequestLine<'a>, fields: &Fields) -> Result<Authority<'a>, Reject> {
    if line.method == "CONNECT" {
        return Err(Reject::Connect);
    }
    let host = fields.only(Kind::Host).map_err(|_| Reject::Host)?.map(|f| f.value(head));
    if host.is_some_and(|h| !is_authority(h)) || (host.is_none() && line.version > Version::Http10) {
        return Err(Reject::Host);
    }
    let host = host.unwrap_or(b"localhost");
    if line.target.starts_with('/') || (line.target == "*" && line.method == "OPTIONS") {
        return Ok(Authority { host, target: line.target });
    }
    let is_http = line.target.get(..7).is_some_and(|s| s.eq_ignore_ascii_case("http://"));
    let rest = if is_http { line.target.get(7..) } else { None }.ok_or(Reject::Target)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority.as_bytes()) {
        return Err(Reject::Target);
    }
    let target = match (path, line.method) {
        // RFC 9112 §3.2.4: this is how `OPTIONS *` is written in absolute form.
        ("", "OPTIONS") => "*",
        ("", _) => "/",
        _ => path,
    };
    Ok(Authority { host: authority.as_bytes(), target })
}

/// Returns whether this is `host` or `host:port` without user information, blanks or lists.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.iter().rposition(|&b| b == b':') {
        Some(at) if !text.ends_with(b"]") => {
            (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default())
        }
        _ => (text, &b""[..]),
    };
    let digits = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let name = |b: &u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            )
    };
    let literal = |h: &[u8]| {
        h.strip_prefix(b"[")
            .and_then(|h| h.strip_suffix(b"]"))
            .and_then(|h| std::str::from_utf8(h).ok())
            .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok())
    };
    digits && !host.is_empty() && (host.iter().all(name) || literal(host))
}
