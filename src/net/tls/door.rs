//! A server's side of TLS with one certificate from files, for what is no listener of the proxy: read again when a file
//! changes, and where the new ones cannot be used the ones before stay.

use crate::model::CertificateFiles;
use crate::net::tls::files::{BadFile, certificates, private_key, read};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

type Look = Option<(u64, SystemTime)>;

/// The server's side; a cheap handle.
#[derive(Debug, Clone)]
pub struct Door {
    files: CertificateFiles,
    known: Arc<Mutex<([Look; 2], Arc<ServerConfig>)>>,
}

impl Door {
    /// Reads the files.
    ///
    /// # Errors
    /// [`BadFile`].
    pub fn open(files: CertificateFiles) -> Result<Self, BadFile> {
        let known = (state(&files), Arc::new(build(&files)?));
        Ok(Self { files, known: Arc::new(Mutex::new(known)) })
    }

    /// Does the handshake; whoever awaits it bounds its time.
    ///
    /// # Errors
    /// When it fails.
    pub async fn accept(&self, socket: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.config()).accept(socket).await
    }

    fn config(&self) -> Arc<ServerConfig> {
        let state = state(&self.files);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != state {
            known.0 = state;
            match build(&self.files) {
                Ok(config) => known.1 = Arc::new(config),
                Err(bad) => tracing::warn!(problem = %bad, "the certificate before stays"),
            }
        }
        known.1.clone()
    }
}

fn state(files: &CertificateFiles) -> [Look; 2] {
    let look = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.len(), found.modified().ok()?))
    };
    [look(&files.certificate), look(&files.key)]
}

fn build(files: &CertificateFiles) -> Result<ServerConfig, BadFile> {
    let chain = certificates(&files.certificate, &read(&files.certificate)?)?;
    let key = private_key(&files.key, &read(&files.key)?)?;
    let unfit = |error: rustls::Error| BadFile::new(&files.key, error, "put both files of one pair there");
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(unfit)?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
