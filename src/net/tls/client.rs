//! What Weir's handshakes with endpoints are done with: read from files, kept, and read again when a file changes.
//!
//! Workers only look ([`Clients::find`]) and ask for what is not there yet; reading is for others. Certificates are checked
//! unless a definition says otherwise in so many words, which the log repeats.

use crate::model::{CertificateFiles, UpstreamTlsSpec, Verify};
use crate::net::Stream;
use crate::net::tls::files::{BadFile, authorities, certificates, private_key, read};
use crate::net::tls::layer::TlsLayer;
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
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
pub type Ready = Result<Arc<ClientConfig>, Arc<BadFile>>;
/// A file that cannot be used, with the key below `tls` that names it.
pub type Fault = (&'static str, BadFile);

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
    /// What is wrong with its files now; where something was read before, that stays.
    bad: Option<Arc<BadFile>>,
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

    /// Reads what was asked for, and what is known where a file changed since; forgets what nobody uses any more. Reads
    /// files.
    pub fn refresh(&self, is_used: impl Fn(&UpstreamTlsSpec) -> bool) {
        let wanted = std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        if self.known.load().keys().any(|spec| !is_used(spec)) {
            self.known.rcu(|known| {
                let mut next = HashMap::clone(known);
                next.retain(|spec, _| is_used(spec));
                next
            });
        }
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
        let (ready, bad) = match (build(spec), before) {
            (Err((_, bad)), Some(Known { ready: Ok(config), .. })) => {
                tracing::warn!(problem = %bad, "TLS towards endpoints goes on as before");
                (Ok(config), Some(Arc::new(bad)))
            }
            (Err((_, bad)), _) => {
                tracing::warn!(problem = %bad, "no TLS towards endpoints is possible");
                let bad = Arc::new(bad);
                (Err(bad.clone()), Some(bad))
            }
            (Ok(config), _) => (Ok(Arc::new(config)), None),
        };
        self.known.rcu(|known| {
            let mut next = HashMap::clone(known);
            next.insert(spec.clone(), Known { ready: ready.clone(), bad: bad.clone(), state: state.clone() });
            next
        });
        ready
    }

    /// Returns the files that cannot be used now, with whether what was read before stays.
    pub fn bad_files(&self) -> Vec<(Arc<BadFile>, bool)> {
        let known = self.known.load();
        known.values().filter_map(|known| Some((known.bad.clone()?, known.ready.is_ok()))).collect()
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
    let session = TlsConnector::from(config).connect(name, socket).await.map_err(explained)?;
    if wants_http2 && session.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(io::Error::other("it speaks TLS but does not select HTTP/2 (ALPN h2)"));
    }
    Ok(TlsStream::from(session))
}

/// Adds what is to be done where the cause alone does not tell.
fn explained(error: io::Error) -> io::Error {
    let Some(Error::InvalidCertificate(refused)) = error.get_ref().and_then(|inner| inner.downcast_ref()) else {
        return error;
    };
    let hint = match refused {
        CertificateError::UnknownIssuer => "name the file of its authority's certificate as ca",
        // What `openssl req -x509` makes unless told otherwise.
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "it is an authority's own: make one that says CA:FALSE (openssl req -addext basicConstraints=critical,CA:FALSE)"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}: {hint}"))
}

/// Returns the configuration for another application protocol than HTTP/1.1 (RFC 7301); empty: none is named. Sessions are
/// shared.
pub fn speaking(config: &Arc<ClientConfig>, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = if protocol.is_empty() { Vec::new() } else { vec![protocol.to_vec()] };
    Arc::new(config)
}

/// Reads what the definition of a service names.
///
/// # Errors
/// [`Fault`].
pub fn build(spec: &UpstreamTlsSpec) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ("", BadFile::new(Path::new("rustls"), error, "report it: this is a mistake in Weir")))?;
    let builder = match spec.verify {
        Verify::Full => builder.with_root_certificates(roots(spec).map_err(|bad| ("ca", bad))?),
        Verify::Off => {
            tracing::warn!("certificates of endpoints are not checked: tls.verify is \"off\"");
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        }
    };
    let mut config = match &spec.certificate {
        None => builder.with_no_client_auth(),
        Some(CertificateFiles { certificate, key }) => {
            let chain = read(certificate).and_then(|text| certificates(certificate, &text));
            let chain = chain.map_err(|bad| ("certificate", bad))?;
            let secret = read(key).and_then(|text| private_key(key, &text)).map_err(|bad| ("key", bad))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| ("key", unfit(key, error)))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn unfit(key: &Path, error: Error) -> BadFile {
    match error {
        Error::InconsistentKeys(_) => BadFile::new(
            key,
            "the private key does not belong to the certificate",
            "put both files of one pair there, each by a rename",
        ),
        error => BadFile::new(key, format!("the private key cannot be used: {error}"), "write another key"),
    }
}

fn roots(spec: &UpstreamTlsSpec) -> Result<RootCertStore, BadFile> {
    if let Some(path) = &spec.ca {
        let told = spec.authorities.as_ref().map(|text| text.as_bytes().to_vec());
        return authorities(path, certificates(path, &told.map_or_else(|| read(path), Ok)?)?);
    }
    let [usual, ..] = SYSTEM_BUNDLES;
    let bundle = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let missing = || BadFile::new(Path::new(usual), "this system has no bundle of authorities", "name one with tls.ca");
    let bundle = bundle.ok_or_else(missing)?;
    let mut roots = RootCertStore::empty();
    // Some of them may be of kinds that nobody reads any more.
    roots.add_parsable_certificates(certificates(bundle, &read(bundle)?)?);
    Ok(roots)
}

fn files(spec: &UpstreamTlsSpec) -> Vec<PathBuf> {
    let pair = spec.certificate.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
    let authorities = spec.ca.iter().filter(|_| spec.authorities.is_none());
    authorities.cloned().chain(pair).collect()
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

#[cfg(test)]
mod tests {
    use super::explained;
    use rustls::{CertificateError, Error, OtherError};
    use std::io;
    use std::sync::Arc;

    /// As rustls-webpki calls what `openssl req -x509` makes by itself.
    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct CaUsedAsEndEntity;

    #[test]
    fn a_certificate_that_is_refused_is_told_with_what_to_do() {
        let said = |error| explained(io::Error::new(io::ErrorKind::InvalidData, Error::InvalidCertificate(error)));
        let own = CertificateError::Other(OtherError(Arc::new(CaUsedAsEndEntity)));
        for (error, part) in [
            (own, "basicConstraints=critical,CA:FALSE"),
            (CertificateError::UnknownIssuer, "UnknownIssuer: name the file of its authority's certificate as ca"),
        ] {
            let said = said(error);
            assert!(said.to_string().contains(part) && said.kind() == io::ErrorKind::InvalidData, "{said}");
        }
        assert_eq!(said(CertificateError::Expired).to_string(), "invalid peer certificate: Expired");
        assert_eq!(explained(io::ErrorKind::UnexpectedEof.into()).kind(), io::ErrorKind::UnexpectedEof);
    }
}
