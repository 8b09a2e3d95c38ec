//! What Weir's handshakes with endpoints are done with: read from files, kept, and read again when a file changes.
//!
//! Workers only look ([`Clients::find`]) and ask for what is not there yet; reading is for others. Certificates are checked
//! unless a definition says otherwise in so many words, which the log repeats.

use crate::model::{UpstreamTlsSpec, Verify};
use crate::net::Stream;
use crate::net::tls::layer::TlsLayer;
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::{TlsConnector, TlsStream};

/// Where systems keep the authorities that they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How ALPN calls HTTP/2 (RFC 9113 §3.1).
pub const HTTP2: &[u8] = b"h2";

/// A ready configuration, or why there is none.
pub type Ready = Result<Arc<ClientConfig>, Arc<str>>;

/// Configurations by definition; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Clients {
    known: Arc<ArcSwap<HashMap<Arc<UpstreamTlsSpec>, Known>>>,
    /// Asked for and not there; a short lock.
    wanted: Arc<Mutex<Vec<Arc<UpstreamTlsSpec>>>>,
    asked: Arc<Notify>,
    answered: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct Known {
    ready: Ready,
    /// The state of its files when they were read.
    state: Vec<Option<(u64, SystemTime)>>,
}

impl Clients {
    /// Returns what is known for a definition; `None`: it was not read yet.
    pub fn find(&self, spec: &UpstreamTlsSpec) -> Option<Ready> {
        self.known.load().get(spec).map(|known| known.ready.clone())
    }

    /// Returns what is known for a definition; asks for it and waits while it was not read yet.
    pub async fn wait(&self, spec: &Arc<UpstreamTlsSpec>) -> Ready {
        loop {
            let answered = self.answered.notified();
            if let Some(ready) = self.find(spec) {
                return ready;
            }
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).push(spec.clone());
            self.asked.notify_one();
            answered.await;
        }
    }

    /// Waits until something is asked for.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Reads what was asked for, and what is known where a file changed since. Reads files.
    pub fn refresh(&self) {
        let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        let known: Vec<_> = self.known.load().keys().cloned().collect();
        for spec in known.iter().chain(&wanted) {
            let _ = self.load(spec);
        }
        self.answered.notify_waiters();
    }

    /// Returns what its files say for a definition: what was read before where no file changed. Where new files cannot be used
    /// the configuration before stays. Reads files.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn load(&self, spec: &Arc<UpstreamTlsSpec>) -> Ready {
        let state: Vec<_> = files(spec).iter().map(|path| look(path)).collect();
        let before = self.known.load().get(spec).cloned();
        if let Some(known) = before.as_ref().filter(|known| known.state == state) {
            return known.ready.clone();
        }
        let ready = match (build(spec), before) {
            (Err(problem), Some(Known { ready: Ok(config), .. })) => {
                tracing::warn!(%problem, "TLS towards endpoints goes on as before");
                Ok(config)
            }
            (Err(problem), _) => {
                tracing::warn!(%problem, "no TLS towards endpoints is possible");
                Err(problem.into())
            }
            (Ok(config), _) => Ok(Arc::new(config)),
        };
        self.known.rcu(|known| {
            let mut next = HashMap::clone(known);
            next.insert(spec.clone(), Known { ready: ready.clone(), state: state.clone() });
            next
        });
        ready
    }

    /// Returns every file that is of interest.
    pub fn files(&self) -> Vec<PathBuf> {
        self.known.load().keys().flat_map(|spec| files(spec)).collect()
    }
}

/// As [`connect_session`], for octets of the proxy.
///
/// # Errors
/// When it fails; the text says why.
pub async fn connect(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    endpoint: (&UpstreamTlsSpec, IpAddr),
) -> io::Result<Stream> {
    let session = connect_session(socket, config, endpoint).await?;
    Ok(Stream::Layered(Box::new(TlsLayer::new(session))))
}

/// Does the handshake with an endpoint; its certificate must be for the name of the definition, else for its address. Where
/// HTTP/2 is to be spoken the endpoint must select it (RFC 9113 §3.2). Whoever awaits it bounds its time.
///
/// # Errors
/// When it fails; the text says why.
pub async fn connect_session(
    socket: TcpStream,
    config: Arc<ClientConfig>,
    (spec, address): (&UpstreamTlsSpec, IpAddr),
) -> io::Result<TlsStream<TcpStream>> {
    let name = match spec.server_name.as_deref() {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
        None => ServerName::from(address),
    };
    let wants_http2 = config.alpn_protocols.iter().any(|protocol| protocol == HTTP2);
    let session = TlsConnector::from(config).connect(name, socket).await?;
    if wants_http2 && session.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(io::Error::other("it speaks TLS but does not select HTTP/2 (ALPN h2)"));
    }
    Ok(TlsStream::from(session))
}

/// Returns the configuration for another application protocol than HTTP/1.1 (RFC 7301); empty: none is named. Sessions are
/// shared.
pub fn speaking(config: &Arc<ClientConfig>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = if protocol.is_empty() { Vec::new() } else { vec![protocol.to_vec()] };
    Arc::new(config)
}

/// Reads what the definitions of services name; returns what is wrong with it.
///
/// # Errors
/// A sentence with the file.
pub fn build(spec: &UpstreamTlsSpec) -> Result<ClientConfig, String> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match spec.verify {
        Verify::Full => builder.with_root_certificates(roots(spec.ca.as_deref())?),
        Verify::Off => {
            tracing::warn!("certificates of endpoints are not checked: tls.verify is \"off\"");
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        }
    };
    let mut config = match &spec.certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = certificates(&files.certificate)?;
            let named = |error: &dyn std::fmt::Display| format!("{}: {error}", files.key.display());
            let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| named(&error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| named(&error))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        None => {
            let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists());
            let bundle = bundle.ok_or("this system has no bundle of authorities: name one with tls.ca")?;
            // Some of them may be of kinds that nobody reads any more.
            roots.add_parsable_certificates(certificates(bundle)?);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let found = read.map_err(|error| format!("{}: {error}", path.display()))?;
    if found.is_empty() { Err(format!("{}: no certificate in it", path.display())) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn files(spec: &UpstreamTlsSpec) -> Vec<PathBuf> {
    let pair = spec.certificate.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
    spec.ca.iter().cloned().chain(pair).collect()
}

fn look(path: &Path) -> Option<(u64, SystemTime)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok()?))
}

/// Takes anybody's certificate; signatures must fit it all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
