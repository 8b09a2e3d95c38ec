//! WebSockets (RFC 6455) of clients over HTTP/1.1 and over HTTP/2 (RFC 8441), in front of an endpoint that echoes frames.

use crate::client::{call, connect, get};
use crate::support::proxy::Proxy;
use crate::support::{eventually, within};
use crate::tunnel::{Endpoint, MASK, Tunnel, frame, read_frame, upgrade};
use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Every form of a frame's length, and its limits (RFC 6455 §5.2).
pub(crate) const SIZES: [usize; 8] = [1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20];

pub(crate) fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn frames_of_every_size_are_echoed_over_http1() {
    let mut endpoint = Endpoint::start().await;
    let proxy = Proxy::over(&[endpoint.address]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(upgrade("/chat").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", LIMIT, stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    assert!(endpoint.heads.recv().await.unwrap().contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"));
    for size in SIZES {
        let sent = payload(size);
        stream.write_all(&frame(&sent, Some(MASK))).await.unwrap();
        let echoed = within("an echo", LIMIT, read_frame(&mut stream)).await.unwrap();
        assert!(echoed == sent, "{size} octets");
    }
    drop(stream);
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn frames_of_every_size_are_echoed_over_http2() {
    let mut endpoint = Endpoint::start().await;
    let proxy = Proxy::over(&[endpoint.address]);
    let (connection, _driver) = connect(proxy.address).await;
    let mut tunnel = Tunnel::open(&connection, "/chat").await;
    let head = endpoint.heads.recv().await.unwrap();
    assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: a.test\r\n"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    assert!(key.len() == 24 && key.ends_with("=="), "{key}");
    for size in SIZES {
        let sent = payload(size);
        within("room for a frame", LIMIT, tunnel.write(frame(&sent, Some(MASK)).into())).await.unwrap();
        let expected = frame(&sent, None);
        assert!(within("an echo", LIMIT, tunnel.read(expected.len())).await.unwrap() == expected, "{size} octets");
    }
    // Each side ends on its own: ours, then the endpoint's in order.
    tunnel.send.send_data(Bytes::new(), true).unwrap();
    assert!(within("the other end", LIMIT, tunnel.read(1)).await.unwrap().is_empty());
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn tunnels_and_requests_share_a_connection_and_a_reset_ends_its_tunnel_only() {
    let endpoint = Endpoint::start().await;
    let proxy = Proxy::over(&[endpoint.address]);
    let (mut connection, _driver) = connect(proxy.address).await;
    let mut first = Tunnel::open(&connection, "/chat").await;
    let mut second = Tunnel::open(&connection, "/chat").await;
    eventually("both tunnels", LIMIT, async || (proxy.in_flight() == 2).then_some(())).await;
    assert_eq!(call(&mut connection, get("/"), None, None).await.unwrap().text(), "fine");
    first.send.send_reset(h2::Reason::CANCEL);
    eventually("one tunnel", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    let sent = payload(1000);
    second.write(frame(&sent, Some(MASK)).into()).await.unwrap();
    let expected = frame(&sent, None);
    assert!(within("an echo", LIMIT, second.read(expected.len())).await.unwrap() == expected);
    assert_eq!(call(&mut connection, get("/"), None, None).await.unwrap().text(), "fine");
    assert_eq!(proxy.metric("weir_connections_total"), 1);
}
