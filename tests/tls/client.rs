//! A client by rustls.

use super::authority::{Authority, Pair};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client; it resumes sessions.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// Trusts an authority, speaks some versions and shows a certificate if it has one.
    pub(crate) fn new(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        pair: Option<&Pair>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots);
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(64);
        Self { config: Arc::new(config) }
    }

    /// Speaks every version.
    pub(crate) fn trusting(authority: &Authority) -> Self {
        Self::new(authority, rustls::ALL_VERSIONS, None)
    }

    /// Resumes nothing: it sees the certificate each time.
    pub(crate) fn fresh(authority: &Authority) -> Self {
        let mut config = ClientConfig::clone(&Self::trusting(authority).config);
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config) }
    }

    /// Does the handshake, asking for a name.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(self.config.clone()).connect(name, socket).await
    }

    /// Asks for a path of a host on a connection of its own; returns the whole answer.
    pub(crate) async fn get(&self, address: SocketAddr, name: &str, path: &str) -> io::Result<String> {
        let mut stream = self.connect(address, name).await?;
        ask(&mut stream, name, path, "Connection: close\r\n").await
    }
}

/// Sends one request and reads to the end.
pub(crate) async fn ask(stream: &mut TlsStream<TcpStream>, host: &str, path: &str, fields: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
