//! One attempt of a health check over the network.
//!
//! Owns the connection, the request and the reading of the answer; thresholds and timing are `check.rs`. Limits: one
//! connection for one attempt, closed after it; no redirect is followed; at most 64 KiB of body are read; the caller's
//! timeout covers all of it. Outcomes are sentences for people.

use crate::control::grpc_probe;
use crate::control::runtime::Runtime;
use crate::model::{InstanceId, Probe, ProxyVersion, UpstreamTlsSpec};
use crate::net::preface::proxy::{Header, write_v1, write_v2};
use crate::net::tls::{Clients, HTTP2, connect_session, speaking};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

/// Body bytes that one check reads at most; a page behind a health path is smaller.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Head bytes of an answer at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Octets of a datagram that are looked at: as many as one may have that is expected.
const MAX_DATAGRAM_BYTES: usize = 1200;

/// What one attempt does, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it connects to.
    pub address: SocketAddr,
    /// What it does there.
    pub probe: Probe,
    /// Time after which it has failed, all steps together.
    pub timeout: Duration,
    /// How it speaks TLS there; `None`: in clear text.
    pub tls: Option<Arc<UpstreamTlsSpec>>,
    /// How it says that it is Weir's own connection, where the endpoint expects to be told; `None`: it does not.
    pub tells: Option<ProxyVersion>,
    /// The container whose own check decides instead, when it has one.
    pub container: Option<InstanceId>,
}

impl Target {
    /// Returns the host that a check names: its own, else the one that certificates are for, else the address.
    fn host(&self, own: Option<&str>) -> String {
        let named = own.or_else(|| self.tls.as_ref()?.server_name.as_deref());
        named.map_or_else(|| self.address.to_string(), str::to_owned)
    }
}

/// Carries out attempts: the network, or a simulated one.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Makes one attempt and says how it passed; the caller watches the time.
    ///
    /// # Errors
    /// Says why it failed.
    async fn probe(&self, target: &Target) -> Result<String, String>;

    /// Returns true when there is more to look at once a gate is open: a check that the container brings.
    fn goes_on(&self, _target: &Target) -> bool {
        false
    }
}

/// What a container's own check says, else attempts over real sockets.
#[derive(Debug, Clone)]
pub struct Node {
    runtime: Arc<dyn Runtime>,
    network: Network,
}

impl Node {
    /// Asks this runtime for what containers say of themselves.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, network: Network::default() }
    }

    fn own_check(&self, target: &Target) -> Option<Result<String, String>> {
        self.runtime.own_check(target.container.as_ref()?)
    }
}

#[async_trait]
impl Prober for Node {
    async fn probe(&self, target: &Target) -> Result<String, String> {
        match self.own_check(target) {
            Some(said) => said,
            None => self.network.probe(target).await,
        }
    }

    fn goes_on(&self, target: &Target) -> bool {
        self.own_check(target).is_some()
    }
}

/// Attempts over real sockets.
#[derive(Debug, Clone, Default)]
pub struct Network {
    clients: Clients,
}

#[async_trait]
impl Prober for Network {
    async fn probe(&self, target: &Target) -> Result<String, String> {
        if let Probe::Udp { send, expect } = &target.probe {
            return exchange(target.address, send, expect).await.map_err(|reason| format!("udp: {reason}"));
        }
        let connect = TcpStream::connect(target.address).await;
        let mut stream = connect.map_err(|error| format!("connect: {}", cause(&error)))?;
        if let Some(version) = target.tells {
            let header = match version {
                ProxyVersion::V1 => write_v1(&Header::default()),
                ProxyVersion::V2 => write_v2(&Header::default()),
            };
            stream.write_all(&header).await.map_err(|error| format!("connect: {}", cause(&error)))?;
        }
        match &target.probe {
            Probe::Tcp | Probe::Udp { .. } => Ok("connect: accepted".to_owned()),
            Probe::Grpc { service, host } => {
                let host = target.host(host.as_deref());
                let checked = match &target.tls {
                    None => grpc_probe::check(stream, ("http", &host), service).await,
                    Some(_) => {
                        grpc_probe::check(self.secure(stream, target, HTTP2).await?, ("https", &host), service).await
                    }
                };
                checked.map(|()| "grpc: SERVING".to_owned()).map_err(|reason| format!("grpc: {reason}"))
            }
            Probe::Http { path, host, status } => {
                let host = target.host(host.as_deref());
                let code = match &target.tls {
                    None => get(stream, path, &host).await,
                    Some(_) => get(self.secure(stream, target, b"http/1.1").await?, path, &host).await,
                };
                let code = code.map_err(|reason| format!("GET {path}: {reason}"))?;
                if status.contains(&code) {
                    return Ok(format!("GET {path}: {code}"));
                }
                Err(format!("GET {path}: {code} (want {}-{})", status.start(), status.end()))
            }
        }
    }
}

