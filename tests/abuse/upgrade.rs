//! Upgrades: a tunnel starts with the endpoint's 101 and not before (RFC 9110 §7.8, RFC 6455 §4.1; CVE-2026-2833).

use crate::support::backend::{Backend, Script, Step, answering, send};
use crate::support::eventually;
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const LIMIT: Duration = Duration::from_secs(10);
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

/// Switches, says hello, and answers five octets with five.
fn switching() -> Script {
    vec![Step::ReadHead, send(&format!("{SWITCH}hello")), Step::ReadBody(5), send("world"), Step::Hold]
}

async fn read(raw: &mut Raw, length: usize) -> String {
    use tokio::io::AsyncReadExt;
    while raw.input.len() < length {
        let n = crate::support::within("octets", LIMIT, raw.stream.read_buf(&mut raw.input)).await.unwrap();
        assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&raw.input));
    }
    let rest = raw.input.split_off(length);
    String::from_utf8(std::mem::replace(&mut raw.input, rest)).unwrap()
}

#[tokio::test]
async fn after_the_101_octets_pass_both_ways_rfc6455_4_1() {
    let backend = Backend::start(switching()).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let answer = raw.exchange(UPGRADE).await;
    assert_eq!(
        (answer.status, answer.field("upgrade"), answer.field("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    assert!(answer.field("connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(read(&mut raw, 5).await, "hello");
    raw.send("12345").await;
    assert_eq!(read(&mut raw, 5).await, "world");
    let received = backend.received_text();
    assert!(received.contains("\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"), "{received}");
    assert!(received.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{received}");
    // The guard is held to the end of the tunnel, so that a drain waits for it.
    assert_eq!(proxy.in_flight(), 1);
    drop(raw);
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn no_octet_is_tunnelled_before_the_101() {
    let script = vec![
        Step::ReadHead,
        Step::Wait(Duration::from_millis(200)),
        send(SWITCH),
        Step::ReadBody(5),
        send("world"),
        Step::Hold,
    ];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(format!("{UPGRADE}early")).await;
    eventually("the request", LIMIT, async || backend.received_text().ends_with("\r\n\r\n").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!backend.received_text().contains("early"));
    assert_eq!(raw.answer().await.status, 101);
    assert_eq!(read(&mut raw, 5).await, "world");
}

#[tokio::test]
async fn after_another_answer_the_rest_is_http() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send(format!("{UPGRADE}GET /second HTTP/1.1\r\nHost: a\r\n\r\n\x01\x02evil")).await;
    assert_eq!(raw.answer().await.text(), "fine");
    assert_eq!(raw.answer().await.text(), "fine");
    let refused = raw.answer().await;
    assert_eq!((refused.status, refused.field("weir-reason")), (400, Some("start_line")));
    let received = backend.received_text();
    assert!(
        received.contains("GET /second HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: ") && !received.contains("evil"),
        "{received}"
    );
}

#[tokio::test]
async fn only_a_websocket_is_asked_for_rfc9110_7_8() {
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
    ];
    for request in requests {
        let backend = Backend::start(answering("fine")).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(request).await.status, 200, "{request}");
        let received = backend.received_text().to_ascii_lowercase();
        assert!(!received.contains("upgrade") && !received.contains("http2"), "{request} → {received}");
    }
}

#[tokio::test]
async fn a_tunnel_is_closed_in_each_direction_on_its_own() {
    let script = vec![Step::ReadHead, send(SWITCH), Step::ReadBody(4), Step::Shutdown, Step::Hold];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange(UPGRADE).await;
    raw.send("ping").await;
    assert!(raw.rest().await.is_empty(), "the endpoint has ended its direction");
    raw.send("more").await;
    eventually("octets the other way", LIMIT, async || backend.received_text().ends_with("pingmore").then_some(()))
        .await;
    raw.stream.shutdown().await.unwrap();
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn an_idle_tunnel_ends() {
    let backend = Backend::start(switching()).await;
    let proxy =
        Setup::new(&[backend.address]).with(|s| s.spec.timeouts.tunnel_idle = Duration::from_millis(200)).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange(UPGRADE).await;
    assert_eq!(raw.rest().await, b"hello");
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn bulk_passes_a_tunnel_whole() {
    let size = 4 << 20;
    let up: Vec<u8> = (0..size).map(|i: usize| (i % 251) as u8).collect();
    let down: Vec<u8> = (0..size).map(|i: usize| (i % 241) as u8).collect();
    let script = vec![Step::ReadHead, send(SWITCH), Step::ReadBody(size), Step::Send(down.clone()), Step::Close];
    let backend = Backend::start(script).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange(UPGRADE).await;
    raw.send(&up).await;
    assert!(raw.rest().await == down);
    assert!(backend.received(0).ends_with(&up));
}
