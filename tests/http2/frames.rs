//! HTTP/2 by hand: exact frames to the proxy, and what comes back, from a client and from an endpoint.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const LIMIT: Duration = Duration::from_secs(20);

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// Writes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A field as a literal without indexing, its name new (RFC 7541 §6.2.2), whatever its octets.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut octets = vec![0];
    for text in [name, value] {
        octets.extend(integer(text.len()));
        octets.extend(text);
    }
    octets
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(mut n: usize) -> Vec<u8> {
    if n < 127 {
        return vec![n as u8];
    }
    let mut octets = vec![127];
    n -= 127;
    while n >= 128 {
        octets.push((n % 128 + 128) as u8);
        n /= 128;
    }
    octets.push(n as u8);
    octets
}

/// A head block of fields.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(name.as_bytes(), value.as_bytes())).collect()
}

/// The head of a GET, with more fields.
pub(crate) fn get(more: &[(&str, &str)]) -> Vec<u8> {
    let mut octets = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]);
    octets.extend(block(more));
    octets
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    /// Connects, with the preface and empty settings.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[]).await
    }

    /// Connects with settings.
    pub(crate) async fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::bare(address).await;
        peer.settings(settings).await;
        peer
    }

    /// Connects with a small buffer for what comes.
    pub(crate) async fn narrow(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        let mut peer = Self { stream: socket.connect(address).await.unwrap() };
        peer.send(PREFACE).await;
        peer.settings(settings).await;
        peer
    }

    /// Is connected to, as an endpoint with settings.
    pub(crate) async fn accept(listener: &TcpListener, settings: &[(u16, u32)]) -> Self {
        let mut peer = Self::accept_silently(listener).await;
        peer.settings(settings).await;
        peer
    }

    /// Is connected to, and says nothing yet.
    pub(crate) async fn accept_silently(listener: &TcpListener) -> Self {
        let (stream, _) = super::support::within("a connection", LIMIT, listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self { stream };
        let mut preface = [0; PREFACE.len()];
        super::support::within("a preface", LIMIT, peer.stream.read_exact(&mut preface)).await.unwrap();
        assert_eq!(&preface, PREFACE);
        peer
    }

    async fn settings(&mut self, settings: &[(u16, u32)]) {
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        self.send(&frame(SETTINGS, 0, 0, &payload)).await;
    }

    /// Answers a stream 200 without a body.
    pub(crate) async fn fine(&mut self, stream: u32) {
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])).await;
    }

    /// Connects with the preface alone.
    pub(crate) async fn bare(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Self { stream };
        peer.send(PREFACE).await;
        peer
    }

    /// Sends octets; whether the other side still takes them is seen by what comes back.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).await.is_ok()
    }

    /// Reads the next frame; `None`: the connection ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        super::support::within("a frame", LIMIT, async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        })
        .await
    }

    /// Reads until a frame of a kind; `None`: the connection ended before.
    pub(crate) async fn until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            if next.kind == kind {
                return Some(next);
            }
        }
    }

    /// Reads until the end; returns the code of the last GOAWAY.
    pub(crate) async fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(next) = self.next().await {
            if next.kind == GOAWAY {
                code = Some(error_code(&next.payload[4..]));
            }
        }
        code
    }

    /// Reads what becomes of a stream: the code of its reset, or the first octet of its answer's head.
    pub(crate) async fn fate(&mut self, stream: u32) -> Fate {
        while let Some(next) = self.next().await {
            match next.kind {
                RST_STREAM if next.stream == stream => return Fate::Reset(error_code(&next.payload)),
                HEADERS if next.stream == stream => return Fate::Answered(next.payload),
                GOAWAY => return Fate::Goaway(error_code(&next.payload[4..])),
                _ => {}
            }
        }
        Fate::Closed
    }
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Reset(u32),
    /// The block of its answer's head.
    Answered(Vec<u8>),
    Goaway(u32),
    Closed,
}

pub(crate) fn error_code(octets: &[u8]) -> u32 {
    u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]])
}
