//! A gRPC server and client of tonic's make, without generated code: messages are octets.

use bytes::{Buf, BufMut, Bytes};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::{self, Stream, StreamExt};
use tonic::codegen::{BoxFuture, BoxStream, Service};
use tonic::server::{ClientStreamingService, NamedService, ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status, Streaming, client};

/// Messages as they are.
#[derive(Debug, Default, Clone, Copy)]
struct Octets;

impl Codec for Octets {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Octets {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Octets {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let n = from.remaining();
        Ok(Some(from.copy_to_bytes(n)))
    }
}

/// What a server counts.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) calls: AtomicUsize,
    /// Calls that hung and were given up.
    pub(crate) cancelled: AtomicUsize,
    /// The schemes of calls, each once.
    schemes: Mutex<BTreeSet<String>>,
}

/// A server that lives until it is dropped; its methods, below `/t.Peer/`:
/// - `Unary` sends the message back, `Fails` a status with a text,
/// - `Collects` joins the messages of the client,
/// - `Counts` sends as many messages as the number in the message,
/// - `Answers` answers each message,
/// - `Hangs` never answers; `Stalls` sends one message and then nothing.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Peer {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts it, with TLS or in clear text.
    pub(crate) async fn start_with(tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).unwrap();
        }
        let router = server.add_service(Methods(seen.clone())).add_service(Health);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let task = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self { address, seen, task }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn schemes(&self) -> Vec<String> {
        self.seen.schemes.lock().unwrap().iter().cloned().collect()
    }

    pub(crate) fn cancelled(&self) -> usize {
        self.seen.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Methods(Arc<Seen>);

impl NamedService for Methods {
    const NAME: &'static str = "t.Peer";
}

impl Service<http::Request<Body>> for Methods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method =
            Method { name: request.uri().path().trim_start_matches("/t.Peer/").to_owned(), seen: self.0.clone() };
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        self.0.schemes.lock().unwrap().extend(request.uri().scheme_str().map(str::to_owned));
        let mut grpc = tonic::server::Grpc::new(Octets);
        Box::pin(async move {
            Ok(match method.name.as_str() {
                "Unary" | "Fails" | "Hangs" => grpc.unary(method, request).await,
                "Collects" => grpc.client_streaming(method, request).await,
                "Counts" | "Stalls" => grpc.server_streaming(method, request).await,
                "Answers" => grpc.streaming(method, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Says that the server serves, to whoever asks over HTTP/2 as it is really carried.
#[derive(Clone)]
struct Health;

impl NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl Service<http::Request<Body>> for Health {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut grpc = tonic::server::Grpc::new(Octets);
        Box::pin(async move { Ok(grpc.unary(Self, request).await) })
    }
}

impl UnaryService<Bytes> for Health {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        // HealthCheckResponse { status = SERVING }.
        Box::pin(async { Ok(Response::new(Bytes::from_static(&[8, 1]))) })
    }
}

struct Method {
    name: String,
    seen: Arc<Seen>,
}

/// Counts a call that is dropped while it hangs.
struct Hanging(Arc<Seen>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

impl UnaryService<Bytes> for Method {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let (name, seen) = (self.name.clone(), self.seen.clone());
        Box::pin(async move {
            match name.as_str() {
                "Fails" => Err(Status::not_found("no such thing: 100 % n\u{f6}")),
                "Hangs" => {
                    let _hanging = Hanging(seen);
                    std::future::pending().await
                }
                _ => Ok(Response::new(request.into_inner())),
            }
        })
    }
}

impl ClientStreamingService<Bytes> for Method {
    type Response = Bytes;
    type Future = BoxFuture<Response<Bytes>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        Box::pin(async move {
            let mut messages = request.into_inner();
            let mut all = Vec::new();
            while let Some(message) = messages.message().await? {
                all.extend_from_slice(&message);
                all.push(b',');
            }
            Ok(Response::new(all.into()))
        })
    }
}

impl ServerStreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<BoxStream<Bytes>>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let message = request.into_inner();
        let stream: BoxStream<Bytes> = if self.name == "Stalls" {
            let hanging = Hanging(self.seen.clone());
            let never = tokio_stream::pending().map(move |()| {
                let _ = &hanging;
                Ok(Bytes::new())
            });
            Box::pin(tokio_stream::once(Ok(message)).chain(never))
        } else {
            let count: usize = String::from_utf8_lossy(&message).parse().unwrap();
            Box::pin(tokio_stream::iter((0..count).map(|n| Ok(n.to_string().into()))))
        };
        Box::pin(async move { Ok(Response::new(stream)) })
    }
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<BoxStream<Bytes>>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let stream = request.into_inner().map(|message| message.map(|octets| [b"re:", &octets[..]].concat().into()));
        Box::pin(async move { Ok(Response::new(Box::pin(stream) as BoxStream<Bytes>)) })
    }
}

/// A client on a channel.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) client::Grpc<Channel>);

impl Client {
    /// Connects in clear text, by prior knowledge.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self::over(channel)
    }

    pub(crate) fn over(channel: Channel) -> Self {
        Self(client::Grpc::new(channel).max_decoding_message_size(usize::MAX))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))
    }

    pub(crate) async fn unary(&mut self, method: &'static str, request: Request<Bytes>) -> Result<Bytes, Status> {
        self.ready().await?;
        Ok(self.0.unary(request, method.parse().unwrap(), Octets).await?.into_inner())
    }

    pub(crate) async fn up(
        &mut self,
        method: &'static str,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Bytes, Status> {
        self.ready().await?;
        let request = Request::new(messages);
        Ok(self.0.client_streaming(request, method.parse().unwrap(), Octets).await?.into_inner())
    }

    pub(crate) async fn down(
        &mut self,
        method: &'static str,
        request: Request<Bytes>,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        Ok(self.0.server_streaming(request, method.parse().unwrap(), Octets).await?.into_inner())
    }

    pub(crate) async fn both(
        &mut self,
        method: &'static str,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Streaming<Bytes>, Status> {
        self.ready().await?;
        let request = Request::new(messages);
        Ok(self.0.streaming(request, method.parse().unwrap(), Octets).await?.into_inner())
    }
}
