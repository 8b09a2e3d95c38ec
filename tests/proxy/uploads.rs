//! Large bodies of requests, which pass by splice where they may: whole, in order and to their last octet, or cut and seen to be.

use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use aws_lc_rs::digest::{Context, SHA256};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use weir::http1::framing::{Body, Form, Framing};

const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(1);
/// Far more than is copied before splice begins, and than the kernel holds between two sockets.
const LARGE: usize = 24 << 20;
/// A prime number of octets: what repeats nowhere else cannot be lost, doubled or exchanged unseen.
const BLOCK_BYTES: usize = 1_048_573;

fn block() -> Vec<u8> {
    (0..BLOCK_BYTES).map(|i| (i * i / 251 % 256) as u8).collect()
}

fn pattern(length: usize) -> Vec<u8> {
    block().into_iter().cycle().take(length).collect()
}

fn digest(octets: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(octets);
    shown(context, octets.len())
}

fn shown(context: Context, length: usize) -> String {
    let digest: String = context.finish().as_ref().iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{length} {digest}")
}

/// What an endpoint does with a body after so many octets of it.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Answers with the digest at its end.
    Digest,
    /// Answers early, and reads no more.
    Early(usize),
    /// Answers nothing, and reads no more.
    Stops(usize),
    /// Sends back what comes, at once.
    Echo,
}

/// How a body ended at the endpoint: whole, or cut after so many octets.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Whole(usize),
    Cut(usize),
}

fn endpoint(manner: Manner) -> (SocketAddr, UnboundedReceiver<Came>) {
    let socket = TcpSocket::new_v4().unwrap();
    if let Manner::Stops(_) = manner {
        // The kernel takes a little more for it, and no whole body.
        socket.set_recv_buffer_size(256 << 10).unwrap();
    }
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = socket.listen(64).unwrap();
    let (address, (told, came)) = (listener.local_addr().unwrap(), unbounded_channel());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(requests(stream, manner, told.clone()));
        }
    });
    (address, came)
}

/// Serves one request after another; what is no request is told as a body of its own.
async fn requests(mut stream: TcpStream, manner: Manner, told: UnboundedSender<Came>) {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&input, b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(input.drain(..end).collect()).unwrap();
        assert!(head.starts_with("POST /") || head.starts_with("GET /"), "{head}");
        if !body(&mut stream, &mut input, &head, manner, &told).await {
            return;
        }
    }
}

/// Reads one body; returns whether another request may come.
async fn body(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    head: &str,
    manner: Manner,
    told: &UnboundedSender<Came>,
) -> bool {
    let lower = head.to_ascii_lowercase();
    let length = lower.split("\r\n").find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let chunked = lower.contains("transfer-encoding: chunked");
    let framing = if chunked { Framing::Chunked } else { length.map_or(Framing::None, Framing::Length) };
    let (mut body, mut context, mut came, mut payload) = (Body::new(framing), Context::new(&SHA256), 0, Vec::new());
    if let Manner::Echo = manner {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", length.unwrap_or(0));
        stream.write_all(head.as_bytes()).await.unwrap();
    }
    loop {
        payload.clear();
        let used = if chunked {
            body.transcode(input, Form::Payload, &mut payload).unwrap()
        } else {
            let used = body.advance(input).unwrap();
            payload.extend_from_slice(&input[..used]);
            used
        };
        input.drain(..used);
        context.update(&payload);
        came += payload.len();
        match manner {
            Manner::Echo => stream.write_all(&payload).await.unwrap(),
            Manner::Early(after) if came >= after => {
                let refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch";
                stream.write_all(refusal).await.unwrap();
                std::future::pending::<()>().await;
            }
            Manner::Stops(after) if came >= after => std::future::pending::<()>().await,
            _ => {}
        }
        if body.is_done() {
            break;
        }
        input.reserve(1 << 20);
        if stream.read_buf(input).await.unwrap_or(0) == 0 {
            told.send(Came::Cut(came)).unwrap();
            return false;
        }
    }
    told.send(Came::Whole(came)).unwrap();
    if let Manner::Digest = manner {
        let text = shown(context, came);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
    true
}

/// Reads an answer with its body, or the end.
async fn text(mut stream: impl AsyncReadExt + Unpin) -> String {
    let mut seen = Vec::new();
    let whole = |seen: &[u8]| {
        let text = String::from_utf8_lossy(seen);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length =
            head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok())?;
        (body.len() >= length).then_some(())
    };
    while whole(&seen).is_none() {
        if !matches!(within("the answer", LIMIT, stream.read_buf(&mut seen)).await, Ok(n) if n > 0) {
            break;
        }
    }
    String::from_utf8(seen).unwrap()
}

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