impl Network {
    /// Does the handshake with an endpoint that speaks TLS.
    async fn secure(
        &self,
        socket: TcpStream,
        target: &Target,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, String> {
        let spec = target.tls.clone().unwrap_or_default();
        let config = self.clients.load(&spec).map_err(|problem| format!("TLS: {problem}"))?;
        let config = speaking(&config, protocol);
        connect_session(socket, config, (&spec, target.address.ip())).await.map_err(|error| format!("TLS: {error}"))
    }
}

/// Makes one attempt, which fails when its time is over.
pub(crate) async fn attempt(prober: &dyn Prober, target: &Target) -> Result<String, String> {
    let late = || Err(format!("no answer in {:?}", target.timeout));
    timeout(target.timeout, prober.probe(target)).await.unwrap_or_else(|_| late())
}

/// Says what kind of failure it was; the number of the operating system's error helps nobody.
fn cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

/// Sends a datagram and says how its answer begins as it should. Where nobody listens, the machine says so by ICMP.
async fn exchange(to: SocketAddr, send: &[u8], expect: &[u8]) -> Result<String, String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| cause(&error))?;
    // From here on nobody else's datagrams come.
    socket.connect(to).await.map_err(|error| cause(&error))?;
    socket.send(send).await.map_err(|error| cause(&error))?;
    // What is longer is cut off.
    let mut answer = [0; MAX_DATAGRAM_BYTES];
    let length = socket.recv(&mut answer).await.map_err(|error| cause(&error))?;
    match answer.get(..length).is_some_and(|answer| answer.starts_with(expect)) {
        true => Ok("udp: answered".to_owned()),
        false => Err(format!("the answer of {length} octets begins with something else")),
    }
}

/// Asks for `path` and returns the status code.
async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    host: &str,
) -> Result<u16, String> {
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION"), " (health check)"))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let handshake = builder.max_buf_size(MAX_HEAD_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| explain(&error))?;
    // Dropping the set ends the connection, however this attempt ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| explain(&error))?;
    let code = response.status().as_u16();
    read(response.into_body()).await.map_err(|error| explain(&error))?;
    Ok(code)
}

/// Reads the body to its end or to the limit, so that an answer which breaks off does not pass.
async fn read(mut body: Incoming) -> Result<(), hyper::Error> {
    let mut read_bytes = 0;
    while let Some(frame) = body.frame().await {
        read_bytes += frame?.data_ref().map_or(0, Bytes::len);
        if read_bytes >= MAX_BODY_BYTES {
            break;
        }
    }
    Ok(())
}

