//! A WebSocket and a long download live through the scaling of another service.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::{Weir, free_address};
use crate::web::{SETTLED, loaded, service};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest pause that a client may see: of Weir's making it is none, but a busy machine stands still at times.
const GAP: Duration = Duration::from_secs(3);
/// `weir whoami` repeats its body after so many octets.
const PERIOD: usize = 251;

/// Echoes a text each 100 ms until told to stop, counting; returns the longest wait for an echo.
async fn websocket(target: SocketAddr, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Duration {
    let mut raw = Raw::connect(target).await.unwrap();
    raw.send(
        "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let answer = raw.answer().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let (mut echoes, mut longest) = (0u64, Duration::ZERO);
    while !stop.load(Ordering::SeqCst) {
        let text = format!("echo {echoes:08}");
        let mask = [1u8, 2, 3, 4];
        let mut frame = vec![0x81, 0x80 | text.len() as u8];
        frame.extend(mask);
        frame.extend(text.bytes().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        let sent = Instant::now();
        raw.send(&frame).await;
        let expected = [&[0x81, text.len() as u8], text.as_bytes()].concat();
        let mut received = vec![0; expected.len()];
        let read = raw.stream.read_exact(&mut received);
        support::within("an echo", GAP * 10, read).await.expect("the WebSocket lives");
        assert_eq!(received, expected);
        longest = longest.max(sent.elapsed());
        echoes += 1;
        count.store(echoes, Ordering::SeqCst);
        tokio::time::sleep_until((sent + Duration::from_millis(100)).into()).await;
    }
    longest
}

/// Downloads `length` octets, evenly until told to hurry, and checks each; returns the longest wait for data.
async fn download(target: SocketAddr, length: u64, pace: u64, hurry: Arc<AtomicBool>) -> Duration {
    let mut raw = Raw::connect(target).await.unwrap();
    raw.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
    let pattern: Vec<u8> = (0..PERIOD * 1100).map(|i| (i % PERIOD) as u8).collect();
    let mut buffer = vec![0u8; 256 * 1024];
    let (mut got, mut longest, start) = (0u64, Duration::ZERO, Instant::now());
    let mut head = Vec::new();
    loop {
        let before = Instant::now();
        let n = support::within("data", GAP * 10, raw.stream.read(&mut buffer)).await.expect("the download lives");
        longest = longest.max(before.elapsed());
        assert!(n > 0, "ended after {got} of {length} octets");
        let mut data = &buffer[..n];
        if got == 0 {
            head.extend_from_slice(data);
            let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") else { continue };
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head[..end]));
            let body = head.len() - end - 4;
            data = &data[n - body..];
        }
        let offset = (got % PERIOD as u64) as usize;
        assert!(data == &pattern[offset..offset + data.len()], "octets around {got} are wrong");
        got += data.len() as u64;
        if got == length {
            return longest;
        }
        let due = start + Duration::from_secs_f64(got as f64 / pace as f64);
        if !hurry.load(Ordering::SeqCst) && due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// What happens around the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Another service is scaled.
    Scaling,
    /// The configuration changes: limits of the streams' own service, a route, a listener, and back.
    Reload,
}

/// Changes the file and waits until it is in use.
async fn reload(weir: &Weir, base: &str, turn: usize) {
    let change = match turn % 4 {
        0 => "\n[[route]]\nname = \"extra\"\npath = \"/extra\"\nservice = \"web\"\n".to_owned(),
        1 => String::new(),
        2 => format!("\n[[listener]]\nname = \"extra\"\naddress = \"{}\"\n", free_address()),
        _ => "\n[[service]]\nname = \"new\"\n[[service.endpoint]]\naddress = \"127.0.0.1:9\"\n".to_owned(),
    };
    let own = base
        .replace("[[service]]\nname = \"web\"\n", &format!("[[service]]\nname = \"web\"\nretries = {}\n", turn % 5));
    std::fs::write(weir.folder.0.join("weir.toml"), format!("{own}{change}")).unwrap();
    support::eventually("the file is in use", SETTLED, || async {
        (weir.cli(&["diff"]).await.code == 0).then_some(())
    })
    .await;
}

async fn streams_survive(what: Turn, turns: usize, length: u64, pace: u64) {
    let _loaded = loaded().await;
    let route = "[[route]]\nname = \"web\"\nservice = \"web\"\n\n";
    let toml = format!("{route}{}{}", service("web", 2, "/dev/null"), service("other", 1, "/dev/null"));
    let weir = Weir::start("tunnels", &toml).await;
    weir.settled("web", 2, SETTLED).await;
    weir.settled("other", 1, SETTLED).await;
    let stop = Arc::new(AtomicBool::new(false));
    let echoes = Arc::new(AtomicU64::new(0));
    let socket = tokio::spawn(websocket(weir.http, stop.clone(), echoes.clone()));
    let bytes = tokio::spawn(download(weir.http, length, pace, stop.clone()));
    let base = std::fs::read_to_string(weir.folder.0.join("weir.toml")).unwrap();
    for turn in 0..turns {
        let replicas = if turn % 2 == 0 { 3 } else { 1 };
        match what {
            Turn::Reload => reload(&weir, &base, turn).await,
            Turn::Scaling => {
                let finished = weir.cli(&["scale", "other", &replicas.to_string()]).await;
                assert_eq!(finished.code, 0, "{finished:?}");
                weir.settled("other", replicas, SETTLED).await;
            }
        }
        let seen = echoes.load(Ordering::SeqCst);
        support::eventually("echoes go on", Duration::from_secs(10), || async {
            assert!(!socket.is_finished(), "the WebSocket ended\n{}", weir.log());
            (echoes.load(Ordering::SeqCst) >= seen + 4).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    let (echoes, longest_echo) = (echoes.load(Ordering::SeqCst), socket.await.unwrap());
    let longest_read = support::within("the download", Duration::from_secs(120), bytes).await.unwrap();
    println!(
        "{turns} times {what:?}: {echoes} echoes, longest wait {longest_echo:?}; {length} octets, longest wait {longest_read:?}"
    );
    assert!(echoes >= 4 * turns as u64 && longest_echo < GAP && longest_read < GAP);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_and_a_download_survive_the_scaling_of_another_service() {
    streams_survive(Turn::Scaling, 4, 32 << 20, 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_and_a_download_survive_reloads() {
    streams_survive(Turn::Reload, 4, 32 << 20, 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 reloads and 1 GiB; run by tests/run --long"]
async fn a_websocket_and_a_download_of_1_gib_survive_100_reloads() {
    streams_survive(Turn::Reload, 100, 1 << 30, 16 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 scalings and 1 GiB; run by tests/run --long"]
async fn a_websocket_and_a_download_of_1_gib_survive_100_scalings() {
    streams_survive(Turn::Scaling, 100, 1 << 30, 16 << 20).await;
}

#[tokio::test]
async fn data_that_a_client_sends_with_its_upgrade_arrives() {
    let toml = format!("[[route]]\nname = \"web\"\nservice = \"web\"\n\n{}", service("web", 1, "/dev/null"));
    let weir = Weir::start("upgrade", &toml).await;
    weir.settled("web", 1, SETTLED).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    // The handshake and a masked frame "hi" (mask 0) in one segment.
    let head = "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.stream.write_all(&[head.as_bytes(), &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']].concat()).await.unwrap();
    assert_eq!(raw.answer().await.status, 101);
    let mut echo = raw.input.clone();
    while echo.len() < 4 {
        let n = support::within("the echo", GAP * 10, raw.stream.read_buf(&mut echo)).await.unwrap();
        assert!(n > 0);
    }
    assert_eq!(echo, [0x81, 2, b'h', b'i']);
}
