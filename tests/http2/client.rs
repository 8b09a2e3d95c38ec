//! A well-behaved HTTP/2 client: the crate `h2`, one connection.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(20);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    pub(crate) body: BytesMut,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Connects; the connection is driven until it ends, which the handle tells with how.
pub(crate) async fn connect(
    address: SocketAddr,
) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::Builder::new().initial_window_size(1 << 20).handshake(stream).await.unwrap();
    (send, tokio::spawn(connection))
}

/// Sends a request with a whole body and trailers, and reads the whole answer.
pub(crate) async fn call(
    send: &mut SendRequest<Bytes>,
    request: Request<()>,
    body: Option<&[u8]>,
    trailers: Option<HeaderMap>,
) -> Result<Answer, h2::Error> {
    let exchange = async {
        *send = send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, body.is_none())?;
        if let Some(body) = body {
            upload(&mut stream, body, trailers).await?;
        }
        collect(answer.await?).await
    };
    super::support::within("an answer", LIMIT, exchange).await
}

/// Sends a body within flow control.
pub(crate) async fn upload(
    stream: &mut h2::SendStream<Bytes>,
    mut body: &[u8],
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(n) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return Ok(()) };
        let (now, rest) = body.split_at(n?.min(body.len()));
        stream.send_data(Bytes::copy_from_slice(now), false)?;
        body = rest;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    }
}

/// Reads an answer to its end.
pub(crate) async fn collect(answer: Response<h2::RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = answer.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { head: Response::from_parts(parts, ()), body, trailers })
}

/// A GET of a path.
pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.test{path}")).body(()).unwrap()
}

/// An HTTP/1.1 endpoint that sends each request's chunked body back as it comes, chunked.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
                        .await?;
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}
