//! Frames of WebSockets (RFC 6455), and one stream of an HTTP/2 connection that carries them (RFC 8441).

use crate::support::{eventually, within};
use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
/// The first octet of a frame that ends a WebSocket.
const CLOSE: u8 = 0x88;

/// Asks for a WebSocket over HTTP/1.1.
pub(crate) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Writes a whole binary frame.
pub(crate) fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
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

/// Reads a whole binary frame and takes its mask off; `None`: the stream has ended.
pub(crate) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let (first, payload) = read_any_frame(from).await?;
    assert_eq!(first, 0x82, "a whole binary frame");
    Some(payload)
}

/// Reads a frame: its first octet and its payload.
async fn read_any_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut start = [0; 2];
    from.read_exact(&mut start).await.ok()?;
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
    Some((start[0], payload))
}

/// An endpoint that switches and sends every frame back, also the last one; it tells the heads that it saw. Who asks for no tunnel gets `fine`.
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) heads: tokio::sync::mpsc::UnboundedReceiver<String>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
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
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let plain = !head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n");
                    // The test may be over.
                    let _ = seen.send(head);
                    if plain {
                        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfine").await?;
                        return stream.shutdown().await;
                    }
                    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
                    stream.write_all(switch.as_bytes()).await?;
                    while let Some((first, payload)) = read_any_frame(&mut stream).await {
                        let mut echo = frame(&payload, None);
                        echo[0] = first;
                        stream.write_all(&echo).await?;
                        if first == CLOSE {
                            break;
                        }
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
pub(crate) struct Tunnel {
    pub(crate) send: SendStream<Bytes>,
    body: RecvStream,
    come: BytesMut,
}

impl Tunnel {
    /// Asks for a WebSocket by extended CONNECT, on a connection that may have others.
    pub(crate) async fn open(connection: &SendRequest<Bytes>, path: &str) -> Self {
        let told = async || connection.is_extended_connect_protocol_enabled().then_some(());
        eventually("the setting that allows it", LIMIT, told).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://a.test{path}"))
            .header("sec-websocket-version", "13")
            .extension(Protocol::from_static("websocket"))
            .body(())
            .unwrap();
        let mut ready = connection.clone().ready().await.unwrap();
        let (answer, send) = ready.send_request(request, false).unwrap();
        let answer = within("an answer", LIMIT, answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!answer.headers().contains_key(name), "{name}");
        }
        Self { send, body: answer.into_body(), come: BytesMut::new() }
    }

    /// Writes octets within flow control.
    ///
    /// # Errors
    /// When the stream or its connection has ended.
    pub(crate) async fn write(&mut self, mut octets: Bytes) -> Result<(), h2::Error> {
        while octets.has_remaining() {
            self.send.reserve_capacity(octets.len());
            let Some(room) = poll_fn(|cx| self.send.poll_capacity(cx)).await else {
                return Err(h2::Reason::STREAM_CLOSED.into());
            };
            let now = octets.split_to(room?.min(octets.len()));
            self.send.send_data(now, false)?;
        }
        Ok(())
    }

    /// Reads so many octets, or less at the end.
    ///
    /// # Errors
    /// When the stream is reset or its connection fails.
    pub(crate) async fn read(&mut self, length: usize) -> Result<BytesMut, h2::Error> {
        while self.come.len() < length {
            let Some(data) = self.body.data().await else { break };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            self.come.extend_from_slice(&data);
        }
        Ok(self.come.split_to(length.min(self.come.len())))
    }
}
