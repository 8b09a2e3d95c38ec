//! Where a body ends: RFC 9112 §6 and §7.
//!
//! [`request_body`] and [`response_body`] decide from a parsed head; [`Body::advance`] then says how many of the octets
//! at hand belong. A chunked body is always written anew by [`Body::transcode`]: what is forwarded is our own framing, so
//! extensions, odd sizes and forbidden trailers never reach the other side.

use crate::http1::head::{Fields, Kind, Version, is_token, kind};
use crate::http1::reject::Reject;

/// Chunk extensions of one message that are read (and dropped), in octets.
const MAX_EXTENSION_BYTES: u32 = 4096;
/// Trailer section, in octets.
const MAX_TRAILER_BYTES: usize = 8192;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many octets.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Until the connection closes; responses only.
    Close,
}

/// Decides the framing of a request (RFC 9112 §6.3), refusing what could be read in two ways.
///
/// # Errors
/// [`Reject`] for repeated, malformed or contradictory framing fields.
pub fn request_body(head: &[u8], fields: &Fields, version: Version) -> Result<Framing, Reject> {
    let coding = transfer_coding(head, fields)?;
    let length = content_length(head, fields)?;
    match (coding, length) {
        (false, None) => Ok(Framing::None),
        (false, Some(0)) => Ok(Framing::None),
        (false, Some(n)) => Ok(Framing::Length(n)),
        (true, Some(_)) => Err(Reject::LengthAndCoding),
        (true, None) if version < Version::Http11 => Err(Reject::TransferEncoding),
        (true, None) => Ok(Framing::Chunked),
    }
}

/// Decides the framing of a final response to a request (RFC 9112 §6.3).
///
/// # Errors
/// As [`request_body`]; the proxy answers 502.
pub fn response_body(
    head: &[u8],
    fields: &Fields,
    version: Version,
    status: u16,
    to_head_request: bool,
) -> Result<Framing, Reject> {
    let coding = transfer_coding(head, fields)?;
    let length = content_length(head, fields)?;
    match (coding, length) {
        (true, Some(_)) => return Err(Reject::LengthAndCoding),
        (true, None) if version < Version::Http11 => return Err(Reject::TransferEncoding),
        _ => {}
    }
    if to_head_request || status < 200 || status == 204 || status == 304 {
        return Ok(Framing::None);
    }
    Ok(match (coding, length) {
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::None,
        (false, Some(n)) => Framing::Length(n),
        (false, None) => Framing::Close,
    })
}

fn transfer_coding(head: &[u8], fields: &Fields) -> Result<bool, Reject> {
    let field = fields.only(Kind::TransferEncoding).map_err(|_| Reject::TransferEncoding)?;
    match field.map(|f| f.value(head)) {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        Some(value) if value.eq_ignore_ascii_case(b"identity") => Err(Reject::TransferEncoding),
        Some(value) if is_token(value) => Err(Reject::UnknownCoding),
        Some(_) => Err(Reject::TransferEncoding),
    }
}

fn content_length(head: &[u8], fields: &Fields) -> Result<Option<u64>, Reject> {
    let field = fields.only(Kind::ContentLength).map_err(|_| Reject::ContentLength)?;
    let Some(value) = field.map(|f| f.value(head)) else { return Ok(None) };
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::ContentLength);
    }
    let number = value.iter().fold(0u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    if number > i64::MAX as u64 { Err(Reject::ContentLength) } else { Ok(Some(number)) }
}

/// The state of a body while it passes.
#[derive(Debug, Clone)]
pub struct Body {
    state: State,
    /// Payload octets that passed.
    passed: u64,
    extension_bytes: u32,
    /// The current trailer section, kept only while one is read.
    trailer: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Length(u64),
    Close,
    /// Hex digits of a chunk size; the count of digits so far.
    Size(u64, u8),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    Trailer,
}

