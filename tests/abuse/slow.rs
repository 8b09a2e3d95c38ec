//! Clients that are slow on purpose (threat row 24; RFC 9110 §15.5.9): every wait ends.

use crate::support::backend::{Backend, Step, answering};
use crate::support::http::{Broken, Raw};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(10);

fn impatient(backend: &Backend) -> Proxy {
    Setup::new(&[backend.address])
        .with(|s| {
            s.options.timeouts.head = SHORT;
            s.options.timeouts.keepalive = SHORT;
            s.options.timeouts.body_idle = SHORT;
        })
        .start()
}

#[tokio::test]
async fn a_head_that_does_not_end_is_a_408_rfc9110_15_5_9() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = impatient(&backend);
    let begun = Instant::now();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
    // Each octet is progress, but the time is for the whole head.
    let answer = loop {
        match tokio::time::timeout(Duration::from_millis(20), raw.try_answer(false)).await {
            Ok(answer) => break answer.unwrap(),
            Err(_) => raw.send("x").await,
        }
        assert!(begun.elapsed() < LIMIT);
    };
    assert_eq!((answer.status, answer.field("weir-reason")), (408, Some("head_timeout")));
    assert!(answer.closes());
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_silently() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = impatient(&backend);
    let mut fresh = Raw::connect(proxy.address).await.unwrap();
    assert!(fresh.rest().await.is_empty());
    let mut kept = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(kept.exchange(GET).await.text(), "fine");
    assert!(kept.rest().await.is_empty());
    eventually("no open connection", LIMIT, async || (proxy.metric("weir_connections_open") == 0).then_some(())).await;
}

/// RFC 9112 §2.2: an empty line behind a body is no request, so its connection is idle.
#[tokio::test]
async fn an_empty_line_begins_no_head_rfc9112_2_2() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = impatient(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(format!("{GET}\r\n")).await.text(), "fine");
    assert_eq!(raw.rest().await, b"", "no 408 for a request that was never begun");
}

#[tokio::test]
async fn a_body_that_stops_is_a_408_and_the_endpoint_s_request_is_aborted() {
    let backend = Backend::start(vec![Step::ReadHead, Step::ReadBody(100), Step::Hold]).await;
    let proxy = impatient(&backend);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart").await;
    assert_eq!((answer.status, answer.field("weir-reason")), (408, Some("body_timeout")));
    assert!(answer.closes() && raw.rest().await.is_empty());
    assert_eq!(proxy.in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_drips_is_ended_after_its_grace() {
    let backend = Backend::start(vec![Step::ReadHead, Step::Hold]).await;
    let proxy = Proxy::over(&[backend.address]);
    let begun = Instant::now();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await;
    let answer = loop {
        match tokio::time::timeout(Duration::from_millis(50), raw.try_answer(false)).await {
            Ok(answer) => break answer.unwrap(),
            Err(_) => raw.send("x").await,
        }
        assert!(begun.elapsed() < Duration::from_secs(15));
    };
    assert_eq!((answer.status, answer.field("weir-reason")), (408, Some("body_timeout")));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_inside_its_body_frees_the_endpoint() {
    let backend = Backend::start(vec![Step::ReadHead, Step::Hold]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\npart").await;
    eventually("the request", LIMIT, async || backend.received_text().ends_with("part").then_some(())).await;
    drop(raw);
    eventually("the end of the request", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_gone\"}"), 1);
}

/// A backend that sends without end and counts what was taken from it.
async fn endless() -> (std::net::SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, sent) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let counter = sent.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counter = counter.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0u8; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n").await;
                let block = vec![7u8; 64 * 1024];
                while let Ok(n) = stream.write(&block).await {
                    counter.fetch_add(n as u64, Ordering::SeqCst);
                }
            });
        }
    });
    (address, sent)
}

/// A client with a small receive window.
async fn narrow(proxy: &Proxy) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    Raw { stream: socket.connect(proxy.address).await.unwrap(), input: Vec::new() }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_endpoint_and_is_reset() {
    let (address, sent) = endless().await;
    let proxy = Setup::new(&[address]).with(|s| s.options.timeouts.answer_window = Duration::from_secs(1)).start();
    let mut raw = narrow(&proxy).await;
    raw.send(GET).await;
    // Back-pressure: what was taken is what the kernel's buffers hold; it stops growing.
    let stopped = eventually("a stop", LIMIT, async || {
        let before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        (before > 0 && sent.load(Ordering::SeqCst) == before).then_some(before)
    })
    .await;
    assert!(stopped < 64 << 20, "{stopped} octets were taken for a client that reads nothing");
    eventually("the end of the request", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_stalled\"}"), 1);
    match raw.try_answer(false).await {
        Err(Broken::InsideAnswer(kind, _) | Broken::BeforeAnswer(kind)) => {
            assert_eq!(kind, std::io::ErrorKind::ConnectionReset)
        }
        other => panic!("{other:?}"),
    }
}

