//! The bytes of the scenarios: requests, answers, and an exact check of an answer.

use memchr::memmem;
use std::sync::OnceLock;

/// What is asked and answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A 40 B request and a 128 B body.
    Tiny,
    /// A 16 KiB body.
    Large,
    /// A 1 MiB body.
    Bulk,
    /// A browser's head of half a kilobyte, an answer of 12 fields and 128 B.
    Browser,
}

const TINY_BYTES: usize = 128;
const LARGE_BYTES: usize = 16 * 1024;
const BULK_BYTES: usize = 1024 * 1024;

const BROWSER_FIELDS: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:139.0) Gecko/20100101 Firefox/139.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Referer: http://www.example.com/products/overview?page=3\r\n\
    Cookie: session=0f8fad5bd9cb469fa16570867728950e; theme=dark; consent=1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Cache-Control: max-age=0\r\n";

const BROWSER_ANSWER: &str = "Server: backend\r\n\
    Date: Tue, 24 Nov 2026 10:00:00 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Cache-Control: private, max-age=0\r\n\
    ETag: \"33a64df551425fcc55e4d42a148795d9f25f89d4\"\r\n\
    Last-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\n\
    Vary: Accept-Encoding\r\n\
    X-Content-Type-Options: nosniff\r\n\
    X-Frame-Options: DENY\r\n\
    Strict-Transport-Security: max-age=31536000\r\n\
    Set-Cookie: session=0f8fad5bd9cb469fa16570867728950e; Path=/; HttpOnly\r\n";

/// Returns the request of a kind.
pub(crate) fn request(kind: Kind, close: bool) -> Vec<u8> {
    let (path, fields) = match kind {
        Kind::Tiny => ("/", ""),
        Kind::Large => ("/16k", ""),
        Kind::Bulk => ("/mebibyte", ""),
        Kind::Browser => ("/browser/article/2026/11/24?ref=front", BROWSER_FIELDS),
    };
    let connection = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n{fields}{connection}\r\n").into_bytes()
}

/// Returns the backend's answer to a request head.
pub(crate) fn answer(head: &[u8]) -> &'static [u8] {
    static ANSWERS: OnceLock<[Vec<u8>; 4]> = OnceLock::new();
    let [tiny, large, browser, bulk] = ANSWERS.get_or_init(|| {
        let plain = "Content-Type: text/plain\r\n";
        [
            build(plain, TINY_BYTES),
            build(plain, LARGE_BYTES),
            build(BROWSER_ANSWER, TINY_BYTES),
            build(plain, BULK_BYTES),
        ]
    });
    match head.get(5) {
        Some(b'1') => large,
        Some(b'b') => browser,
        Some(b'm') => bulk,
        _ => tiny,
    }
}

fn build(fields: &str, body: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {body}\r\n\r\n").into_bytes();
    bytes.extend((0..body).map(|i| b'a' + (i % 26) as u8));
    bytes
}

/// Returns the length of the first head, its empty line included.
pub(crate) fn head_length(data: &[u8]) -> Option<usize> {
    memmem::find(data, b"\r\n\r\n").map(|at| at + 4)
}

/// An answer as it arrives.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// The request was written.
    pub(crate) sent: bool,
    /// An incomplete head.
    head: Vec<u8>,
    /// Octets of the body that are missing, once the head is known.
    missing: Option<usize>,
}

impl Answer {
    /// Takes what arrived; true when the answer is complete. An error: wrong status, no length, or too many octets.
    pub(crate) fn feed(&mut self, data: &[u8]) -> Result<bool, ()> {
        let missing = match self.missing {
            Some(missing) => missing.checked_sub(data.len()).ok_or(())?,
            None if self.head.is_empty() => match head_length(data) {
                Some(length) => after_head(data, length)?,
                None => {
                    self.head.extend_from_slice(data);
                    return Ok(false);
                }
            },
            None => {
                self.head.extend_from_slice(data);
                let Some(length) = head_length(&self.head) else { return Ok(false) };
                after_head(&self.head, length)?
            }
        };
        self.missing = Some(missing);
        Ok(missing == 0)
    }
}

/// Returns the octets of the body that are missing after `data`, which starts with a head of `length`.
fn after_head(data: &[u8], length: usize) -> Result<usize, ()> {
    let head = data.get(..length).ok_or(())?;
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(());
    }
    let body = head.split(|&b| b == b'\n').find_map(|line| {
        let name = line.get(..15)?;
        let value = name.eq_ignore_ascii_case(b"content-length:").then(|| line.get(15..))??;
        std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok()
    });
    (body.ok_or(())? + length).checked_sub(data.len()).ok_or(())
}