fn explain(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match source {
        _ if error.is_parse() => "the answer is not HTTP/1".to_owned(),
        _ if error.is_incomplete_message() => "closed before the end of the answer".to_owned(),
        Some(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            "closed before the end of the answer".to_owned()
        }
        Some(source) => cause(source),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, Prober, Target, attempt};
    use crate::model::Probe;
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};

    fn http(path: &str) -> Probe {
        Probe::Http { path: path.into(), host: None, status: 200..=399 }
    }

    async fn probe(address: SocketAddr, probe: Probe) -> Result<String, String> {
        Network::default()
            .probe(&Target { address, probe, timeout: Duration::from_secs(5), tls: None, tells: None, container: None })
            .await
    }

    /// Serves one connection with `answer` and returns what it was asked.
    async fn serve(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            // The probe may be gone already: it reads a bounded part.
            let _ = stream.write_all(answer).await;
            String::from_utf8(head).unwrap()
        });
        (address, asked)
    }

    #[tokio::test]
    async fn a_status_in_the_range_passes_and_the_request_says_who_asks() {
        let (address, asked) = serve(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe(address, http("/health?full=1")).await, Ok("GET /health?full=1: 204".to_owned()));
        let asked = asked.await.unwrap().to_ascii_lowercase();
        assert!(asked.starts_with("get /health?full=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: {address}\r\n")) && asked.contains("user-agent: weir/"), "{asked}");
    }

    #[tokio::test]
    async fn a_configured_host_is_sent() {
        let (address, asked) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let with_host = Probe::Http { path: "/".into(), host: Some("app.example".into()), status: 200..=200 };
        assert_eq!(probe(address, with_host).await, Ok("GET /: 200".to_owned()));
        assert!(asked.await.unwrap().to_ascii_lowercase().contains("host: app.example\r\n"));
    }

    #[tokio::test]
    async fn says_why_an_answer_fails() {
        let cases: [(&[u8], &str); 5] = [
            (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", "GET /h: 503 (want 200-399)"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "GET /h: the answer is not HTTP/1"),
            (b"", "GET /h: closed before the end of the answer"),
            (b"HTTP/1.1 200 OK\r\nContent-Le", "GET /h: closed before the end of the answer"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "GET /h: closed before the end of the answer"),
        ];
        for (answer, expected) in cases {
            let (address, _asked) = serve(answer).await;
            assert_eq!(probe(address, http("/h")).await, Err(expected.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let (address, _asked) = serve(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n").await;
        assert_eq!(probe(address, http("/")).await, Ok("GET /: 302".to_owned()));
    }

    #[tokio::test]
    async fn a_body_without_end_is_read_to_the_limit_only() {
        let endless: &'static [u8] =
            Box::leak([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 1024 * 1024]].concat().into_boxed_slice());
        let (address, _asked) = serve(endless).await;
        assert_eq!(probe(address, http("/")).await, Ok("GET /: 200".to_owned()));
    }

    #[tokio::test]
    async fn a_closed_port_is_refused_and_an_open_one_accepts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address, Probe::Tcp).await, Ok("connect: accepted".to_owned()));
        drop(listener);
        assert_eq!(probe(address, Probe::Tcp).await, Err("connect: connection refused".to_owned()));
        assert_eq!(probe(address, http("/")).await, Err("connect: connection refused".to_owned()));
    }

    #[tokio::test]
    async fn a_datagram_is_answered_as_expected_otherwise_or_by_nobody() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut octets = [0; 100];
            loop {
                let (n, from) = server.recv_from(&mut octets).await.unwrap();
                server.send_to(&[b"you said ", &octets[..n]].concat(), from).await.unwrap();
            }
        });
        let udp = |send: &[u8], expect: &[u8]| Probe::Udp { send: send.into(), expect: expect.into() };
        for (send, expect, passes) in [
            (&b"ping"[..], &b"you said p"[..], true),
            (b"\xff\0", b"", true),
            (b"", b"you said ", true),
            (b"ping", b"pong", false),
        ] {
            let said = probe(address, udp(send, expect)).await;
            let wrong = "udp: the answer of 13 octets begins with something else".to_owned();
            assert_eq!(said, if passes { Ok("udp: answered".to_owned()) } else { Err(wrong) });
        }
        serving.abort();
        let _ = serving.await;
        assert_eq!(probe(address, udp(b"ping", b"")).await, Err("udp: connection refused".to_owned()));
    }

    #[tokio::test]
    async fn silence_fails_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = Target {
            address,
            probe: http("/"),
            timeout: Duration::from_millis(50),
            tls: None,
            tells: None,
            container: None,
        };
        assert_eq!(attempt(&Network::default(), &target).await, Err("no answer in 50ms".to_owned()));
    }
}
