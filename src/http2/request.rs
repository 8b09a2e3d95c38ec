//! Fields of a request, as they are decoded → HTTP/1.1 octets: strict (RFC 9113 §8), in one pass, into a buffer that is used again.

use crate::http1::digest::base64;
use crate::http1::head::{Kind, is_target, is_token, kind};

/// Cookie fields of one request; they are joined into one (RFC 9113 §8.2.3).
const MAX_CRUMBS: usize = 128;
/// What a field counts beside its octets (RFC 9113 §6.5.2).
const OVERHEAD: usize = 32;

/// Why a request does not reach the request path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// Malformed (RFC 9113 §8.1.1): its stream is reset.
    Malformed,
    /// Its fields together are larger than was announced.
    TooLarge,
    /// They are too many, or its cookie is in too many pieces.
    TooMany,
    /// Extended CONNECT for something else than a WebSocket (RFC 8441 §4).
    Protocol,
}

/// What a request is beside its head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Answered without a body.
    pub is_head: bool,
    /// Its body is written in chunks.
    pub chunked: bool,
    /// Extended CONNECT for a WebSocket (RFC 8441).
    pub tunnel: bool,
    /// What the body must be as long as.
    pub length: Option<u64>,
}

/// A value among those that are kept aside.
type Span = Option<(usize, usize)>;

/// Takes the fields of one block after the other.
#[derive(Debug, Default)]
pub struct Writer {
    /// Octets, and fields.
    limits: (usize, usize),
    size: usize,
    /// Fields so far; `:authority` is one, and all cookies together.
    fields: usize,
    trailers: bool,
    unfit: Option<Unfit>,
    /// Values of pseudo-fields.
    aside: Vec<u8>,
    method: Span,
    scheme: Span,
    authority: Span,
    path: Span,
    protocol: Span,
    /// The request line is written: no pseudo-field may follow.
    begun: bool,
    host: Option<(usize, usize)>,
    length: Option<u64>,
    te: bool,
    grpc: bool,
    crumbs: usize,
    cookie: Vec<u8>,
    out: Vec<u8>,
}

impl Writer {
    /// Begins a request, or the trailers of one, whose fields may have so many octets together, and be so many.
    pub fn begin(&mut self, limits: (usize, usize), trailers: bool) {
        let (mut aside, mut cookie, mut out) =
            (std::mem::take(&mut self.aside), std::mem::take(&mut self.cookie), std::mem::take(&mut self.out));
        aside.clear();
        cookie.clear();
        out.clear();
        *self = Self { limits, trailers, fields: 1, begun: trailers, aside, cookie, out, ..Self::default() };
    }

    /// Takes a field. After the first fault nothing is copied any more.
    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + OVERHEAD;
        if self.unfit.is_some() {
            return;
        }
        if self.size > self.limits.0 {
            self.unfit = Some(Unfit::TooLarge);
            return;
        }
        let taken = match name.strip_prefix(b":") {
            Some(pseudo) => self.pseudo(pseudo, value),
            None => self.regular(name, value),
        };
        self.unfit = taken.err();
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unfit> {
        // Each once, and before all others (RFC 9113 §8.3).
        if self.begun || value.is_empty() || !is_clean(value) {
            return Err(Unfit::Malformed);
        }
        let span = Some((self.aside.len(), self.aside.len() + value.len()));
        self.aside.extend_from_slice(value);
        let (place, valid) = match name {
            b"method" => (&mut self.method, is_token(value)),
            b"scheme" => (&mut self.scheme, is_scheme(value)),
            b"authority" => (&mut self.authority, true),
            b"path" => (&mut self.path, is_target(value)),
            b"protocol" => (&mut self.protocol, is_token(value)),
            _ => return Err(Unfit::Malformed),
        };
        if !valid || place.is_some() {
            return Err(Unfit::Malformed);
        }
        *place = span;
        Ok(())
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unfit> {
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) || !is_clean(value) {
            return Err(Unfit::Malformed);
        }
        let kind = kind(name);
        match kind {
            // RFC 9113 §8.2.2: what is about a connection.
            Kind::Connection | Kind::TransferEncoding | Kind::Upgrade | Kind::KeepAlive => {
                return Err(Unfit::Malformed);
            }
            Kind::Hop if matches!(name, b"proxy-connection" | b"http2-settings") => return Err(Unfit::Malformed),
            Kind::Te if !value.eq_ignore_ascii_case(b"trailers") => return Err(Unfit::Malformed),
            _ => {}
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.line()?;
        }
        let crumb = kind == Kind::Other && name == b"cookie" && self.crumbs > 0;
        self.fields += usize::from(!crumb && kind != Kind::Host);
        if self.fields > self.limits.1 {
            return Err(Unfit::TooMany);
        }
        match kind {
            _ if self.trailers => {}
            Kind::Host => return self.take_host(value),
            Kind::ContentLength => {
                let length = number(value).filter(|_| self.length.is_none());
                self.length = Some(length.ok_or(Unfit::Malformed)?);
            }
            Kind::Te => self.te = true,
            Kind::Other if name == b"cookie" => return self.take_crumb(value),
            Kind::Other if name == b"content-type" => self.grpc = value.starts_with(b"application/grpc"),
            _ => {}
        }
        put(&mut self.out, &[name, b": ", value, b"\r\n"]);
        Ok(())
    }

