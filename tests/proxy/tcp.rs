//! TCP listeners: octets both ways as they are, half-close, retry, drain, limits, counters.

use crate::front;
use crate::support::backend::{Backend, Step, send};
use crate::support::proxy::Setup;
use crate::support::{eventually, within};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);

/// Reads everything until the peer ends, then sends it back behind `name`, and ends.
async fn echo_after_end(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = name.as_bytes().to_vec();
                if stream.read_to_end(&mut all).await.is_ok() {
                    let _ = stream.write_all(&all).await;
                }
            });
        }
    });
    address
}

/// Sends back what comes, at once.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

async fn ask(target: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    within("an answer", LIMIT, stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

/// Octets that repeat only after a prime number of them, so that none can be lost or doubled unseen.
fn pattern(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn octets_pass_both_ways_and_the_end_of_one_side_leaves_the_other_open() {
    let endpoint = echo_after_end("got:").await;
    let proxy = Setup::tcp(&[endpoint]).start();
    for text in ["", "x", "no HTTP at all\0\r\n"] {
        assert_eq!(ask(proxy.address, text).await.unwrap(), format!("got:{text}"));
    }
    eventually("no stream", LIMIT, async || (proxy.metric("weir_streams_open{service=\"web\"}") == 0).then_some(()))
        .await;
    assert_eq!(proxy.metric("weir_streams_total{service=\"web\"}"), 3);
    assert_eq!(proxy.metric("weir_received_bytes_total{service=\"web\"}"), 18);
    assert_eq!(proxy.metric("weir_sent_bytes_total{service=\"web\"}"), 18 + 12);
    assert_eq!((proxy.metric("weir_connections_open"), proxy.in_flight()), (0, 0));
}

#[tokio::test]
async fn the_endpoint_may_end_first_and_still_receives() {
    let script = vec![send("bye"), Step::Shutdown, Step::ReadHead, Step::Close];
    let backend = Backend::start(script).await;
    let proxy = Setup::tcp(&[backend.address]).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut answer = String::new();
    within("the endpoint's end", LIMIT, stream.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((answer.as_str(), proxy.in_flight()), ("bye", 1));
    stream.write_all(b"still here\r\n\r\n").await.unwrap();
    eventually("octets", LIMIT, async || (backend.received_text() == "still here\r\n\r\n").then_some(())).await;
    drop(stream);
    eventually("the end", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_in_both_directions_arrives_whole() {
    const BYTES: usize = 48 << 20;
    let proxy = Setup::tcp(&[echo().await]).start();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        clients.push(tokio::spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let writing = tokio::spawn(async move {
                let mut at = 0;
                while at < BYTES {
                    // Pieces of many sizes: copying and splicing take turns.
                    let length = (1 + at % 700_001).min(BYTES - at);
                    write.write_all(&pattern(at, length)).await.unwrap();
                    at += length;
                }
                write.shutdown().await.unwrap();
            });
            let (mut at, mut buffer) = (0, vec![0; 300_000]);
            loop {
                let n = within("octets", LIMIT, read.read(&mut buffer)).await.unwrap();
                if n == 0 {
                    break;
                }
                assert!(buffer[..n] == pattern(at, n), "octets after {at} are wrong");
                at += n;
            }
            assert_eq!(at, BYTES);
            writing.await.unwrap();
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    eventually("no stream", LIMIT, async || (proxy.metric("weir_streams_open{service=\"web\"}") == 0).then_some(()))
        .await;
    assert_eq!(proxy.metric("weir_received_bytes_total{service=\"web\"}"), 3 * BYTES as u64);
    assert_eq!(proxy.metric("weir_sent_bytes_total{service=\"web\"}"), 3 * BYTES as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_holds_the_sender_back_and_loses_nothing() {
    const BYTES: usize = 24 << 20;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Setup::tcp(&[listener.local_addr().unwrap()]).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut sender, _) = listener.accept().await.unwrap();
    let sending = tokio::spawn(async move { sender.write_all(&pattern(0, BYTES)).await.map(|()| sender) });
    let (mut at, mut buffer, mut moved) = (0, vec![0; 1 << 20], 0);
    while at < BYTES {
        if at / (6 << 20) != moved / (6 << 20) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            moved = at;
        }
        let n = within("octets", LIMIT, stream.read(&mut buffer)).await.unwrap();
        assert!(n > 0 && buffer[..n] == pattern(at, n), "octets after {at} are wrong");
        at += n;
    }
    sending.await.unwrap().unwrap();
}

#[tokio::test]
async fn another_endpoint_is_tried_when_no_connection_can_be_made() {
    let gone = Backend::refusing();
    let endpoint = echo_after_end("alive:").await;
    let proxy = Setup::tcp(&[gone, endpoint]).with(|s| s.spec.outliers.enabled = true).start();
    for _ in 0..6 {
        assert_eq!(ask(proxy.address, "x").await.unwrap(), "alive:x");
    }
    assert_eq!(proxy.metric("weir_retries_total{outcome=\"allowed\",service=\"web\"}"), 1);
    assert_eq!(proxy.metric("weir_ejections_total{service=\"web\"}"), 1, "the dead one was asked once");
}

#[tokio::test]
async fn a_client_that_no_endpoint_takes_is_reset_and_counted() {
    let gone = Backend::refusing();
    let proxy = Setup::tcp(&[gone]).start();
    for _ in 0..3 {
        let answer = ask(proxy.address, "x").await;
        assert!(answer.is_err(), "{answer:?}: an orderly end would pass for an answer");
    }
    assert_eq!(proxy.metric("weir_refused_total{reason=\"connect_failed\"}"), 3);
    let empty = Setup::tcp(&[]).start();
    assert!(ask(empty.address, "x").await.is_err());
    assert_eq!(empty.metric("weir_refused_total{reason=\"no_endpoint\"}"), 1);
}

#[tokio::test]
async fn a_reset_passes_through() {
    let backend = Backend::start(vec![Step::ReadHead, Step::Reset]).await;
    let proxy = Setup::tcp(&[backend.address]).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"x\r\n\r\n").await.unwrap();
    let read = within("the reset", LIMIT, stream.read(&mut [0; 9])).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    eventually("the end", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_streams_cut_total{service=\"web\"}"), 0);
}

#[tokio::test]
async fn an_idle_stream_is_closed_after_the_idle_time_and_a_busy_one_is_not() {
    let proxy = Setup::tcp(&[echo().await]).with(|s| s.spec.timeouts.tunnel_idle = Duration::from_secs(2)).start();
    let mut idle = TcpStream::connect(proxy.address).await.unwrap();
    let mut busy = TcpStream::connect(proxy.address).await.unwrap();
    let begun = Instant::now();
    let watch =
        tokio::spawn(
            async move { within("the end", LIMIT, idle.read(&mut [0; 1])).await.map(|n| (n, begun.elapsed())) },
        );
    while !watch.is_finished() || begun.elapsed() < Duration::from_secs(4) {
        busy.write_all(b"x").await.unwrap();
        assert_eq!(within("an echo", LIMIT, busy.read(&mut [0; 1])).await.unwrap(), 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (n, after) = watch.await.unwrap().unwrap();
    assert!(n == 0 && after >= Duration::from_millis(1900), "{n} {after:?}");
}

#[tokio::test]
async fn a_withdrawn_endpoint_keeps_its_streams_for_the_drain_time_and_then_resets_them() {
    let (old, new) = (echo().await, echo().await);
    let mut proxy = Setup::tcp(&[old]).with(|s| s.spec.drain_timeout = Duration::from_secs(4)).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
    proxy.publish(&[new]);
    let begun = Instant::now();
    for _ in 0..5 {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1, "it drains");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let read = within("the reset", LIMIT, stream.read(&mut [0; 1])).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(begun.elapsed() >= Duration::from_millis(3900), "{:?}", begun.elapsed());
    assert_eq!(proxy.metric("weir_streams_cut_total{service=\"web\"}"), 1);
}

#[tokio::test]
async fn a_drain_waits_for_streams_takes_no_new_ones_and_ends_with_the_last() {
    let proxy = Setup::tcp(&[echo().await]).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
    proxy.drain();
    eventually("a closed listener", LIMIT, async || TcpStream::connect(proxy.address).await.is_err().then_some(()))
        .await;
    for _ in 0..3 {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
    }
    drop(stream);
    within("the end of the workers", LIMIT, proxy.ended()).await;
}

#[tokio::test]
async fn what_is_open_at_the_drain_deadline_is_reset_and_counted() {
    let proxy = Setup::tcp(&[echo().await]).start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
    let metrics = proxy.metrics.clone();
    proxy.drain();
    drop(proxy);
    let read = within("the reset", LIMIT, stream.read(&mut [0; 1])).await;
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(metrics.encode().contains("weir_streams_cut_total{service=\"web\"} 1\n"));
}

#[tokio::test]
async fn connections_above_the_limit_wait_until_one_ends() {
    let proxy = Setup::tcp(&[echo().await]).with(|s| s.options.limits.connections = 2).start();
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
        open.push(stream);
    }
    let mut third = TcpStream::connect(proxy.address).await.unwrap();
    third.write_all(b"y").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), third.read(&mut [0; 1])).await;
    assert!(early.is_err(), "it waits");
    open.pop();
    assert_eq!(within("an echo", LIMIT, third.read(&mut [0; 1])).await.unwrap(), 1);
}

#[tokio::test]
async fn streams_do_not_count_against_the_limit_on_concurrency() {
    let proxy = Setup::tcp(&[echo().await]).with(|s| s.spec.limits.concurrency = Some(1)).start();
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        assert_eq!(within("an echo", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 1);
        open.push(stream);
    }
    assert_eq!(proxy.in_flight(), 4);
}

#[tokio::test]
async fn a_configured_tcp_listener_serves_and_logs_beside_http() {
    let endpoint = echo_after_end("raw:").await;
    let raw = crate::support::process::free_address();
    let more = format!(
        "\n[log]\naccess = true\naccess_format = \"json\"\n\n[[listener]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\nservice = \"app\"\n"
    );
    let weir = front("tcp", &[endpoint], "", &more).await;
    assert_eq!(ask(raw, "hello").await.unwrap(), "raw:hello");
    let line = eventually("the access line", LIMIT, async || {
        weir.log().lines().find(|line| line.contains("\"method\":\"TCP\"")).map(str::to_owned)
    })
    .await;
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["host"], &value["service"], &value["reason"]),
        (&"raw".into(), &"app".into(), &"".into()),
        "{line}"
    );
    assert_eq!((&value["sent_bytes"], &value["received_bytes"]), (&9.into(), &5.into()), "{line}");
    assert_eq!(value["endpoint"], endpoint.to_string(), "{line}");
}
