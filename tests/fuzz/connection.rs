//! The whole connection: mutated requests in random pieces through a running proxy, with an endpoint that is strict.
//!
//! Whatever the client sends: what the endpoint gets is well formed, each request of it is answered once and in order, the
//! client gets whole answers only, and after an answer that announces the end nothing follows.

use crate::corpus::REQUESTS;
use crate::fuzz;
use crate::support::proxy::Setup;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What the endpoint saw.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    complaint: Mutex<Option<String>>,
}

/// Reads one message by the plainest reading there is, and whether it is a HEAD; an error says what is not plain.
fn read_request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<bool>, String> {
    let mut buffer = [0u8; 4096];
    let mut more = |input: &mut Vec<u8>| -> bool {
        match stream.read(&mut buffer) {
            Ok(n) if n > 0 => {
                input.extend_from_slice(&buffer[..n]);
                true
            }
            _ => false,
        }
    };
    let end = loop {
        if let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if !more(input) {
            return Ok(None);
        }
    };
    let head: Vec<u8> = input.drain(..end).collect();
    let text: String = head.iter().map(|&b| char::from(b)).collect();
    let mut lines = text.strip_suffix("\r\n\r\n").unwrap_or_default().split("\r\n");
    let first = lines.next().unwrap_or_default();
    if first.split(' ').count() != 3 || !first.ends_with(" HTTP/1.1") {
        return Err(format!("a start line: {first:?}"));
    }
    let (mut length, mut chunked, mut hosts) = (None, false, 0);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(format!("a field: {line:?}"))?;
        let value = value.trim_matches([' ', '\t']);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
            return Err(format!("a name: {line:?}"));
        }
        if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 127) {
            return Err(format!("a value: {line:?}"));
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" if length.is_some() => return Err("two lengths".into()),
            "content-length" => length = Some(value.parse::<usize>().map_err(|_| format!("a length: {value:?}"))?),
            "transfer-encoding" if chunked || value != "chunked" => return Err(format!("a coding: {value:?}")),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    if hosts != 1 || (chunked && length.is_some()) {
        return Err(format!("{hosts} hosts, length {length:?}, chunked {chunked}"));
    }
    let done = |input: &mut Vec<u8>| -> Result<bool, String> {
        if chunked {
            return take_chunks(input);
        }
        let length = length.unwrap_or(0);
        Ok(input.len() >= length && {
            drop(input.drain(..length));
            true
        })
    };
    while !done(input)? {
        if !more(input) {
            return Ok(None);
        }
    }
    Ok(Some(first.starts_with("HEAD ")))
}

/// Takes a whole chunked body from the front; false while it is not whole.
fn take_chunks(input: &mut Vec<u8>) -> Result<bool, String> {
    let mut at = 0;
    loop {
        let Some(end) = input[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(false) };
        let line = String::from_utf8_lossy(&input[at..at + end]).into_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("a chunk size: {line:?}"))?;
        at += end + 2;
        if size == 0 {
            let last = if input[at..].starts_with(b"\r\n") {
                Some(2)
            } else {
                input[at..].windows(4).position(|four| four == b"\r\n\r\n").map(|n| n + 4)
            };
            return Ok(last.is_some_and(|last| {
                drop(input.drain(..at + last));
                true
            }));
        }
        match input.get(at + size..at + size + 2) {
            None => return Ok(false),
            Some(b"\r\n") => at += size + 2,
            Some(other) => return Err(format!("after a chunk: {other:?}")),
        }
    }
}

/// An endpoint that answers each request and complains about what is not plain.
fn endpoint(seen: Arc<Seen>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen) = (stream.unwrap(), seen.clone());
            thread::spawn(move || {
                let mut input = Vec::new();
                loop {
                    match read_request(&mut stream, &mut input) {
                        Ok(Some(is_head)) => {
                            seen.requests.fetch_add(1, Ordering::SeqCst);
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: served\r\n\r\nok";
                            if stream.write_all(&answer[..answer.len() - 2 * usize::from(is_head)]).is_err() {
                                return;
                            }
                        }
                        Ok(None) => return,
                        Err(complaint) => {
                            *seen.complaint.lock().unwrap() = Some(complaint);
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

/// Reads the answers of a connection that has ended: how many came from the endpoint.
fn check_answers(mut octets: &[u8]) -> usize {
    let (mut served, mut closed) = (0, false);
    while !octets.is_empty() {
        assert!(!closed, "more after the end: {}", octets.escape_ascii());
        let end = octets.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(octets[..end].to_vec()).unwrap();
        assert!(head.starts_with("HTTP/1.1 "), "{head}");
        octets = &octets[end..];
        if head.starts_with("HTTP/1.1 100 ") {
            continue;
        }
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = field("Content-Length:").expect("a length").parse().unwrap();
        closed = field("Connection:") == Some("close");
        served += usize::from(field("X:") == Some("served"));
        // The answer to HEAD has a length and no body.
        if !octets.is_empty() && !octets.starts_with(b"HTTP/1.1 ") {
            octets = octets.get(length..).expect("a whole body");
        }
    }
    served
}

#[test]
fn whole_connections() {
    let seen = Arc::new(Seen::default());
    let address = endpoint(seen.clone());
    let proxy = Setup::new(&[address])
        .with(|s| {
            s.spec.retries = 0;
            s.options.timeouts.body_idle = Duration::from_millis(200);
            s.options.timeouts.head = Duration::from_millis(200);
        })
        .start();
    fuzz("connection", REQUESTS, |input, rng| {
        let before = seen.requests.load(Ordering::SeqCst);
        let mut client = TcpStream::connect(proxy.address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.set_nodelay(true).unwrap();
        let mut at = 0;
        while at < input.len() {
            let end = if rng.below(2) == 0 { input.len() } else { at + 1 + rng.below(input.len() - at) };
            // It may have been answered and closed already.
            if client.write_all(&input[at..end]).is_err() {
                break;
            }
            at = end;
        }
        let _ = client.shutdown(Shutdown::Write);
        let mut octets = Vec::new();
        let ended = client.read_to_end(&mut octets);
        if let Err(error) = &ended {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        if let Some(complaint) = seen.complaint.lock().unwrap().take() {
            panic!("the endpoint got {complaint}");
        }
        // A reset may have destroyed answers.
        if ended.is_ok() {
            let served = check_answers(&octets);
            let requests = seen.requests.load(Ordering::SeqCst) - before;
            assert!(served <= requests && requests <= served + 1, "{served} answers to {requests} requests");
        }
        assert_eq!(proxy.metric("weir_panics_total"), 0);
    });
}
