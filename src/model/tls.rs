//! TLS as the definitions say it: files and rules, not yet read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a listener speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSpec {
    /// Its certificates; the first is for clients that name no host, or one that no certificate is for.
    pub certificates: Vec<CertificateFiles>,
    /// Names that certificates are obtained for from an ACME authority.
    pub acme: Vec<Arc<str>>,
    /// Names that the internal authority issues for.
    pub internal: Vec<Arc<str>>,
    /// Whether certificates are ordered for names that clients ask for.
    pub on_demand: bool,
    /// The oldest version that it speaks.
    pub minimum_version: TlsVersion,
    /// Whether clients show a certificate.
    pub client_certificate: ClientCertificate,
    /// File of the authorities that clients' certificates are checked against.
    pub client_ca: Option<PathBuf>,
    /// File of revoked certificates, by those authorities.
    pub client_crl: Option<PathBuf>,
    /// How long tickets are made with one key; those of the key before are taken too.
    pub ticket_rotation: Duration,
    /// `max-age` of `Strict-Transport-Security` (RFC 6797); zero: no such field.
    pub hsts: Duration,
}

impl TlsSpec {
    /// How long tickets are made with one key where nothing else is said, and the longest.
    pub const TICKET_ROTATION: Duration = Duration::from_secs(6 * 3600);
}

/// A certificate and its key in files, PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V12,
    /// TLS 1.3 (RFC 8446).
    V13,
}

/// Whether a listener's clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientCertificate {
    /// They are not asked.
    #[default]
    None,
    /// They are asked; one that is shown must be valid.
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

/// How Weir speaks TLS to the endpoints of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UpstreamTlsSpec {
    /// File of the authorities that certificates are checked against; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Their text in PEM, where another Weir told it: then no file is read for them.
    pub authorities: Option<Arc<str>>,
    /// The name that certificates must be for, and SNI; `None`: the endpoint's address.
    pub server_name: Option<Arc<str>>,
    /// What Weir shows when asked for a certificate.
    pub certificate: Option<CertificateFiles>,
    /// Whether certificates are checked.
    pub verify: Verify,
}

/// Whether certificates of endpoints are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verify {
    /// Chain, validity and name.
    #[default]
    Full,
    /// Nothing: anybody in between can read and change everything.
    Off,
}
