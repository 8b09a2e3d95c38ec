//! Requests to the authority, and the one to whoever says which names are welcome: HTTP/1.1, one connection each, bounded.

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// One request, from connecting to the last octet of the answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Largest answer: a chain of certificates has some 10 KiB.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The client; clones share the configuration of TLS.
#[derive(Debug, Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Makes the client; with a file of roots in PEM it trusts those alone, else those of the system.
    pub(super) fn new(roots: Option<&Path>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let config = match roots {
            None => builder.with_platform_verifier().map_err(|error| error.to_string())?.with_no_client_auth(),
            Some(path) => {
                let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let mut store = RootCertStore::empty();
                for root in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
                    store.add(root.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
                }
                if store.is_empty() {
                    return Err(failed(&"no certificate in it"));
                }
                builder.with_root_certificates(store).with_no_client_auth()
            }
        };
        Ok(Self { tls: Arc::new(config) })
    }

    /// Sends a GET; returns the status.
    pub(super) async fn get(&self, url: &str) -> Result<StatusCode, Failure> {
        let request = Request::builder().uri(url).body(BodyWrapper::default())?;
        Ok(self.clone().send(request).await?.status())
    }

    async fn send(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Failure> {
        tokio::time::timeout(REQUEST_LIMIT, self.exchange(request))
            .await
            .map_err(|_| format!("no answer within {} s", REQUEST_LIMIT.as_secs()))?
    }

    async fn exchange(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let uri = request.uri().clone();
        let authority = uri.authority().ok_or("the URL names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
        let socket = TcpStream::connect((host.as_str(), port)).await?;
        socket.set_nodelay(true)?;
        if !is_tls {
            return speak(socket, request).await;
        }
        let name = ServerName::try_from(host)?;
        let stream = tokio_rustls::TlsConnector::from(self.tls).connect(name, socket).await?;
        speak(stream, request).await
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Bytes>, Failure> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
        Ok::<_, Failure>(Response::from_parts(parts, body))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // It ends with what the answer needs already read.
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => exchange.await.map_err(|_| error.into()),
        },
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (parts, body) = client.send(request).await.map_err(Error::Other)?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}