    /// `Host` is another word for `:authority`; both must agree (RFC 9113 §8.3.1).
    fn take_host(&mut self, value: &[u8]) -> Result<(), Unfit> {
        if self.host.is_some() {
            return Err(Unfit::Malformed);
        }
        self.host = Some((0, 0));
        match self.authority {
            Some(_) if !self.aside(self.authority).eq_ignore_ascii_case(value) => Err(Unfit::Malformed),
            Some(_) => Ok(()),
            None => {
                put(&mut self.out, &[b"host: ", value, b"\r\n"]);
                Ok(())
            }
        }
    }

    fn take_crumb(&mut self, value: &[u8]) -> Result<(), Unfit> {
        self.crumbs += 1;
        if self.crumbs > MAX_CRUMBS {
            return Err(Unfit::TooMany);
        }
        put(&mut self.cookie, &[if self.crumbs == 1 { b"" } else { b"; " }, value]);
        Ok(())
    }

    fn aside(&self, span: Span) -> &[u8] {
        span.and_then(|(from, to)| self.aside.get(from..to)).unwrap_or_default()
    }

    fn is_tunnel(&self) -> bool {
        self.protocol.is_some()
    }

    /// Writes the request line and the host.
    fn line(&mut self) -> Result<(), Unfit> {
        let mut out = std::mem::take(&mut self.out);
        let (method, path) = (self.aside(self.method), self.aside(self.path));
        let host = self.aside(self.authority);
        let valid = match (method, self.is_tunnel()) {
            // RFC 9113 §8.5.
            (b"CONNECT", false) => !host.is_empty() && is_target(host) && path.is_empty() && self.scheme.is_none(),
            (b"CONNECT", true) => self.scheme.is_some() && path.starts_with(b"/"),
            (_, true) | (b"", _) => false,
            (b"OPTIONS", false) if path == b"*" => self.scheme.is_some(),
            (_, false) => self.scheme.is_some() && path.starts_with(b"/"),
        };
        if valid {
            // A plain CONNECT is refused by the request path, which says so.
            let target = if path.is_empty() { host } else { path };
            let method = if self.is_tunnel() { b"GET" } else { method };
            put(&mut out, &[method, b" ", target, b" HTTP/1.1\r\n"]);
            if !host.is_empty() {
                put(&mut out, &[b"host: ", host, b"\r\n"]);
            }
        }
        self.out = out;
        if valid { Ok(()) } else { Err(Unfit::Malformed) }
    }

    /// Ends a request; `ends`: no body follows. `key` makes the `Sec-WebSocket-Key` that a tunnel gets.
    ///
    /// # Errors
    /// [`Unfit`] for what must not be passed on in any form.
    pub fn finish(&mut self, ends: bool, key: impl FnOnce() -> [u8; 24]) -> Result<Shape, Unfit> {
        if let Some(unfit) = self.unfit {
            return Err(unfit);
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.line()?;
        }
        if self.crumbs > 0 {
            put(&mut self.out, &[b"cookie: ", &self.cookie, b"\r\n"]);
        }
        let is_head = self.aside(self.method) == b"HEAD";
        if self.is_tunnel() {
            if self.aside(self.protocol) != b"websocket" || ends {
                return Err(Unfit::Protocol);
            }
            put(
                &mut self.out,
                &[b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", &key(), b"\r\n\r\n"],
            );
            return Ok(Shape { tunnel: true, ..Shape::default() });
        }
        if ends && self.length.is_some_and(|length| length > 0) {
            return Err(Unfit::Malformed);
        }
        // A call over HTTP/2 takes its status from trailers, whether it says so or not.
        if self.grpc && !self.te {
            put(&mut self.out, &[b"te: trailers\r\n"]);
        }
        let bodily = matches!(self.aside(self.method), b"POST" | b"PUT" | b"PATCH");
        let chunked = !ends && self.length.is_none();
        let end: &[u8] = match (chunked, self.length) {
            (true, _) => b"transfer-encoding: chunked\r\n\r\n",
            (false, None) if bodily => b"content-length: 0\r\n\r\n",
            _ => b"\r\n",
        };
        put(&mut self.out, &[end]);
        Ok(Shape { is_head, chunked, tunnel: false, length: self.length.filter(|_| !ends) })
    }

    /// Ends the trailers of a request.
    ///
    /// # Errors
    /// [`Unfit`] where they are malformed or too large.
    pub fn finish_trailers(&self) -> Result<&[u8], Unfit> {
        match self.unfit {
            Some(unfit) => Err(unfit),
            None => Ok(&self.out),
        }
    }

    /// Swaps what was written for a buffer to write the next into.
    pub fn swap(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.out, buffer);
    }
}

/// RFC 9113 §8.2.1: no blank at either end and no control character.
fn is_clean(value: &[u8]) -> bool {
    let blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let plain = |&b: &u8| b == b'\t' || (b >= b' ' && b != 127);
    !blank(value.first()) && !blank(value.last()) && value.iter().all(plain)
}

/// RFC 3986 §3.1.
fn is_scheme(value: &[u8]) -> bool {
    let (first, rest) = value.split_first().unwrap_or((&0, &[]));
    first.is_ascii_alphabetic() && rest.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

/// RFC 9110 §8.6: digits alone.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Encodes 16 octets as a `Sec-WebSocket-Key` (RFC 6455 §4.1, RFC 4648 §4).
pub fn key(octets: u128) -> [u8; 24] {
    let mut text = [b'='; 24];
    // As long as 16 octets are in base64.
    if let Some(coded) = base64(&octets.to_be_bytes()).as_bytes().as_array() {
        text = *coded;
    }
    text
}
