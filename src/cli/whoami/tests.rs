//! The test backend over real sockets, asked by a client that knows nothing but bytes.

use crate::cli::whoami::answer::State;
use crate::cli::whoami::args::WhoamiArgs;
use crate::cli::whoami::pattern_byte;
use crate::cli::whoami::server::{Ending, serve};
use crate::lifecycle;
use clap::Parser;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: WhoamiArgs,
}

struct Backend {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ending: JoinHandle<Ending>,
}

async fn start(flags: &[&str]) -> Backend {
    let args = Line::parse_from([&["whoami"], flags].concat()).args;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, drain) = lifecycle::drain();
    let state = State::open(args, "web-abcdef", "web".to_owned(), drain).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let ending = tokio::spawn(serve(listener, Arc::new(state), trigger, async {
        let _ = stopped.await;
    }));
    Backend { address, stop, ending }
}

/// Sends `request` with `Connection: close` and returns head and body.
async fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (line, rest) = request.split_once("\r\n").unwrap();
    stream.write_all(format!("{line}\r\nHost: a.test\r\nConnection: close\r\n{rest}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..split + 2].to_vec()).unwrap(), answer[split + 4..].to_vec())
}

#[tokio::test]
async fn says_who_answered_and_echoes_forwarding_fields_and_the_tag() {
    let backend = start(&[]).await;
    let request = "GET /a?b=c HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 weir\r\nCookie: secret\r\nX-Request-Tag: t7\r\n\r\n";
    let (head, body) = ask(backend.address, request).await;
    let body = String::from_utf8(body).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("x-request-tag: t7\r\n") && head.contains("x-instance: web-abcdef\r\n"), "{head}");
    assert!(!head.contains("x-execution"), "{head}");
    for line in [
        "Instance: web-abcdef",
        "Service: web",
        "Method: GET",
        "Path: /a?b=c",
        "Host: a.test",
        "Header: x-forwarded-for: 192.0.2.1",
        "Header: via: 1.1 weir",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} in {body}");
    }
    assert!(!body.contains("secret"));
}

#[tokio::test]
async fn sends_exact_bytes_with_a_length_or_in_chunks_with_a_trailer() {
    let backend = start(&[]).await;
    for length in [0_u64, 1, 65_511, 65_512, 200_000] {
        let expected: Vec<u8> = (0..length).map(pattern_byte).collect();
        let (head, body) = ask(backend.address, &format!("GET /bytes/{length} HTTP/1.1\r\n\r\n")).await;
        assert!(head.contains(&format!("content-length: {length}\r\n")), "{head}");
        assert!(body == expected, "{length}");
        let request = format!("GET /chunked/{length} HTTP/1.1\r\nTE: trailers\r\n\r\n");
        let (head, body) = ask(backend.address, &request).await;
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        let (plain, trailer) = unchunk(&body);
        assert!(plain == expected, "{length}");
        assert!(trailer.to_ascii_lowercase().contains(&format!("x-bytes: {length}\r\n")), "{trailer}");
    }
    let (head, body) = ask(backend.address, "HEAD /bytes/77 HTTP/1.1\r\n\r\n").await;
    assert!(head.contains("content-length: 77\r\n") && body.is_empty(), "{head}");
    let (head, _) = ask(backend.address, "GET /bytes/x HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

fn unchunk(mut body: &[u8]) -> (Vec<u8>, String) {
    let mut plain = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        body = &body[end + 2..];
        if size == 0 {
            return (plain, String::from_utf8(body.to_vec()).unwrap());
        }
        plain.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
}

#[tokio::test]
async fn answers_status_delay_and_echo() {
    let backend = start(&[]).await;
    for code in [200, 204, 304, 404, 503, 599] {
        let (head, _) = ask(backend.address, &format!("GET /status/{code} HTTP/1.1\r\n\r\n")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
    }
    let (head, _) = ask(backend.address, "GET /status/99 HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let before = crate::clock::now();
    ask(backend.address, "GET /delay/50 HTTP/1.1\r\n\r\n").await;
    assert!(before.elapsed() >= Duration::from_millis(50));
    let request = "PUT /echo HTTP/1.1\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello";
    let (head, body) = ask(backend.address, request).await;
    assert_eq!(body, b"hello");
    assert!(head.contains("content-type: a/b\r\n") && head.contains("content-length: 5\r\n"), "{head}");
    let request = "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let (head, body) = ask(backend.address, request).await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    assert_eq!(unchunk(&body).0, b"abc");
}

#[tokio::test]
async fn counts_and_journals_each_post() {
    let path = std::env::temp_dir().join(format!("weir-journal-{}", std::process::id()));
    let backend = start(&["--journal", path.to_str().unwrap()]).await;
    for number in 1..=3 {
        let request = format!("POST / HTTP/1.1\r\nX-Request-Tag: p{number}\r\nContent-Length: 2\r\n\r\nhi");
        let (head, body) = ask(backend.address, &request).await;
        assert!(head.contains(&format!("x-execution: {number}\r\n")), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("Body: 2 bytes\n"));
    }
    let journal = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(journal, "p1 web-abcdef 1\np2 web-abcdef 2\np3 web-abcdef 3\n");
}

#[tokio::test]
async fn fails_as_asked_but_stays_healthy() {
    let backend = start(&["--fail", "503"]).await;
    let (head, _) = ask(backend.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let (head, _) = ask(backend.address, "GET /health HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let backend = start(&["--fail", "0.5"]).await;
    let mut failed = 0;
    for _ in 0..60 {
        failed += u32::from(ask(backend.address, "GET / HTTP/1.1\r\n\r\n").await.0.starts_with("HTTP/1.1 500"));
    }
    assert!((15..45).contains(&failed), "{failed} of 60");
}

#[tokio::test]
async fn is_unhealthy_while_it_starts_slowly() {
    let backend = start(&["--slow-start", "1h"]).await;
    let (head, _) = ask(backend.address, "GET /health HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    let (head, _) = ask(backend.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn crashes_after_its_requests_or_its_time() {
    let backend = start(&["--crash-after", "2"]).await;
    for _ in 0..5 {
        ask(backend.address, "GET /health HTTP/1.1\r\n\r\n").await;
    }
    for _ in 0..2 {
        assert!(ask(backend.address, "GET / HTTP/1.1\r\n\r\n").await.0.starts_with("HTTP/1.1 200"));
    }
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(backend.ending.await.unwrap(), Ending::Crashed);
    let backend = start(&["--crash-after", "10ms"]).await;
    assert_eq!(backend.ending.await.unwrap(), Ending::Crashed);
}

#[tokio::test]
async fn finishes_requests_in_flight_and_closes_idle_connections_on_a_stop() {
    let backend = start(&[]).await;
    let mut idle = TcpStream::connect(backend.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = vec![0; 1024];
    assert!(idle.read(&mut first).await.unwrap() > 0);
    let address = backend.address;
    let mut in_flight = TcpStream::connect(address).await.unwrap();
    in_flight.write_all(b"GET /delay/300 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut queued = TcpStream::connect(address).await.unwrap();
    queued.write_all(b"GET /queued HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    backend.stop.send(()).unwrap();
    let mut answer = Vec::new();
    queued.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(idle.read(&mut first).await.unwrap(), 0);
    answer.clear();
    in_flight.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(backend.ending.await.unwrap(), Ending::Drained);
    assert!(TcpStream::connect(address).await.is_err());
}
