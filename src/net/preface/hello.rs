//! The ClientHello of a TLS handshake, looked at and passed on: which host is asked for, and what is to be spoken.
//!
//! Pure. The handshake is not judged: what is read is only what routes need (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1), but
//! that exactly: what can be read in two ways is refused.

/// Longest ClientHello with the heads of its records; those of clients have less than 2 KiB.
pub const MAX_BYTES: usize = 16 * 1024;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// Longest fragment in clear text (RFC 8446 §5.1).
const MAX_FRAGMENT: usize = 1 << 14;
/// Longest host name, RFC 1035 §2.3.4 without the final dot.
const MAX_HOST: usize = 253;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The host, in lower case.
    pub server_name: Option<Box<str>>,
    /// What it can speak, the preferred first.
    pub alpn: Vec<Box<[u8]>>,
}

/// What the first octets of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// They may become a ClientHello.
    Partial,
    /// No TLS.
    Absent,
    /// One.
    Hello(Hello),
}

/// Why a hello is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has more than [`MAX_BYTES`].
    #[error("the ClientHello is too large")]
    TooLarge,
    /// It is none, though it begins as one.
    #[error("malformed ClientHello: {0}")]
    Malformed(&'static str),
}

use Refused::{Malformed, TooLarge};

/// Reads the first octets of a connection.
///
/// # Errors
/// [`Refused`]: no octet that may follow makes a hello of them.
pub fn read(octets: &[u8]) -> Result<Reading, Refused> {
    let begins = octets.iter().zip([HANDSHAKE, 3]).all(|(one, other)| *one == other);
    if !begins {
        return Ok(Reading::Absent);
    }
    let mut message = Vec::new();
    let mut rest = octets;
    loop {
        if let Some(length) = message_length(&message)?
            && let Some(body) = message.get(4..4 + length)
        {
            return read_hello(body).map(Reading::Hello);
        }
        // Records go on until the message is whole (RFC 8446 §5.1).
        let Some((head, after)) = rest.split_at_checked(5) else { break };
        let [kind, major, _, high, low] = head else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *kind != HANDSHAKE || *major != 3 {
            return Err(Malformed("another record before its end"));
        }
        if length == 0 || length > MAX_FRAGMENT {
            return Err(Malformed("a record of a forbidden length"));
        }
        let (fragment, after) = after.split_at(length.min(after.len()));
        message.extend_from_slice(fragment);
        rest = after;
        if fragment.len() < length {
            // Its length may be known already.
            message_length(&message)?;
            break;
        }
    }
    if octets.len() >= MAX_BYTES { Err(TooLarge) } else { Ok(Reading::Partial) }
}

/// Returns the length of the message that begins so, once it is known.
fn message_length(message: &[u8]) -> Result<Option<usize>, Refused> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Malformed("another message"));
    }
    let Some(&[_, high, middle, low]) = message.get(..4) else { return Ok(None) };
    match usize::try_from(u32::from_be_bytes([0, high, middle, low])) {
        Ok(length) if length <= MAX_BYTES => Ok(Some(length)),
        _ => Err(TooLarge),
    }
}

/// Octets that are taken from the front.
struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a length beyond its end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, octets: usize) -> Result<usize, Refused> {
        Ok(self.take(octets)?.iter().fold(0, |number, octet| (number << 8) | usize::from(*octet)))
    }

    /// Takes a vector with a length of so many octets.
    fn vector(&mut self, octets: usize) -> Result<Cut<'a>, Refused> {
        let length = self.number(octets)?;
        self.take(length).map(Cut)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn read_hello(body: &[u8]) -> Result<Hello, Refused> {
    let mut body = Cut(body);
    // Version and random.
    body.take(2 + 32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    let mut hello = Hello::default();
    // Clients of TLS 1.2 may leave the extensions out.
    if body.is_empty() {
        return Ok(hello);
    }
    let mut extensions = body.vector(2)?;
    if !body.is_empty() {
        return Err(Malformed("octets behind its end"));
    }
    let (mut named, mut spoken) = (false, false);
    while !extensions.is_empty() {
        let kind = extensions.number(2)?;
        let value = extensions.vector(2)?;
        let seen = match u16::try_from(kind) {
            Ok(SERVER_NAME) => &mut named,
            Ok(ALPN) => &mut spoken,
            _ => continue,
        };
        if std::mem::replace(seen, true) {
            return Err(Malformed("an extension that is there twice"));
        }
        match kind {
            0 => hello.server_name = Some(read_name(value)?),
            _ => hello.alpn = read_alpn(value)?,
        }
    }
    Ok(hello)
}

/// Reads the host: one name of the only type that there is (RFC 6066 §3).
fn read_name(mut value: Cut<'_>) -> Result<Box<str>, Refused> {
    let mut list = value.vector(2)?;
    if list.number(1)? != 0 {
        return Err(Malformed("a name of another type"));
    }
    let name = list.vector(2)?.0;
    if !list.is_empty() || !value.is_empty() {
        return Err(Malformed("more than one name"));
    }
    let plain = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
    let labels = || name.split(|octet| *octet == b'.');
    if name.is_empty() || name.len() > MAX_HOST || !name.iter().all(plain) || labels().any(<[u8]>::is_empty) {
        return Err(Malformed("a name that is no host"));
    }
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase().into())
}

fn read_alpn(mut value: Cut<'_>) -> Result<Vec<Box<[u8]>>, Refused> {
    let mut list = value.vector(2)?;
    let mut protocols = Vec::new();
    while !list.is_empty() {
        let protocol = list.vector(1)?.0;
        if protocol.is_empty() {
            return Err(Malformed("an empty protocol"));
        }
        protocols.push(protocol.into());
    }
    if protocols.is_empty() || !value.is_empty() {
        return Err(Malformed("no protocols"));
    }
    Ok(protocols)
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
