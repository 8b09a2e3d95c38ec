//! What a listener's handshakes are done with.

use crate::model::{ClientCertificate, TlsVersion};
use crate::net::tls::tickets::Tickets;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// Rules of one listener.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The oldest version that it speaks.
    pub minimum_version: TlsVersion,
    /// Who may come in.
    pub clients: ClientPolicy,
    /// Its tickets.
    pub tickets: Arc<Tickets>,
    /// What is offered by ALPN, the preferred first (RFC 7301).
    pub protocols: Vec<Vec<u8>>,
}

/// What a listener asks of its clients.
#[derive(Debug, Clone, Default)]
pub struct ClientPolicy {
    /// Whether they show a certificate.
    pub certificate: ClientCertificate,
    /// The authorities that it must be from.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Their lists of revoked ones. With any, each authority that signed a client's certificate must have one.
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl ClientPolicy {
    /// Returns whether every list of revoked certificates is one.
    ///
    /// # Errors
    /// The place of the first that is none, from 0, and why.
    pub fn check_lists(&self, authorities: RootCertStore) -> Result<(), (usize, String)> {
        let (authorities, provider) = (Arc::new(authorities), Arc::new(default_provider()));
        let unfit = |(i, list): (usize, &CertificateRevocationListDer<'static>)| {
            let builder = WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider.clone());
            builder.with_crls([list.clone()]).build().err().map(|error| (i, error.to_string()))
        };
        self.revoked.iter().enumerate().find_map(unfit).map_or(Ok(()), Err)
    }
}

/// Why a configuration cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ServerError {
    /// Something about the authorities of clients.
    #[error("the authorities of clients cannot be used: {0}")]
    Authorities(String),
    /// Something else.
    #[error("no TLS is possible: {0}")]
    Other(#[from] rustls::Error),
}

/// The ready configurations of one listener, shared by all workers. Sessions are resumed by tickets, for this
/// listener and this client policy only (`tickets.rs`).
#[derive(Debug, Clone)]
pub struct Server {
    /// For everybody.
    pub config: Arc<ServerConfig>,
    /// For an authority that checks a challenge (RFC 8737): it shows no certificate, and nothing is resumed.
    pub challenge: Arc<ServerConfig>,
}

impl Server {
    /// Makes the configurations; certificates are asked of the resolver at each handshake.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn new(resolver: Arc<dyn ResolvesServerCert>, options: &ServerOptions) -> Result<Self, ServerError> {
        let provider = Arc::new(default_provider());
        let versions: &[&'static SupportedProtocolVersion] = match options.minimum_version {
            TlsVersion::V12 => &[&TLS13, &TLS12],
            TlsVersion::V13 => &[&TLS13],
        };
        let builder = || ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let mut config = match options.clients.certificate {
            ClientCertificate::None => builder()?.with_no_client_auth(),
            asked => {
                let bad = |error: &dyn std::fmt::Display| ServerError::Authorities(error.to_string());
                let mut roots = RootCertStore::empty();
                for authority in &options.clients.authorities {
                    roots.add(authority.clone()).map_err(|error| bad(&error))?;
                }
                let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .with_crls(options.clients.revoked.iter().cloned())
                    .only_check_end_entity_revocation();
                if asked == ClientCertificate::Optional {
                    verifier = verifier.allow_unauthenticated();
                }
                builder()?.with_client_cert_verifier(verifier.build().map_err(|error| bad(&error))?)
            }
        }
        .with_cert_resolver(resolver.clone());
        config.alpn_protocols.clone_from(&options.protocols);
        config.ticketer = options.tickets.clone();
        // Tickets carry the sessions; nothing is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let mut challenge = builder()?.with_no_client_auth().with_cert_resolver(resolver);
        challenge.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        challenge.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), challenge: Arc::new(challenge) })
    }
}