/// Sends a body of this length in the framing asked for, in pieces of many sizes; returns what the endpoint says of it.
async fn upload(to: SocketAddr, length: usize, chunked: bool) -> String {
    let mut raw = Raw::connect(to).await.unwrap();
    let head = match chunked {
        true => "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        false => post(length),
    };
    raw.send(head).await;
    let (block, mut at, mut piece) = (block(), 0, 1);
    while at < length {
        let from = at % BLOCK_BYTES;
        piece = (piece * 7 + 1) % 700_001;
        let octets = &block[from..(from + piece.max(1)).min(BLOCK_BYTES).min(from + length - at)];
        if chunked {
            raw.send(format!("{:x}\r\n", octets.len())).await;
        }
        raw.send(octets).await;
        if chunked {
            raw.send("\r\n").await;
        }
        at += octets.len();
    }
    if chunked {
        raw.send("0\r\n\r\n").await;
    }
    within("the digest", LIMIT, raw.answer()).await.text()
}

async fn in_flight(proxy: &Proxy, count: u32) {
    eventually("requests in flight", LIMIT, async || (proxy.in_flight() == count).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_in_either_framing_side_by_side_arrive_whole() {
    const BYTES: usize = 100_000_007;
    let (address, mut came) = endpoint(Manner::Digest);
    let proxy = Proxy::over(&[address]);
    let uploads = [false, true, false, true].map(|chunked| tokio::spawn(upload(proxy.address, BYTES, chunked)));
    let expected = digest(&pattern(BYTES));
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), expected);
        assert_eq!(came.recv().await, Some(Came::Whole(BYTES)));
    }
    in_flight(&proxy, 0).await;
    let received =
        async || (proxy.metric("weir_received_bytes_total{service=\"web\"}") == 4 * BYTES as u64).then_some(());
    eventually("the count", LIMIT, received).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_comes_back_while_it_goes_arrives_whole() {
    let (address, _came) = endpoint(Manner::Echo);
    let proxy = Proxy::over(&[address]);
    let raw = Raw::connect(proxy.address).await.unwrap();
    let (read, mut write) = raw.stream.into_split();
    let sending = tokio::spawn(async move {
        write.write_all(post(LARGE).as_bytes()).await.unwrap();
        write.write_all(&pattern(LARGE)).await.unwrap();
        write
    });
    let mut back = Vec::new();
    let mut limited = read.take(LARGE as u64);
    within("the head", LIMIT, async {
        while memchr::memmem::find(&back, b"\r\n\r\n").is_none() {
            limited.read_buf(&mut back).await.unwrap();
        }
    })
    .await;
    let head = memchr::memmem::find(&back, b"\r\n\r\n").unwrap() + 4;
    limited.set_limit((LARGE + head - back.len()) as u64);
    within("the body", LIMIT, limited.read_to_end(&mut back)).await.unwrap();
    assert_eq!(digest(&back[head..]), digest(&pattern(LARGE)));
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pipelined_behind_a_large_body_is_the_next_request() {
    let (address, _came) = endpoint(Manner::Digest);
    let proxy = Proxy::over(&[address]);
    // One and 16 KiB: the body ends within a splice and within what is copied behind it.
    for length in [LARGE, LARGE + 1, LARGE + (16 << 10)] {
        let mut octets = post(length).into_bytes();
        octets.extend(pattern(length));
        octets.extend(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
        octets.extend(post(5).into_bytes());
        octets.extend(b"small");
        let raw = Raw::connect(proxy.address).await.unwrap();
        let (read, mut write) = raw.stream.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(&octets).await.unwrap();
            write
        });
        let mut all = String::new();
        let expected = [digest(&pattern(length)), digest(b""), digest(b""), digest(b""), digest(b"small")];
        let mut reader = tokio::io::BufReader::new(read);
        while !all.ends_with(&expected[4]) {
            let mut some = [0; 4096];
            let n = within("answers", LIMIT, reader.read(&mut some)).await.unwrap();
            assert!(n > 0, "{all}");
            all += std::str::from_utf8(&some[..n]).unwrap();
        }
        let bodies: Vec<_> = all.split("HTTP/1.1 200").skip(1).filter_map(|a| a.split("\r\n\r\n").nth(1)).collect();
        assert_eq!(bodies, expected);
        drop(sending.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_the_middle_of_an_upload_arrives_and_ends_both_connections() {
    for after in [1 << 20, 9 << 20] {
        let (address, _came) = endpoint(Manner::Early(after));
        let proxy = Proxy::over(&[address]);
        let raw = Raw::connect(proxy.address).await.unwrap();
        let (read, mut write) = raw.stream.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(post(LARGE).as_bytes()).await.unwrap();
            // Until Weir has read enough of it.
            let _ = write.write_all(&pattern(LARGE)).await;
            write
        });
        let answer = text(read).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Connection: close"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nmuch"), "{answer}");
        in_flight(&proxy, 0).await;
        sending.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_in_the_middle_leaves_a_body_that_is_seen_to_be_cut() {
    let (address, mut came) = endpoint(Manner::Digest);
    let proxy = Proxy::over(&[address]);
    for resets in [false, true] {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(post(LARGE)).await;
        raw.send(pattern(LARGE - 1)).await;
        if resets {
            socket2::SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(raw);
        match within("the end of the body", LIMIT, came.recv()).await.unwrap() {
            Came::Cut(octets) => assert!(octets < LARGE && (resets || octets == LARGE - 1), "{octets}"),
            whole => panic!("{whole:?}"),
        }
        in_flight(&proxy, 0).await;
    }
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_gone\"}"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    let (address, _came) = endpoint(Manner::Digest);
    let proxy = Setup::new(&[address]).with(|s| s.options.limits.body_bytes = Some(LARGE as u64)).start();
    for chunked in [false, true] {
        assert_eq!(upload(proxy.address, LARGE, chunked).await, digest(&pattern(LARGE)));
    }
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange(post(LARGE + 1)).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (413, Some("body_too_large")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_in_the_middle_is_waited_for_no_longer_than_its_time() {
    let stopping = async |manner: Manner, sent: usize| {
        let (address, _came) = endpoint(manner);
        let proxy = Setup::new(&[address])
            .with(|s| (s.options.timeouts.body_idle, s.spec.timeouts.response) = (SHORT, SHORT))
            .start();
        let octets = pattern(sent);
        let raw = Raw::connect(proxy.address).await.unwrap();
        let (read, mut write) = raw.stream.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(post(LARGE).as_bytes()).await.unwrap();
            let _ = write.write_all(&octets).await;
            write
        });
        let answer = text(read).await;
        in_flight(&proxy, 0).await;
        sending.abort();
        answer
    };
    let client = stopping(Manner::Digest, LARGE - 1).await;
    assert!(client.starts_with("HTTP/1.1 408 ") && client.contains("body_timeout"), "{client}");
    let endpoint = stopping(Manner::Stops(1 << 20), LARGE).await;
    assert!(endpoint.starts_with("HTTP/1.1 504 ") && endpoint.contains("response_timeout"), "{endpoint}");
    let answer = stopping(Manner::Stops(LARGE), LARGE).await;
    assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("response_timeout"), "{answer}");
}
