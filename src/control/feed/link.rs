//! The way to another Weir: HTTP/1.1 on TCP, inside of TLS where that is said, with the token of a file.

use crate::control::PlaceOptions;
use crate::control::feed::assembly::Refusal;
use crate::model::UpstreamTlsSpec;
use crate::net::tls;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Longest time for connection and handshake, and for the head of an answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Largest answer that is no stream.
const MAX_ANSWER: usize = 256 * 1024;
/// Largest file of a token.
const MAX_TOKEN: u64 = 4096;

/// Why there is no connection, or no answer that helps.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody is reached.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// The token is not taken, or cannot be read.
    #[error("the token is not taken: {0}")]
    Unauthorized(String),
    /// It answers something else.
    #[error("it answers {status}: {detail}")]
    Answer {
        /// The status.
        status: StatusCode,
        /// What it says.
        detail: String,
    },
    /// What came is no feed that can be read.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl LinkError {
    /// Returns the reason as metrics name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Unauthorized(_) => "unauthorized",
            Self::Answer { status, .. } if status.is_server_error() => "unreachable",
            Self::Answer { .. } => "malformed",
            Self::Refused(refusal) => refusal.reason(),
        }
    }
}

fn unreachable(error: impl std::fmt::Display) -> LinkError {
    LinkError::Unreachable(error.to_string())
}

/// A connection to another Weir.
#[derive(Debug)]
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    authorization: Option<String>,
    host: String,
}

impl PlaceOptions {
    /// Connects.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn open(&self) -> Result<Link, LinkError> {
        let authorization = self.token()?.map(|token| format!("Bearer {token}"));
        let connecting = tokio::time::timeout(LIMIT, self.connect());
        let late = |_| unreachable(format!("no connection within {LIMIT:?}"));
        let sender = connecting.await.map_err(late)??;
        // On this machine a Weir answers to its own names only.
        let host = if self.is_local() { "localhost".to_owned() } else { self.address.clone() };
        Ok(Link { sender, authorization, host })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, LinkError> {
        if let Some(path) = self.address.strip_prefix("unix:") {
            return exchange(UnixStream::connect(path).await.map_err(unreachable)?).await;
        }
        let socket = TcpStream::connect(self.address.as_str()).await.map_err(unreachable)?;
        socket.set_nodelay(true).map_err(unreachable)?;
        let Some(spec) = &self.tls else { return exchange(socket).await };
        let peer = socket.peer_addr().map_err(unreachable)?.ip();
        let named = spec.server_name.is_none() && self.host().parse::<std::net::IpAddr>().is_err();
        let spec = UpstreamTlsSpec {
            server_name: if named { Some(self.host().into()) } else { spec.server_name.clone() },
            ..UpstreamTlsSpec::clone(spec)
        };
        let config = tls::build_client(&spec).map_err(|(_, bad)| unreachable(bad))?;
        let session = tls::connect_session(socket, Arc::new(config), (&spec, peer)).await.map_err(unreachable)?;
        exchange(session).await
    }

    fn token(&self) -> Result<Option<String>, LinkError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let bad = |why: String| LinkError::Unauthorized(format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
        if size > MAX_TOKEN {
            return Err(bad("is too large for a token".to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let token = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
        token.map(|token| Some(token.to_owned())).ok_or_else(|| bad("holds no token".to_owned()))
    }
}

async fn exchange<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, LinkError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(async move {
        // Its error reaches the request that it concerns.
        let _ = connection.await;
    });
    Ok(sender)
}

impl Link {
    /// Asks for a stream.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn stream(&mut self, path: &str) -> Result<Incoming, LinkError> {
        Ok(self.answer(Method::GET, path, Bytes::new(), LIMIT).await?.into_body())
    }

    /// Sends a request with a body in JSON; returns the answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, LinkError> {
        self.send_within(method, path, body, LIMIT).await
    }

    /// As [`Link::send`], with a limit of its own for the head of the answer.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn send_within(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, LinkError> {
        let answer = self.answer(method, path, body, limit).await?.into_body();
        read(answer).await.map_err(unreachable)
    }

    async fn answer(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(body)).map_err(unreachable)?;
        let answer = tokio::time::timeout(limit, self.sender.send_request(request)).await;
        let answer = answer.map_err(|_| unreachable(format!("no answer within {limit:?}")))?.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = read(answer.into_body()).await.unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = said.get("detail").and_then(serde_json::Value::as_str).unwrap_or("no reason").to_owned();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => LinkError::Unauthorized(detail),
            status => LinkError::Answer { status, detail },
        })
    }
}

async fn read(body: Incoming) -> io::Result<Bytes> {
    let limited = Limited::new(body, MAX_ANSWER).collect();
    let whole = tokio::time::timeout(LIMIT, limited).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(whole.map_err(io::Error::other)?.to_bytes())
}