impl Body {
    /// Starts a body.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size(0, 0),
            Framing::Close => State::Close,
        };
        Self { state, passed: 0, extension_bytes: 0, trailer: None }
    }

    /// Returns whether the body has ended; never true for [`Framing::Close`].
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns whether the end of the connection ends this body correctly.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::Close | State::Done)
    }

    /// Returns whether it is chunked.
    pub fn is_chunked(&self) -> bool {
        !matches!(self.state, State::Done | State::Length(_) | State::Close)
    }

    /// Returns the payload octets that passed.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Returns how many octets are left where they pass as they are: all there may be where the connection's end ends them. `None`:
    /// chunked.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            State::Close => Some(u64::MAX),
            _ => None,
        }
    }

    /// Counts octets that passed elsewhere; at most so many as are [`left`](Self::left).
    pub fn pass(&mut self, octets: u64) {
        match self.state {
            State::Length(left) => {
                let used = octets.min(left);
                self.passed += used;
                self.state = if used == left { State::Done } else { State::Length(left - used) };
            }
            State::Close => self.passed += octets,
            _ => {}
        }
    }

    /// Takes the octets of `input` that belong to the body and returns their number.
    ///
    /// # Errors
    /// [`Reject::Chunk`] or [`Reject::Trailer`]; the connection that sent it must be closed.
    pub fn advance(&mut self, input: &[u8]) -> Result<usize, Reject> {
        match self.state {
            State::Done => Ok(0),
            State::Close => {
                self.pass(input.len() as u64);
                Ok(input.len())
            }
            State::Length(left) => {
                let used = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                self.pass(used as u64);
                Ok(used)
            }
            _ => self.chunked(input, None),
        }
    }

    /// Returns the trailer section of a body that ended in the form [`Form::Payload`], checked, its empty line included.
    pub fn take_trailer(&mut self) -> Option<Vec<u8>> {
        self.trailer.take()
    }

    /// As [`Body::advance`] for a chunked body, appending what is to be forwarded to `sink`.
    ///
    /// # Errors
    /// As [`Body::advance`].
    pub fn transcode(&mut self, input: &[u8], into: Form, sink: &mut Vec<u8>) -> Result<usize, Reject> {
        self.chunked(input, Some((into, sink)))
    }

    fn chunked(&mut self, input: &[u8], mut sink: Option<(Form, &mut Vec<u8>)>) -> Result<usize, Reject> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                    write_data(&mut sink, input.get(at..at + len).unwrap_or_default());
                    at += len;
                    self.passed += len as u64;
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                    continue;
                }
                State::Trailer => {
                    let trailer = self.trailer.get_or_insert_default();
                    trailer.push(byte);
                    if trailer.len() > MAX_TRAILER_BYTES {
                        return Err(Reject::Trailer);
                    }
                    if trailer.ends_with(b"\r\n\r\n") || trailer.as_slice() == b"\r\n" {
                        write_end(&mut sink, trailer)?;
                        if !matches!(sink, Some((Form::Payload, _))) {
                            self.trailer = None;
                        }
                        self.state = State::Done;
                    } else if byte == b'\n' && !trailer.ends_with(b"\r\n") {
                        return Err(Reject::Trailer);
                    }
                }
                state => self.state = self.step(state, byte)?,
            }
            at += 1;
            if self.state == State::Done {
                break;
            }
        }
        Ok(at)
    }

    /// One octet of the framing between data.
    fn step(&mut self, state: State, byte: u8) -> Result<State, Reject> {
        Ok(match (state, byte) {
            (State::Size(size, digits), b) if b.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(b).to_digit(16).unwrap_or(0));
                if digits >= 16 || size > (i64::MAX as u64) >> 4 {
                    return Err(Reject::Chunk);
                }
                State::Size(size << 4 | digit, digits + 1)
            }
            (State::Size(size, digits), b'\r') if digits > 0 => State::SizeLf(size),
            (State::Size(size, digits), b';') if digits > 0 => State::Extension(size),
            (State::Extension(size), b'\r') => State::SizeLf(size),
            (State::Extension(size), b) if b == b'\t' || (b >= b' ' && b != 127) => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES {
                    return Err(Reject::Chunk);
                }
                State::Extension(size)
            }
            (State::SizeLf(0), b'\n') => State::Trailer,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            _ => return Err(Reject::Chunk),
        })
    }
}

/// How a chunked body is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Chunked again, without extensions; permitted trailers follow.
    Chunked,
    /// Chunked again, without extensions and trailers: the receiver did not announce `TE: trailers`.
    ChunkedNoTrailers,
    /// Payload only: an HTTP/1.0 client, delimited by close.
    Plain,
    /// Payload only; the trailer section is left for [`Body::take_trailer`].
    Payload,
}

fn write_data(sink: &mut Option<(Form, &mut Vec<u8>)>, data: &[u8]) {
    let Some((form, out)) = sink else { return };
    if matches!(form, Form::Plain | Form::Payload) {
        out.extend_from_slice(data);
        return;
    }
    let mut hex = [0u8; 16];
    out.extend_from_slice(hex_size(data.len(), &mut hex));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

fn hex_size(mut n: usize, buffer: &mut [u8; 16]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        if let Some(place) = buffer.get_mut(at) {
            *place = b"0123456789abcdef".get(n & 15).copied().unwrap_or(b'0');
        }
        n >>= 4;
        if n == 0 || at == 0 {
            break;
        }
    }
    buffer.get(at..).unwrap_or_default()
}

/// Writes the last chunk and the permitted trailers of a checked trailer section.
fn write_end(sink: &mut Option<(Form, &mut Vec<u8>)>, trailer: &[u8]) -> Result<(), Reject> {
    let Some((form, out)) = sink else { return check_trailer(trailer, None) };
    match form {
        Form::Plain | Form::Payload => check_trailer(trailer, None),
        Form::ChunkedNoTrailers => {
            out.extend_from_slice(b"0\r\n\r\n");
            check_trailer(trailer, None)
        }
        Form::Chunked => {
            out.extend_from_slice(b"0\r\n");
            check_trailer(trailer, Some(&mut **out))?;
            out.extend_from_slice(b"\r\n");
            Ok(())
        }
    }
}

/// Checks a trailer section and keeps what may be forwarded: no framing, routing or authentication (RFC 9110 §6.5.1).
fn check_trailer(trailer: &[u8], mut keep: Option<&mut Vec<u8>>) -> Result<(), Reject> {
    for line in trailer.split_inclusive(|&b| b == b'\n') {
        let Some(line) = line.strip_suffix(b"\r\n") else { return Err(Reject::Trailer) };
        if line.is_empty() {
            continue;
        }
        let Some(colon) = memchr::memchr(b':', line) else { return Err(Reject::Trailer) };
        let (name, value) = line.split_at(colon);
        let clean = value.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 127));
        if !is_token(name) || !clean {
            return Err(Reject::Trailer);
        }
        if let Some(out) = keep.as_deref_mut()
            && may_trail(name)
        {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
    }
    Ok(())
}

fn may_trail(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 14] = [
        "authorization",
        "cookie",
        "set-cookie",
        "trailer",
        "content-encoding",
        "content-type",
        "content-range",
        "cache-control",
        "max-forwards",
        "pragma",
        "range",
        "vary",
        "www-authenticate",
        "proxy-authorization",
    ];
    // An underscore is read as a hyphen by some: it could name what may not trail.
    kind(name) == Kind::Other
        && !name.contains(&b'_')
        && !FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes()))
}
