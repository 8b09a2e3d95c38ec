//! What stands between pebble and Weir: ports that lead to a Weir that is started later, and a directory that misbehaves.

use crate::Pebble;
use crate::support::process::Folder;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Two ports that lead to Weir's once it has some.
pub(crate) struct Forwards {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    targets: Arc<Mutex<[Option<SocketAddr>; 2]>>,
}

impl Forwards {
    /// Opens them.
    pub(crate) async fn new() -> Self {
        let targets = Arc::new(Mutex::new([None; 2]));
        let mut addresses = Vec::new();
        for which in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            tokio::spawn(forward(listener, which, targets.clone()));
        }
        Self { http: addresses[0], https: addresses[1], targets }
    }

    /// Leads them to a Weir.
    pub(crate) fn lead_to(&self, http: SocketAddr, https: SocketAddr) {
        *self.targets.lock().unwrap() = [Some(http), Some(https)];
    }
}

async fn forward(listener: TcpListener, which: usize, targets: Arc<Mutex<[Option<SocketAddr>; 2]>>) {
    loop {
        let Ok((mut from, _)) = listener.accept().await else { return };
        let target = targets.lock().unwrap()[which];
        let Some(target) = target else { continue };
        tokio::spawn(async move {
            if let Ok(mut to) = TcpStream::connect(target).await {
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// A directory in front of pebble's that misbehaves as told, by TLS with a certificate of its own.
///
/// `500`, `garbage` and `close` answer whatever is posted; `nonce` refuses the first nonce of each request; `stall-finalize`
/// never answers where an order is to be finished; `window` tells of a time to renew that is over, once.
pub(crate) struct Directory {
    address: SocketAddr,
    /// The file of its root.
    pub(crate) root: String,
    state: Arc<Mutex<State>>,
    _folder: Folder,
}

#[derive(Default)]
struct State {
    fault: &'static str,
    orders: usize,
    stalled: usize,
    windows: usize,
    refused: usize,
}

impl Directory {
    pub(crate) async fn start(pebble: &Pebble) -> Self {
        let folder = Folder::new("directory");
        let key = KeyPair::generate().unwrap();
        let own = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let root = folder.write("own.pem", &own.pem()).display().to_string();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (behind, trusted) = (pebble.address, std::fs::read_to_string(&pebble.own_root).unwrap());
        let shared = state.clone();
        tokio::spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { return };
                let (acceptor, shared, trusted) = (acceptor.clone(), shared.clone(), trusted.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        // Who breaks off is no concern of the directory.
                        let _ = relay(stream, behind, &trusted, &shared).await;
                    }
                });
            }
        });
        Self { address, root, state, _folder: folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Misbehaves from now on; an empty text: not at all.
    pub(crate) fn misbehave(&self, fault: &'static str) {
        self.state.lock().unwrap().fault = fault;
    }

    /// Returns how many orders were placed.
    pub(crate) fn orders(&self) -> usize {
        self.state.lock().unwrap().orders
    }

    /// Returns how many requests were never answered.
    pub(crate) fn stalled(&self) -> usize {
        self.state.lock().unwrap().stalled
    }
}

/// Reads one request; returns it with the length of its body.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(Vec<u8>, usize)> {
    let mut request = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = from.read(&mut part).await?;
        request.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                let length = body.len();
                return Ok((request, length));
            }
        }
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Answers one request, by pebble or by a fault.
async fn relay(
    mut from: impl AsyncRead + AsyncWrite + Unpin,
    behind: SocketAddr,
    trusted: &str,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let (request, body) = read(&mut from).await?;
    let head = String::from_utf8_lossy(&request[..request.len() - body]).into_owned();
    let is_post = head.starts_with("POST ");
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let fault = {
        let mut state = state.lock().unwrap();
        state.orders += usize::from(path.contains("order-plz"));
        state.stalled += usize::from(state.fault == "stall-finalize" && path.contains("finalize"));
        state.refused += usize::from(state.fault == "nonce" && is_post);
        match state.fault {
            "500" | "garbage" | "close" if is_post => state.fault,
            "nonce" if is_post && state.refused % 2 == 1 => "nonce",
            "stall-finalize" if path.contains("finalize") => "stall",
            "window" if path.starts_with("/window/") => {
                state.windows += 1;
                if state.windows == 1 { "over" } else { "later" }
            }
            "window" => "window",
            _ => "",
        }
    };
    let answer = |status: &str, kind: &str, body: &str| {
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nRetry-After: 3600\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let window = |year: u32| {
        let window = format!("{{\"start\":\"{year}-01-01T00:00:00Z\",\"end\":\"{year}-01-02T00:00:00Z\"}}");
        answer("200 OK", "application/json", &format!("{{\"suggestedWindow\":{window}}}"))
    };
    let made = match fault {
        "500" => answer("500 Internal Server Error", "text/plain", "broken"),
        "garbage" => answer("200 OK", "application/json", "{\"status\": [[["),
        "close" => return Ok(()),
        "stall" => std::future::pending().await,
        "over" => window(2001),
        "later" => window(2090),
        "nonce" => {
            let problem = "{\"type\":\"urn:ietf:params:acme:error:badNonce\",\"detail\":\"no\"}";
            answer("400 Bad Request", "application/problem+json", problem)
        }
        _ => {
            let mut to = crate::connect(behind, "127.0.0.1", trusted).await?;
            to.write_all(&request).await?;
            let mut answer = Vec::new();
            to.read_to_end(&mut answer).await?;
            if fault == "window" && path == "/dir" {
                let text = String::from_utf8_lossy(&answer).into_owned();
                let (_, body) = text.split_once("\r\n\r\n").unwrap();
                let host = head_host(&String::from_utf8_lossy(&request));
                let mut directory: serde_json::Value = serde_json::from_str(body).unwrap();
                directory["renewalInfo"] = format!("https://{host}/window").into();
                let body = directory.to_string();
                answer = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes();
            }
            from.write_all(&answer).await?;
            return from.shutdown().await;
        }
    };
    from.write_all(made.as_bytes()).await?;
    from.shutdown().await
}

fn head_host(head: &str) -> String {
    let host = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("host: ").map(str::to_owned));
    host.unwrap()
}
