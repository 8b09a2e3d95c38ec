//! WebSocket echo, RFC 6455: the handshake and a loop that sends each frame back unmasked.

use crate::cli::whoami::answer::plain;
use crate::cli::whoami::body::Reply;
use crate::http1::digest::websocket_accept;
use crate::lifecycle::{Phase, Signal};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// Largest frame that is echoed; more is answered with close code 1009.
const MAX_FRAME_BYTES: u64 = 16 << 20;
/// Wait for the peer's close frame after ours.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

const OPCODE_CLOSE: u8 = 0x8;
const OPCODE_PING: u8 = 0x9;
const OPCODE_PONG: u8 = 0xA;
const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_PROTOCOL_ERROR: u16 = 1002;
const CLOSE_TOO_BIG: u16 = 1009;

/// A frame as received, unmasked.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// FIN, the reserved bits and the opcode as sent.
    first: u8,
    payload: Vec<u8>,
}

/// Why the loop ends with a close frame of its own.
#[derive(Debug)]
enum Ending {
    Close(u16),
    Io(io::Error),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Answers the handshake and echoes in a task of its own until either side closes or the drain begins.
pub(super) fn upgrade(mut request: Request<Incoming>, drain: Signal) -> Response<Reply> {
    let accept = match accept_value(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(refusal) => return *refusal,
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let guard = drain.guard();
    tokio::spawn(async move {
        let _guard = guard;
        // A client that leaves in the middle is its own business.
        if let Ok(upgraded) = upgraded.await {
            let _ = echo(TokioIo::new(upgraded), drain).await;
        }
    });
    let mut response = Response::new(Reply::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Checks the handshake (RFC 6455 §4.2.1) and returns the proof of it, or the refusal.
fn accept_value(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, Box<Response<Reply>>> {
    let has = |name: HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if method != Method::GET || !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "/ws needs a WebSocket handshake\n");
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(response));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        let mut response = plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Version must be 13\n");
        response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return Err(Box::new(response));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err(Box::new(plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing\n")));
    };
    let proof = websocket_accept(key.as_bytes());
    HeaderValue::try_from(proof).map_err(|_| Box::new(plain(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is broken\n")))
}

/// Echoes frames until a close frame, the end of the stream, a broken frame or the drain.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S, mut drain: Signal) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let received = tokio::select! {
            received = read_frame(&mut stream) => received,
            () = drain.reached(Phase::Draining) => Err(Ending::Close(CLOSE_GOING_AWAY)),
        };
        match received {
            Ok(frame) => {
                let opcode = frame.first & 0x0F;
                match opcode {
                    OPCODE_PONG => {}
                    OPCODE_PING => write_frame(&mut stream, 0x80 | OPCODE_PONG, &frame.payload).await?,
                    _ => write_frame(&mut stream, frame.first, &frame.payload).await?,
                }
                if opcode == OPCODE_CLOSE {
                    return stream.shutdown().await;
                }
            }
            Err(Ending::Io(error)) => return Err(error),
            Err(Ending::Close(code)) => {
                write_frame(&mut stream, 0x80 | OPCODE_CLOSE, &code.to_be_bytes()).await?;
                // What the peer still sends, its close frame last, is read so that our close frame is not lost to a reset.
                let mut rest = tokio::io::sink();
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, tokio::io::copy(&mut stream, &mut rest)).await;
                return stream.shutdown().await;
            }
        }
    }
}

/// Reads one frame (RFC 6455 §5.2) and takes the mask off. Not cancel-safe: after a cancel the stream is only closed.
async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Frame, Ending> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await?;
    let [first, second] = head;
    let is_control = first & 0x08 != 0;
    if first & 0x70 != 0 || second & 0x80 == 0 || (is_control && (first & 0x80 == 0 || second & 0x7F > 125)) {
        return Err(Ending::Close(CLOSE_PROTOCOL_ERROR));
    }
    let length = match second & 0x7F {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    if length > MAX_FRAME_BYTES {
        return Err(Ending::Close(CLOSE_TOO_BIG));
    }
    let mut mask = [0; 4];
    stream.read_exact(&mut mask).await?;
    let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
    stream.read_exact(&mut payload).await?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok(Frame { first, payload })
}

/// Writes one unmasked frame in one write.
async fn write_frame<S: AsyncWrite + Unpin>(stream: &mut S, first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::{accept_value, echo};
    use crate::lifecycle::{Phase, drain};
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn handshake() -> HeaderMap {
        [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
    }

    #[test]
    fn rfc6455_section_1_3_sample_handshake() {
        assert_eq!(accept_value(&Method::GET, &handshake()).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn refuses_a_broken_handshake_with_what_is_missing() {
        for (field, status) in
            [("upgrade", 426), ("connection", 426), ("sec-websocket-version", 400), ("sec-websocket-key", 400)]
        {
            let mut headers = handshake();
            headers.remove(field);
            assert_eq!(accept_value(&Method::GET, &headers).unwrap_err().status(), status, "{field}");
        }
        assert_eq!(accept_value(&Method::POST, &handshake()).unwrap_err().status(), 426);
    }

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![first];
        if payload.len() < 126 {
            frame.push(0x80 | payload.len() as u8);
        } else {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[tokio::test]
    async fn echoes_text_fragments_pings_and_the_close() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (_trigger, signal) = drain();
        let served = tokio::spawn(echo(server, signal));
        for (sent, first, expected) in [
            (masked(0x81, b"hello"), 0x81, &b"hello"[..]),
            (masked(0x01, b"frag"), 0x01, b"frag"),
            (masked(0x80, b"ment"), 0x80, b"ment"),
            (masked(0x89, b"p"), 0x8A, b"p"),
            (masked(0x88, &[3, 232]), 0x88, &[3, 232]),
        ] {
            client.write_all(&sent).await.unwrap();
            let mut head = [0; 2];
            client.read_exact(&mut head).await.unwrap();
            assert_eq!(head, [first, expected.len() as u8]);
            let mut payload = vec![0; expected.len()];
            client.read_exact(&mut payload).await.unwrap();
            assert_eq!(payload, expected);
        }
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn echoes_a_large_frame_with_a_long_length() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (_trigger, signal) = drain();
        tokio::spawn(echo(server, signal));
        for size in [125_usize, 126, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
            client.write_all(&masked(0x82, &payload)).await.unwrap();
            let mut head = [0; 2];
            client.read_exact(&mut head).await.unwrap();
            let length = match head[1] {
                126 => client.read_u16().await.unwrap() as usize,
                127 => client.read_u64().await.unwrap() as usize,
                short => usize::from(short),
            };
            assert_eq!(length, size);
            let mut back = vec![0; size];
            client.read_exact(&mut back).await.unwrap();
            assert_eq!(back, payload);
        }
    }

    #[tokio::test]
    async fn closes_with_a_code_on_a_broken_frame_and_on_drain() {
        let unmasked = vec![0x81, 1, b'x'];
        let reserved = masked(0xC1, b"x");
        let long_ping = masked(0x89, &[0; 200]);
        let huge = [&[0x82, 0xFF][..], &(1u64 << 40).to_be_bytes()].concat();
        for (sent, code) in [(unmasked, 1002), (reserved, 1002), (long_ping, 1002), (huge, 1009), (vec![], 1001)] {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let (trigger, signal) = drain();
            let served = tokio::spawn(echo(server, signal));
            client.write_all(&sent).await.unwrap();
            if sent.is_empty() {
                trigger.raise(Phase::Draining);
            }
            let mut close = [0; 4];
            client.read_exact(&mut close).await.unwrap();
            assert_eq!(close[..2], [0x88, 2]);
            assert_eq!(u16::from_be_bytes([close[2], close[3]]), code);
            drop(client);
            let _ = served.await.unwrap();
        }
    }
}
