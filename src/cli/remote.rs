//! Asking a running Weir over its admin API: HTTP/1 on the Unix socket or on loopback TCP.
//!
//! Without an address the places are tried in turn: the socket of the state directory, the socket of a demo in this
//! directory, 127.0.0.1:9600. Only "nobody is there" goes on to the next; whoever answers is believed, if the answer is
//! Weir's.

use crate::cli::failure::{Code, Failure};
use crate::config::Environment;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Longest wait for a connection: the server is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for the head of an answer: a drain may wait for its replacement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Largest answer that is read whole: 100,000 instances.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// The socket of a demo that was started in this directory.
const DEMO_SOCKET: &str = "target/demo/weir.sock";
/// The default address of the API.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9600";

/// Where a Weir may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

impl Place {
    /// Parses `unix:PATH`, a path, `HOST:PORT` or `http://HOST:PORT`.
    fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Unix(text.into()));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = rest.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
        if rest.contains('/') || port.is_none_or(|port: u16| port == 0) {
            let message = format!("{text:?} is no address: write unix:PATH, HOST:PORT or http://HOST:PORT");
            return Err(Failure::new(Code::Usage, message).into());
        }
        Ok(Self::Tcp(rest.to_owned()))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// A connection to a running Weir; one request at a time.
pub(super) struct Remote {
    place: Place,
    sender: SendRequest<Full<Bytes>>,
}

impl Remote {
    /// Connects to the given address, or to the first of the usual places where somebody is.
    pub(super) async fn connect(address: Option<&str>) -> Result<Self> {
        let places = match address {
            Some(text) => vec![Place::parse(text)?],
            None => usual_places(),
        };
        let mut tried = Vec::new();
        for place in places {
            match open(&place).await {
                Ok(sender) => return Ok(Self { place, sender }),
                Err(error) => tried.push(format!("{place}: {error}")),
            }
        }
        let hint = "is it running? `weir run` or `weir demo` starts it, `--addr` or WEIR_ADDR names another";
        Err(Failure::new(Code::Unreachable, format!("no Weir answers ({}); {hint}", tried.join("; "))).into())
    }

    /// Asks for JSON.
    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let body = self.whole(Method::GET, path, Bytes::new()).await?;
        serde_json::from_slice(&body)
            .map_err(|error| self.foreign(&format!("its answer to {path} is not what this version expects: {error}")))
    }

    /// Asks for a text.
    pub(super) async fn text(&mut self, path: &str) -> Result<String> {
        let body = self.whole(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8(body.to_vec())?)
    }

    /// Changes something; the answer's body is not needed.
    pub(super) async fn change(&mut self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<()> {
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        self.whole(method, path, bytes.into()).await.map(|_| ())
    }

    /// Changes or asks for something with a body; the answer is JSON.
    pub(super) async fn exchange<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let answer = self.whole(method, path, bytes.into()).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| self.foreign(&format!("its answer to {path} is not what this version expects: {error}")))
    }

    /// Asks for a body that does not end by itself.
    pub(super) async fn stream(&mut self, path: &str) -> Result<Incoming> {
        Ok(self.answer(Method::GET, path, Bytes::new()).await?.into_body())
    }

    async fn whole(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let answer = self.answer(method, path, body).await?;
        read(answer.into_body()).await.with_context(|| format!("read the answer of {}", self.place))
    }

    /// Sends a request; an answer that is no success becomes an error.
    async fn answer(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let host = match &self.place {
            Place::Unix(_) => "localhost",
            Place::Tcp(address) => address,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-requested-with", "weir")
            .body(Full::new(body))?;
        let lost = |why: String| Failure::new(Code::Unreachable, format!("{} gave no answer: {why}", self.place));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.sender.send_request(request))
            .await
            .map_err(|_| lost(format!("none within {} s", ANSWER_TIMEOUT.as_secs())))?
            .map_err(|error| lost(why(&error)))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refusal(answer).await) }
    }

    async fn refusal(&self, answer: Response<Incoming>) -> anyhow::Error {
        let status = answer.status();
        let problem = read(answer.into_body()).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
        match problem {
            Some(problem) => Failure::from_problem(problem).into(),
            None => self.foreign(&format!("it answers {}", describe(status))),
        }
    }

    fn foreign(&self, what: &str) -> anyhow::Error {
        let message = format!("what listens on {} is no Weir of this version: {what}", self.place);
        Failure::new(Code::Unreachable, message).into()
    }
}

/// Says why there is no answer.
fn why(error: &hyper::Error) -> String {
    if error.is_parse() {
        // Other machines are answered by TLS, and not what commands ask.
        return format!("{error}: it speaks something else, such as TLS; commands are answered on Weir's own machine");
    }
    error.to_string()
}

fn describe(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default())
}

async fn read(body: Incoming) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(body, MAX_ANSWER_BYTES);
    Ok(limited.collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
}

/// Returns the places that are tried without an address.
fn usual_places() -> Vec<Place> {
    let state = Environment::current().default_state().map(|state| Place::Unix(state.join("weir.sock")));
    let demo = Path::new(DEMO_SOCKET);
    let demo = demo.exists().then(|| Place::Unix(demo.to_owned()));
    state.into_iter().chain(demo).chain([Place::Tcp(DEFAULT_ADDRESS.to_owned())]).collect()
}

async fn open(place: &Place) -> io::Result<SendRequest<Full<Bytes>>> {
    match place {
        Place::Unix(path) => exchange(within(UnixStream::connect(path)).await?).await,
        Place::Tcp(address) => exchange(within(TcpStream::connect(address.as_str())).await?).await,
    }
}

async fn within<T>(connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}"));
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| late())?
}

async fn exchange<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Its error reaches the request that it concerns.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Percent-encodes what is not unreserved (RFC 3986 §2.3), for one segment of a path or one query value.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{Place, encode};

    #[test]
    fn reads_the_forms_of_an_address() {
        let tcp = |text: &str| Place::Tcp(text.to_owned());
        for (text, place) in [
            ("127.0.0.1:9600", tcp("127.0.0.1:9600")),
            ("http://localhost:9600/", tcp("localhost:9600")),
            ("[::1]:9600", tcp("[::1]:9600")),
            ("unix:/run/weir.sock", Place::Unix("/run/weir.sock".into())),
            ("unix:///run/weir.sock", Place::Unix("/run/weir.sock".into())),
            ("./weir.sock", Place::Unix("./weir.sock".into())),
            ("/run/weir.sock", Place::Unix("/run/weir.sock".into())),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place);
        }
        for bad in
            ["", "localhost", "localhost:", ":9600", "localhost:70000", "localhost:0", "https://x:1", "http://x:1/v1"]
        {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_in_a_namespace_is_one_segment() {
        assert_eq!(encode("staging/web"), "staging%2Fweb");
        assert_eq!(encode("web-1.x_~ä"), "web-1.x_~%C3%A4");
    }
}