/// What is taken has to keep the pace: 1 KiB a second, averaged over ten. A window that is opened again and again by a little
/// winds up no clock. This is with every limit at its default.
#[tokio::test]
async fn a_client_that_reads_in_drips_is_reset() {
    let (address, _) = endless().await;
    let proxy = Proxy::over(&[address]);
    let mut raw = narrow(&proxy).await;
    raw.send(GET).await;
    let (begun, mut taken) = (Instant::now(), 0);
    while begun.elapsed() < LIMIT * 3 {
        // Some 500 octets a second: something moves all the time, at half of the least pace.
        match raw.stream.read(&mut [0; 50]).await {
            Ok(n) if n > 0 => taken += n,
            _ => break,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        if proxy.metric("weir_refused_total{reason=\"client_stalled\"}") == 1 {
            break;
        }
    }
    let passed = begun.elapsed();
    // In the first ten seconds what the client's kernel takes at once may count.
    assert!((Duration::from_secs(10)..Duration::from_secs(26)).contains(&passed), "{taken} octets in {passed:?}");
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_stalled\"}"), 1);
    // What the kernel still holds is thrown away: nothing looks complete.
    let end = loop {
        match within("the reset", LIMIT, raw.stream.read(&mut [0; 16_000])).await {
            Ok(n) if n > 0 => {}
            end => break end.map_err(|error| error.kind()),
        }
    };
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

/// Twice the pace, for longer than the time in which it is measured. The kernel says that there is room again only when a part
/// of its buffer is free, which is minutes apart here: what the client has acknowledged is what counts.
#[tokio::test]
async fn a_client_that_keeps_the_pace_is_waited_for() {
    let (address, _) = endless().await;
    let proxy = Setup::new(&[address]).with(|s| s.options.timeouts.answer_window = Duration::from_secs(3)).start();
    let mut raw = narrow(&proxy).await;
    raw.send(GET).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(13) {
        // 4 KiB at a time, as the window of a receiver opens by segments of several KiB.
        let mut left = 4096;
        while left > 0 {
            let mut buffer = vec![0; left];
            match within("octets", LIMIT, raw.stream.read(&mut buffer)).await.unwrap() {
                0 => panic!("the end after {:?}", begun.elapsed()),
                n => left -= n,
            }
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!((proxy.in_flight(), proxy.metric("weir_refused_total{reason=\"client_stalled\"}")), (1, 0));
}

#[tokio::test]
async fn a_slow_reader_gets_every_octet() {
    let size = 3_000_000usize;
    let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    answer.extend_from_slice(&body);
    let backend = Backend::start(vec![Step::ReadHead, Step::Send(answer), Step::Repeat]).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = narrow(&proxy).await;
    raw.send(GET).await;
    let read = raw.answer();
    assert!(within("the body", Duration::from_secs(60), read).await.body == body);
}

#[tokio::test]
async fn two_hundred_slow_clients_do_not_slow_a_neighbour() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.head = Duration::from_secs(6)).start();
    let mut slow = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(
            ["GET / HTTP/1.1\r\nHost: a\r\nX: ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", ""][n % 3],
        )
        .await;
        slow.push(raw);
    }
    let mut neighbour = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..100 {
        let begun = Instant::now();
        assert_eq!(neighbour.exchange(GET).await.text(), "fine");
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    let waiting_for_head = proxy.metric("weir_refused_total{reason=\"head_timeout\"}");
    assert_eq!(waiting_for_head, 0, "they were still there");
    eventually("every slow head ended", LIMIT, async || {
        (proxy.metric("weir_refused_total{reason=\"head_timeout\"}") == 67).then_some(())
    })
    .await;
}

/// A backend that does by target: `/down` sends without end, `/up` reads without end, another is answered.
async fn by_target() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut block = vec![7u8; 64 * 1024];
                let n = stream.read(&mut block).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&block[..n]).into_owned();
                if head.starts_with("GET /down ") {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n").await;
                    while stream.write_all(&block).await.is_ok() {}
                } else if head.starts_with("POST /up ") {
                    while stream.read(&mut block).await.is_ok_and(|n| n > 0) {}
                } else {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
                }
            });
        }
    });
    address
}

/// A worker has one thread: bulk gives turns to others.
#[tokio::test]
async fn bulk_in_both_directions_leaves_turns_for_a_neighbour() {
    let proxy = Proxy::over(&[by_target().await]);
    let mut down = Raw::connect(proxy.address).await.unwrap();
    down.send("GET /down HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let downloading = tokio::spawn(async move {
        let mut buffer = vec![0u8; 1 << 20];
        while down.stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    let mut up = Raw::connect(proxy.address).await.unwrap();
    up.send("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n").await;
    let uploading = tokio::spawn(async move { while up.stream.write_all(&[7u8; 16 * 1024]).await.is_ok() {} });
    eventually("both", LIMIT, async || (proxy.in_flight() == 2).then_some(())).await;
    for _ in 0..20 {
        let mut neighbour = Raw::connect(proxy.address).await.unwrap();
        let begun = Instant::now();
        assert_eq!(neighbour.exchange(GET).await.text(), "fine");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    assert!(proxy.in_flight() >= 2, "bulk still runs");
    downloading.abort();
    uploading.abort();
}
