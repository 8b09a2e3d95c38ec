//! WebSockets (RFC 6455) of clients over HTTP/1.1 and over HTTP/2 (RFC 8441), in front of an endpoint that echoes frames.

use crate::client::connect;
use crate::support::proxy::Proxy;
use crate::support::{eventually, within};
use bytes::{Buf, Bytes, BytesMut};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
/// Every form of a frame's length, and its limits (RFC 6455 §5.2).
const SIZES: [usize; 8] = [1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20];
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Writes a whole binary frame.
fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![0x82];
    match payload.len() {
        n @ 0..126 => out.push(masked | n as u8),
        n @ 126..65_536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(masked | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| out.extend_from_slice(mask)).unwrap_or_default();
    out.extend(payload.iter().enumerate().map(|(i, octet)| octet ^ mask[i % 4]));
    out
}

/// Reads a frame and takes its mask off; `None`: the stream has ended.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut start = [0; 2];
    from.read_exact(&mut start).await.ok()?;
    assert_eq!(start[0], 0x82, "a whole binary frame");
    let length = match start[1] & 0x7f {
        126 => usize::from(from.read_u16().await.ok()?),
        127 => usize::try_from(from.read_u64().await.ok()?).ok()?,
        n => usize::from(n),
    };
    let mut mask = [0; 4];
    if start[1] & 0x80 != 0 {
        from.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await.ok()?;
    payload.iter_mut().enumerate().for_each(|(i, octet)| *octet ^= mask[i % 4]);
    Some(payload)
}

/// An endpoint that switches and sends every frame back; it tells the heads that it saw.
struct Endpoint {
    address: SocketAddr,
    heads: tokio::sync::mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, heads) = tokio::sync::mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    // The test may be over.
                    let _ = seen.send(String::from_utf8_lossy(&head).into_owned());
                    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
                    stream.write_all(switch.as_bytes()).await?;
                    while let Some(payload) = read_frame(&mut stream).await {
                        stream.write_all(&frame(&payload, None)).await?;
                    }
                    stream.shutdown().await
                });
            }
        });
        Self { address, heads, task }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The octets of one stream of an HTTP/2 connection.
struct Tunnel {
    send: SendStream<Bytes>,
    body: RecvStream,
    come: BytesMut,
}

impl Tunnel {
    /// Asks for a WebSocket by extended CONNECT.
    async fn open(address: SocketAddr) -> Self {
        let (mut send, _driver) = connect(address).await;
        let told = async || send.is_extended_connect_protocol_enabled().then_some(());
        eventually("the setting that allows it", LIMIT, told).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("http://a.test/chat")
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"))
            .body(())
            .unwrap();
        send = send.ready().await.unwrap();
        let (answer, send) = send.send_request(request, false).unwrap();
        let answer = within("an answer", LIMIT, answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        Self { send, body: answer.into_body(), come: BytesMut::new() }
    }

    async fn write(&mut self, mut octets: Bytes) {
        while octets.has_remaining() {
            self.send.reserve_capacity(octets.len());
            let room = poll_fn(|cx| self.send.poll_capacity(cx)).await.unwrap().unwrap();
            self.send.send_data(octets.split_to(room.min(octets.len())), false).unwrap();
        }
    }

    /// Reads so many octets, or less at the end.
    async fn read(&mut self, length: usize) -> BytesMut {
        while self.come.len() < length {
            let Some(data) = self.body.data().await else { break };
            let data = data.unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.come.extend_from_slice(&data);
        }
        self.come.split_to(length.min(self.come.len()))
    }
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

#[tokio::test]
async fn frames_of_every_size_are_echoed_over_http1() {
    let mut endpoint = Endpoint::start().await;
    let proxy = Proxy::over(&[endpoint.address]);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let upgrade = "GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.unwrap();
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
    let mut tunnel = Tunnel::open(proxy.address).await;
    let head = endpoint.heads.recv().await.unwrap();
    assert!(head.starts_with("GET /chat HTTP/1.1\r\nHost: a.test\r\n"), "{head}");
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
    assert!(key.len() == 24 && key.ends_with("=="), "{key}");
    for size in SIZES {
        let sent = payload(size);
        within("room for a frame", LIMIT, tunnel.write(frame(&sent, Some(MASK)).into())).await;
        let expected = frame(&sent, None);
        assert!(within("an echo", LIMIT, tunnel.read(expected.len())).await == expected, "{size} octets");
    }
    // Each side ends on its own: ours, then the endpoint's in order.
    tunnel.send.send_data(Bytes::new(), true).unwrap();
    assert!(within("the other end", LIMIT, tunnel.read(1)).await.is_empty());
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_tunnel_and_requests_share_a_connection_and_a_reset_ends_the_tunnel_only() {
    let endpoint = Endpoint::start().await;
    let proxy = Proxy::over(&[endpoint.address]);
    let mut first = Tunnel::open(proxy.address).await;
    let mut second = Tunnel::open(proxy.address).await;
    eventually("both tunnels", LIMIT, async || (proxy.in_flight() == 2).then_some(())).await;
    first.send.send_reset(h2::Reason::CANCEL);
    eventually("one tunnel", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    let sent = payload(1000);
    second.write(frame(&sent, Some(MASK)).into()).await;
    let expected = frame(&sent, None);
    assert!(within("an echo", LIMIT, second.read(expected.len())).await == expected);
}
