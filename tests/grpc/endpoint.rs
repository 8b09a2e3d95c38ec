//! A gRPC endpoint and client made of HTTP/2 frames by the crate `h2`: messages are length-prefixed octets, the status is in
//! the trailers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// What the endpoint counts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// Calls that the client gave up.
    pub(crate) cancelled: AtomicUsize,
}

/// A gRPC endpoint; its methods:
/// - `/echo` sends each message back as it comes,
/// - `/last` answers the last message when the client has ended,
/// - `/count` answers a message of n octets with n messages,
/// - `/fail` answers a status without a message,
/// - `/never` takes everything and never answers,
/// - `/refuse` refuses the stream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    leaving: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Endpoint {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let leaving = Arc::new(Notify::new());
        let (shared, leave) = (seen.clone(), leaving.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, shared.clone(), leave.clone()));
            }
        });
        Self { address, seen, leaving, task }
    }

    /// Says GOAWAY on every connection: what runs ends, nothing new is taken on them.
    pub(crate) fn leave(&self) {
        self.leaving.notify_waiters();
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>, leaving: Arc<Notify>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut calls = JoinSet::new();
    loop {
        let next = tokio::select! {
            next = connection.accept() => next,
            () = leaving.notified() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, mut respond))) = next else { return };
        if request.uri().path() == "/refuse" {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            continue;
        }
        seen.calls.fetch_add(1, Ordering::Relaxed);
        let seen = seen.clone();
        calls.spawn(async move {
            let (parts, body) = request.into_parts();
            assert_eq!(parts.headers["te"], "trailers");
            if answer(parts.uri.path(), body, &mut respond).await.is_err() {
                seen.cancelled.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

async fn answer(path: &str, body: RecvStream, respond: &mut h2::server::SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut messages = Messages::new(body);
    let head = Response::builder().header("content-type", "application/grpc");
    if path == "/fail" {
        let head = head.header("grpc-status", "9").header("grpc-message", "not now").body(()).unwrap();
        return respond.send_response(head, true).map(|_| ());
    }
    if path == "/never" {
        while messages.next().await?.is_some() {}
        return std::future::poll_fn(|cx| respond.poll_reset(cx)).await.and(Err(h2::Reason::CANCEL.into()));
    }
    let mut stream = respond.send_response(head.body(()).unwrap(), false)?;
    let mut last = Bytes::new();
    while let Some(message) = messages.next().await? {
        match path {
            "/count" => {
                for _ in 0..message.len() {
                    send(&mut stream, &message).await?;
                }
            }
            "/echo" => send(&mut stream, &message).await?,
            _ => last = message,
        }
    }
    if path == "/last" {
        send(&mut stream, &last).await?;
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    stream.send_trailers(trailers)
}

/// Sends a message within flow control.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, message: &[u8]) -> Result<(), h2::Error> {
    let mut octets = BytesMut::with_capacity(5 + message.len());
    octets.put_u8(0);
    octets.put_u32(message.len() as u32);
    octets.extend_from_slice(message);
    while !octets.is_empty() {
        stream.reserve_capacity(octets.len());
        let Some(n) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Err(h2::Reason::CANCEL.into());
        };
        stream.send_data(octets.split_to(n?.min(octets.len())).freeze(), false)?;
    }
    Ok(())
}

/// Reads messages from a stream.
pub(crate) struct Messages {
    body: RecvStream,
    have: BytesMut,
}

impl Messages {
    pub(crate) fn new(body: RecvStream) -> Self {
        Self { body, have: BytesMut::new() }
    }

    /// Returns the next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if let Some(&[_, a, b, c, d]) = self.have.get(..5).and_then(|head| head.first_chunk()) {
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.have.len() >= 5 + len {
                    self.have.advance(5);
                    return Ok(Some(self.have.split_to(len).freeze()));
                }
            }
            match self.body.data().await {
                Some(data) => {
                    let data = data?;
                    self.body.flow_control().release_capacity(data.len())?;
                    self.have.extend_from_slice(&data);
                }
                None => return Ok(None),
            }
        }
    }

    /// Returns the status from the trailers.
    pub(crate) async fn status(&mut self) -> Result<Option<String>, h2::Error> {
        Ok(self.trailers().await?.0)
    }

    /// Returns the status and the reason from the trailers.
    async fn trailers(&mut self) -> Result<(Option<String>, Option<String>), h2::Error> {
        let trailers = self.body.trailers().await?.unwrap_or_default();
        let field = |name: &str| Some(trailers.get(name)?.to_str().unwrap().to_owned());
        Ok((field("grpc-status"), field("weir-reason")))
    }
}

/// How a whole call ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) status: String,
    pub(crate) messages: Vec<Bytes>,
    /// `weir-reason`, where Weir answered.
    pub(crate) reason: String,
}

/// A client's connection to the proxy.
#[derive(Clone)]
pub(crate) struct Client {
    send: SendRequest<Bytes>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send }
    }

    /// Begins a call.
    pub(crate) async fn begin(
        &self,
        path: &str,
        timeout: Option<&str>,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut request = Request::post(format!("http://a.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        self.send.clone().ready().await?.send_request(request.body(()).unwrap(), false)
    }

    /// Makes a whole call: all messages up, then everything down.
    pub(crate) async fn call(&self, path: &str, timeout: Option<&str>, up: &[&[u8]]) -> Result<Ended, h2::Error> {
        let whole = async {
            let (answer, mut stream) = self.begin(path, timeout).await?;
            for message in up {
                send(&mut stream, message).await?;
            }
            // The answer may be there before the end of the request.
            let _ = stream.send_data(Bytes::new(), true);
            finish(answer.await?).await
        };
        super::support::within("a call", Duration::from_secs(30), whole).await
    }
}

/// Reads an answer to its end.
pub(crate) async fn finish(answer: Response<RecvStream>) -> Result<Ended, h2::Error> {
    let (parts, body) = answer.into_parts();
    assert_eq!(parts.status, 200);
    let field = |name: &str| parts.headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    let mut ended = Ended { reason: field("weir-reason").unwrap_or_default(), ..Ended::default() };
    let mut messages = Messages::new(body);
    while let Some(message) = messages.next().await? {
        ended.messages.push(message);
    }
    if let Some(status) = field("grpc-status") {
        ended.status = status;
        return Ok(ended);
    }
    let (status, reason) = messages.trailers().await?;
    ended.status = status.unwrap_or_default();
    ended.reason = reason.unwrap_or(ended.reason);
    Ok(ended)
}
