//! WebSockets to HTTP/2 endpoints, by extended CONNECT (RFC 8441): the endpoint sends octets back.

use crate::client::connect;
use crate::frames::{HEADERS, Peer, SETTINGS, frame as h2_frame};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use crate::tunnel::{MASK, Tunnel, frame, read_frame};
use crate::websocket::{LIMIT, SIZES, payload};
use bytes::Bytes;
use h2::ext::Protocol;
use http::{Method, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use weir::model::EndpointProtocol;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

struct Endpoint {
    address: SocketAddr,
    /// Tunnels that a peer ended, in order or not.
    ended: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Allows extended CONNECT; sends octets back at `/chat`, and refuses all else with 403 and a text.
async fn endpoint() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let seen = ended.clone();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            connections.spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.enable_connect_protocol().initial_window_size(1 << 20);
                let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
                let mut tunnels = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    let seen = seen.clone();
                    tunnels.spawn(async move {
                        let _ = echo(request, respond).await;
                        seen.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    Endpoint { address, ended, task }
}

async fn echo(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    assert_eq!((&parts.method, parts.uri.scheme_str()), (&Method::CONNECT, Some("http")));
    assert_eq!(parts.extensions.get::<Protocol>().map(Protocol::as_str), Some("websocket"));
    assert_eq!(parts.headers["sec-websocket-version"], "13");
    for name in ["connection", "upgrade", "sec-websocket-key", "host"] {
        assert!(!parts.headers.contains_key(name), "{name}");
    }
    if parts.uri.path() != "/chat" {
        let head = Response::builder().status(403).body(()).unwrap();
        return respond.send_response(head, false)?.send_data(Bytes::from_static(b"not you"), true);
    }
    let mut head = Response::new(());
    if let Some(protocol) = parts.headers.get("sec-websocket-protocol") {
        head.headers_mut().insert("sec-websocket-protocol", protocol.clone());
    }
    let mut send = respond.send_response(head, false)?;
    while let Some(data) = body.data().await {
        let mut data = data?;
        body.flow_control().release_capacity(data.len())?;
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let Some(room) = poll_fn(|cx| send.poll_capacity(cx)).await else { return Ok(()) };
            send.send_data(data.split_to(room?.min(data.len())), false)?;
        }
    }
    send.send_data(Bytes::new(), true)
}

fn before(address: SocketAddr) -> Proxy {
    Setup::new(&[address]).with(|s| s.spec.protocol = EndpointProtocol::Http2).start()
}

#[tokio::test]
async fn frames_of_every_size_go_from_http1_to_an_http2_endpoint_and_back() {
    let endpoint = endpoint().await;
    let proxy = before(endpoint.address);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", LIMIT, stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    // RFC 6455 §1.3: what belongs to this key.
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n",
        "sec-websocket-protocol: chat\r\n",
    ] {
        assert!(head.contains(line), "{line}{head}");
    }
    for size in SIZES {
        let sent = payload(size);
        let (mut from, mut to) = stream.split();
        let octets = frame(&sent, Some(MASK));
        let (_, echoed) = tokio::join!(to.write_all(&octets), within("an echo", LIMIT, read_frame(&mut from)));
        assert!(echoed.unwrap() == sent, "{size} octets");
    }
    // Each side ends on its own.
    stream.shutdown().await.unwrap();
    assert_eq!(within("the other end", LIMIT, stream.read(&mut [0; 1])).await.unwrap(), 0);
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!((endpoint.ended.load(Ordering::Relaxed), proxy.metric("weir_panics_total")), (1, 0));
}

#[tokio::test]
async fn a_tunnel_is_http2_on_both_sides_and_its_reset_reaches_the_endpoint() {
    let endpoint = endpoint().await;
    let proxy = before(endpoint.address);
    let (connection, _driver) = connect(proxy.address).await;
    let mut tunnel = Tunnel::open(&connection, "/chat").await;
    let mut other = Tunnel::open(&connection, "/chat").await;
    let sent = frame(&payload(200_000), Some(MASK));
    within("room", LIMIT, tunnel.write(sent.clone().into())).await.unwrap();
    assert!(within("an echo", LIMIT, tunnel.read(sent.len())).await.unwrap() == sent);
    tunnel.send.send_reset(h2::Reason::CANCEL);
    eventually("its end", LIMIT, async || (endpoint.ended.load(Ordering::Relaxed) == 1).then_some(())).await;
    eventually("one tunnel", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    within("room", LIMIT, other.write(sent.clone().into())).await.unwrap();
    assert!(within("an echo", LIMIT, other.read(sent.len())).await.unwrap() == sent);
}

#[tokio::test]
async fn an_endpoint_s_refusal_of_a_tunnel_is_an_answer_like_any_other() {
    let endpoint = endpoint().await;
    let proxy = before(endpoint.address);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..2 {
        let answer = raw.exchange(UPGRADE.replace("/chat", "/other")).await;
        assert_eq!((answer.status, answer.text().as_str()), (403, "not you"), "{}", answer.head);
    }
}

#[tokio::test]
async fn an_endpoint_that_allows_no_tunnel_is_not_asked_for_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = before(listener.local_addr().unwrap());
    let asked = tokio::spawn({
        let address = proxy.address;
        async move { Raw::connect(address).await.unwrap().exchange(UPGRADE).await }
    });
    // Its settings say nothing of tunnels.
    let mut peer = Peer::accept(&listener, &[]).await;
    let answer = within("an answer", LIMIT, asked).await.unwrap();
    assert_eq!((answer.status, answer.field("weir-reason")), (501, Some("no_websocket")), "{}", answer.head);
    // The next request is the first that it hears of.
    let asked = tokio::spawn({
        let address = proxy.address;
        async move { Raw::connect(address).await.unwrap().exchange("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await }
    });
    let head = peer.until(HEADERS).await.expect("a request");
    assert_eq!(head.stream, 1);
    peer.fine(head.stream).await;
    assert_eq!(within("an answer", LIMIT, asked).await.unwrap().status, 200);
}

#[tokio::test]
async fn settings_that_come_late_and_in_pieces_are_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = before(listener.local_addr().unwrap());
    let asked = tokio::spawn({
        let address = proxy.address;
        async move { Raw::connect(address).await.unwrap().exchange(UPGRADE).await }
    });
    let mut peer = Peer::accept_silently(&listener).await;
    // SETTINGS_ENABLE_CONNECT_PROTOCOL = 1.
    let settings = h2_frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1]);
    for piece in settings.chunks(2) {
        peer.send(piece).await;
        // So that each piece is read on its own.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let head = peer.until(HEADERS).await.expect("a request");
    peer.fine(head.stream).await;
    let answer = within("an answer", LIMIT, asked).await.unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
}
