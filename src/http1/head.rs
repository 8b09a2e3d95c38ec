//! Strict parse of a request or response head.
//!
//! Bytes are looked at once; fields are recorded as offsets into the caller's buffer, so nothing is copied. What a lenient
//! parser might read in two ways is refused: bare CR or LF, folded lines, blanks around names, repeated framing fields.
//! Sources: RFC 9112 §2-§7, RFC 9110 §5.

use crate::http1::reject::Reject;
use std::fmt;

/// Bounds on a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Octets of the whole head, final empty line included.
    pub head_bytes: usize,
    /// Header fields.
    pub fields: usize,
    /// Octets of the request target.
    pub target_bytes: usize,
}

/// HTTP version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, or a later minor version, which is to be read as 1.1 (RFC 9110 §2.5).
    Http11,
}

/// Fields that the engine treats specially; all others are [`Kind::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Forwarded as it is.
    Other,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
    /// `TE`.
    Te,
    /// `Keep-Alive`.
    KeepAlive,
    /// Never forwarded: `Proxy-Connection`, `HTTP2-Settings`, `Proxy-Authenticate`, `Proxy-Authorization`.
    Hop,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`, `X-Forwarded-Host`, `X-Forwarded-Port`, `X-Forwarded-Server`, `Forwarded`, `X-Real-IP`.
    Forwarded,
    /// `X-Request-Id`.
    RequestId,
    /// Who the client is by its certificate: `Client-Cert` (RFC 9440), `X-Client-Cert-Subject`, `X-Client-Cert-San` and the
    /// like. Only Weir says it.
    Identity,
}

/// One field as offsets into the head.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// What it is.
    pub kind: Kind,
    start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
    end: u32,
}

impl Field {
    /// Returns the name as written.
    pub fn name<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.start as usize..self.name_end as usize).unwrap_or_default()
    }

    /// Returns the value without surrounding blanks.
    pub fn value<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.value_start as usize..self.value_end as usize).unwrap_or_default()
    }

    /// Returns the offsets of the whole line, CRLF included.
    pub fn line(&self) -> (usize, usize) {
        (self.start as usize, self.end as usize)
    }
}

/// The fields of a head; reused from message to message.
#[derive(Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
}

impl Fields {
    /// Returns an empty list with room for `limit` fields.
    pub fn with_capacity(limit: usize) -> Self {
        Self { list: Vec::with_capacity(limit) }
    }

    /// Returns the fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.list.iter()
    }

    /// Returns the only field of a kind: `Ok(None)` when absent, `Err` when repeated.
    pub fn only(&self, kind: Kind) -> Result<Option<&Field>, Repeated> {
        let mut found = self.list.iter().filter(|f| f.kind == kind);
        match (found.next(), found.next()) {
            (one, None) => Ok(one),
            (_, Some(_)) => Err(Repeated),
        }
    }

    /// Returns whether a field of the kind is there.
    pub fn has(&self, kind: Kind) -> bool {
        self.list.iter().any(|f| f.kind == kind)
    }
}

/// A field that may stand once stood several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

/// A parsed request line; the fields are in the [`Fields`] that was passed.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// The method, a token.
    pub method: &'a str,
    /// The target as written: visible ASCII.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// Octets of the head, final empty line included.
    pub len: usize,
    /// Offset of the first field line.
    pub fields_at: usize,
}

/// A parsed status line.
#[derive(Debug, Clone, Copy)]
pub struct StatusLine<'a> {
    /// The version.
    pub version: Version,
    /// The status code, 100..=999.
    pub status: u16,
    /// The reason phrase as written; may hold octets above 127.
    pub reason: &'a [u8],
    /// Octets of the head, final empty line included.
    pub len: usize,
}

const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const VALUE: u8 = 4;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut b = 0usize;
    while b < 256 {
        let c = b as u8;
        let punctuation = matches!(
            c,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if c.is_ascii_alphanumeric() || punctuation {
            table[b] |= TOKEN;
        }
        if c > b' ' && c < 127 && c != b'#' {
            table[b] |= TARGET;
        }
        if c == b'\t' || (c >= b' ' && c != 127) {
            table[b] |= VALUE;
        }
        b += 1;
    }
    table
}

fn is(class: u8, byte: u8) -> bool {
    CLASS.get(usize::from(byte)).is_some_and(|c| c & class != 0)
}

/// Returns whether `bytes` is a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is(TOKEN, b))
}

/// Returns whether `bytes` may stand as a request target: visible ASCII without a fragment.
pub fn is_target(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is(TARGET, b))
}

/// Cursor over the head; `None` from a step means that more bytes are needed.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Step<T> = Result<Option<T>, Reject>;

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Takes octets of a class; `None` when the input ends before another octet shows where they stop.
    fn take(&mut self, class: u8) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let len = rest.iter().position(|&b| !is(class, b))?;
        self.at += len;
        rest.get(..len)
    }

    /// Takes CRLF.
    fn line_end(&mut self) -> Step<()> {
        match self.bytes.get(self.at..) {
            Some([b'\r', b'\n', ..]) => {
                self.at += 2;
                Ok(Some(()))
            }
            Some([] | [b'\r']) | None => Ok(None),
            Some(_) => Err(Reject::LineEnd),
        }
    }
}

/// Parses a request head at the start of `bytes`; `Ok(None)`: more bytes are needed.
///
/// # Errors
/// The [`Reject`] that the client is to be told; also for an incomplete head that can no longer become valid.
pub fn parse_request<'a>(bytes: &'a [u8], limits: &Limits, fields: &mut Fields) -> Step<RequestLine<'a>> {
    match request(bytes, limits, fields)? {
        Some(line) if line.len > limits.head_bytes => Err(Reject::HeadTooLarge),
        Some(line) => Ok(Some(line)),
        None => over_limit(bytes, limits),
    }
}

/// Says which limit an incomplete head broke, if any.
fn over_limit<T>(bytes: &[u8], limits: &Limits) -> Step<T> {
    let first_line = memchr::memchr(b'\n', bytes);
    if first_line.is_none() && bytes.len() > limits.target_bytes + 64 {
        return Err(Reject::TargetTooLong);
    }
    if bytes.len() >= limits.head_bytes { Err(Reject::HeadTooLarge) } else { Ok(None) }
}

fn request<'a>(bytes: &'a [u8], limits: &Limits, fields: &mut Fields) -> Step<RequestLine<'a>> {
    let mut cursor = Cursor { bytes, at: 0 };
    // RFC 9112 §2.2: a server should ignore one empty line before the request line.
    match bytes {
        [b'\r', b'\n', ..] => cursor.at = 2,
        [b'\r'] => return Ok(None),
        _ => {}
    }
    let Some(method) = cursor.take(TOKEN) else { return Ok(None) };
    if method.is_empty() || method.len() > 32 {
        return Err(if cursor.peek() == Some(b'\n') { Reject::LineEnd } else { Reject::StartLine });
    }
    if cursor.peek() != Some(b' ') {
        return Err(Reject::StartLine);
    }
    cursor.at += 1;
    let Some(target) = cursor.take(TARGET) else { return Ok(None) };
    if target.len() > limits.target_bytes {
        return Err(Reject::TargetTooLong);
    }
    if target.is_empty() || cursor.peek() != Some(b' ') {
        return Err(if cursor.peek() == Some(b'#') { Reject::Target } else { Reject::StartLine });
    }
    cursor.at += 1;
    let Some(version) = version(&mut cursor)? else { return Ok(None) };
    if cursor.line_end()?.is_none() {
        return Ok(None);
    }
    let fields_at = cursor.at;
    if field_lines(&mut cursor, limits, fields, Underscores::Refuse)?.is_none() {
        return Ok(None);
    }
    let text = |b: &'a [u8]| std::str::from_utf8(b).map_err(|_| Reject::StartLine);
    Ok(Some(RequestLine { method: text(method)?, target: text(target)?, version, len: cursor.at, fields_at }))
}

/// Takes `HTTP/d.d`; one digit each (RFC 9112 §2.3).
fn version(cursor: &mut Cursor<'_>) -> Step<Version> {
    let rest = cursor.bytes.get(cursor.at..).unwrap_or_default();
    let have = rest.get(..8).unwrap_or(rest);
    let pattern_fits = have.iter().enumerate().all(|(i, &b)| match i {
        5 | 7 => b.is_ascii_digit(),
        _ => b"HTTP/0.0".get(i) == Some(&b),
    });
    if !pattern_fits {
        return Err(Reject::StartLine);
    }
    let &[_, _, _, _, _, major, _, minor] = have else { return Ok(None) };
    cursor.at += 8;
    match (major, minor) {
        (b'1', b'0') => Ok(Some(Version::Http10)),
        (b'1', _) => Ok(Some(Version::Http11)),
        _ => Err(Reject::Version),
    }
}

/// Parses a response head at the start of `bytes`; `Ok(None)`: more bytes are needed.
///
/// # Errors
/// The [`Reject`] that says what is wrong; the client is answered 502 for each of them.
pub fn parse_response<'a>(bytes: &'a [u8], limits: &Limits, fields: &mut Fields) -> Step<StatusLine<'a>> {
    match response(bytes, limits, fields)? {
        Some(line) if line.len > limits.head_bytes => Err(Reject::HeadTooLarge),
        Some(line) => Ok(Some(line)),
        None if bytes.len() >= limits.head_bytes => Err(Reject::HeadTooLarge),
        None => Ok(None),
    }
}

fn response<'a>(bytes: &'a [u8], limits: &Limits, fields: &mut Fields) -> Step<StatusLine<'a>> {
    let mut cursor = Cursor { bytes, at: 0 };
    let Some(version) = version(&mut cursor)? else { return Ok(None) };
    let rest = bytes.get(cursor.at..).unwrap_or_default();
    let status = match rest {
        [b' ', a, b, c, ..] if (b'1'..=b'9').contains(a) && b.is_ascii_digit() && c.is_ascii_digit() => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        [_, _, _, _, ..] => return Err(Reject::StartLine),
        _ => return Ok(None),
    };
    cursor.at += 4;
    match cursor.peek() {
        Some(b' ') => cursor.at += 1,
        Some(b'\r') => {}
        Some(_) => return Err(Reject::StartLine),
        None => return Ok(None),
    }
    let Some(reason) = cursor.take(VALUE) else { return Ok(None) };
    if cursor.line_end()?.is_none() || field_lines(&mut cursor, limits, fields, Underscores::Accept)?.is_none() {
        return Ok(None);
    }
    Ok(Some(StatusLine { version, status, reason, len: cursor.at }))
}

/// Whether names with an underscore are refused: in requests, where some servers read it as a hyphen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Underscores {
    Refuse,
    Accept,
}

/// Takes field lines and the final empty line.
fn field_lines(cursor: &mut Cursor<'_>, limits: &Limits, fields: &mut Fields, underscores: Underscores) -> Step<()> {
    fields.list.clear();
    loop {
        match cursor.peek() {
            None => return Ok(None),
            Some(b'\r') => return cursor.line_end(),
            Some(b'\n') => return Err(Reject::LineEnd),
            Some(b' ' | b'\t') => return Err(Reject::Fold),
            Some(_) => {}
        }
        if fields.list.len() >= limits.fields {
            return Err(Reject::TooManyFields);
        }
        let Some(field) = field_line(cursor, underscores)? else { return Ok(None) };
        fields.list.push(field);
    }
}

fn field_line(cursor: &mut Cursor<'_>, underscores: Underscores) -> Step<Field> {
    let start = cursor.at;
    let Some(name) = cursor.take(TOKEN) else { return Ok(None) };
    if name.is_empty() || cursor.peek() != Some(b':') {
        return Err(Reject::FieldName);
    }
    let kind = kind(name);
    if underscores == Underscores::Refuse && kind == Kind::Other && memchr::memchr(b'_', name).is_some() {
        return Err(Reject::Underscore);
    }
    let name_end = cursor.at;
    cursor.at += 1;
    while matches!(cursor.peek(), Some(b' ' | b'\t')) {
        cursor.at += 1;
    }
    let value_start = cursor.at;
    let Some(value) = cursor.take(VALUE) else { return Ok(None) };
    let trailing = value.iter().rev().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let value_end = value_start + value.len() - trailing;
    if !matches!(cursor.peek(), Some(b'\r' | b'\n')) {
        return Err(Reject::FieldValue);
    }
    if cursor.line_end()?.is_none() {
        return Ok(None);
    }
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Ok(Some(Field {
        kind,
        start: offset(start),
        name_end: offset(name_end),
        value_start: offset(value_start),
        value_end: offset(value_end),
        end: offset(cursor.at),
    }))
}

/// Says what a field is; by length first, so that most names cost one comparison.
pub fn kind(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        2 if is("te") => Kind::Te,
        4 if is("host") => Kind::Host,
        6 if is("expect") => Kind::Expect,
        7 if is("upgrade") => Kind::Upgrade,
        9 if is("forwarded") || is("x-real-ip") => Kind::Forwarded,
        10 if is("connection") => Kind::Connection,
        10 if is("keep-alive") => Kind::KeepAlive,
        11 if is("client-cert") => Kind::Identity,
        12 if is("x-request-id") => Kind::RequestId,
        14 if is("content-length") => Kind::ContentLength,
        14 if is("http2-settings") => Kind::Hop,
        15 if is("x-forwarded-for") => Kind::ForwardedFor,
        16 if is("proxy-connection") => Kind::Hop,
        16 if is("x-forwarded-host") || is("x-forwarded-port") => Kind::Forwarded,
        17 if is("transfer-encoding") => Kind::TransferEncoding,
        17 if is("x-forwarded-proto") => Kind::Forwarded,
        18 if is("proxy-authenticate") || is("x-forwarded-server") => {
            if name.first().is_some_and(|b| b.eq_ignore_ascii_case(&b'p')) { Kind::Hop } else { Kind::Forwarded }
        }
        19 if is("proxy-authorization") => Kind::Hop,
        17 if is("client-cert-chain") || is("x-client-cert-san") => Kind::Identity,
        21 if is("x-client-cert-subject") => Kind::Identity,
        _ => Kind::Other,
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        })
    }
}
