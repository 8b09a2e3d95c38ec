//! One certificate with its key: read, checked against each other, and what it says of itself.

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, SignatureAlgorithm};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate chain with its private key, and what a listener needs to know of it.
#[derive(Debug, Clone)]
pub struct Certificate {
    names: Vec<Box<str>>,
    key: Arc<CertifiedKey>,
    not_before_unix_s: i64,
    not_after_unix_s: i64,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text holds no certificate, or one that is cut off.
    #[error("no certificate in it: write PEM, the server's own certificate first")]
    NoCertificate,
    /// The text holds no private key.
    #[error("no private key in it: write PEM, PKCS #8, PKCS #1 or SEC 1, without a passphrase")]
    NoKey,
    /// The key is of a kind that is not supported, or damaged.
    #[error("the private key cannot be used: {0}")]
    BadKey(String),
    /// Key and certificate do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The certificate is damaged.
    #[error("the certificate cannot be read: {0}")]
    BadCertificate(String),
}

impl Certificate {
    /// Reads a chain and a key from PEM texts.
    ///
    /// # Errors
    /// [`CertificateError`], also when the two do not belong together. An expired one is none: see [`Self::is_valid_at`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| CertificateError::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        Self::new(chain, key)
    }

    /// Takes a chain, the server's own certificate first, and its key.
    ///
    /// # Errors
    /// As of [`Self::from_pem`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError::NoCertificate)?;
        let (names, not_before_unix_s, not_after_unix_s) = describe(leaf)?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
            Error::InconsistentKeys(_) => CertificateError::Mismatch,
            error => CertificateError::BadKey(error.to_string()),
        })?;
        Ok(Self { names, key: Arc::new(key), not_before_unix_s, not_after_unix_s })
    }

    /// Returns the DNS names and addresses that it is for, in lower case, `*.` included.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Returns chain and key as handshakes use them.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// Returns since when it is valid, seconds since 1970.
    pub fn not_before_unix_s(&self) -> i64 {
        self.not_before_unix_s
    }

    /// Returns the last second that it is valid in, since 1970.
    pub fn not_after_unix_s(&self) -> i64 {
        self.not_after_unix_s
    }

    /// Returns whether it is valid at a time, seconds since 1970.
    pub fn is_valid_at(&self, unix_s: i64) -> bool {
        (self.not_before_unix_s..=self.not_after_unix_s).contains(&unix_s)
    }

    /// Returns whether it says that it is for a host: exact, or by a `*.` in the place of one label (RFC 6125 §6.4.3). The
    /// host is in lower case.
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => **name == *host,
        })
    }

    /// Returns whether its key is elliptic: a third of the work of RSA, and shorter.
    pub fn is_elliptic(&self) -> bool {
        self.key.key.algorithm() != SignatureAlgorithm::RSA
    }
}

/// Returns names and validity as a certificate says.
fn describe(leaf: &CertificateDer<'_>) -> Result<(Vec<Box<str>>, i64, i64), CertificateError> {
    let bad = |error: &dyn std::fmt::Display| CertificateError::BadCertificate(error.to_string());
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| bad(&error))?;
    let listed = parsed.subject_alternative_name().map_err(|error| bad(&error))?;
    let names = listed.iter().flat_map(|listed| &listed.value.general_names).filter_map(name_of).collect();
    let validity = parsed.validity();
    Ok((names, validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn name_of(name: &GeneralName<'_>) -> Option<Box<str>> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        GeneralName::IPAddress(octets) => {
            let address = <[u8; 4]>::try_from(*octets)
                .map(std::net::IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*octets).map(std::net::IpAddr::from));
            address.ok().map(|address| address.to_string().into())
        }
        _ => None,
    }
}

/// Returns from when to when a certificate is valid, seconds since 1970; `None` where it cannot be read.
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Returns subject and alternative names of a certificate for people, such as `CN=a,O=b` and `DNS:a, URI:spiffe://b`; empty
/// where it cannot be read. The text may hold any characters.
pub fn subject(certificate: &[u8]) -> (String, String) {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Default::default() };
    let listed = parsed.subject_alternative_name().ok().flatten();
    let show = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        GeneralName::IPAddress(_) => name_of(name).map(|address| format!("IP:{address}")),
        _ => None,
    };
    let names: Vec<String> = listed.iter().flat_map(|listed| &listed.value.general_names).filter_map(show).collect();
    (parsed.subject().to_string(), names.join(", "))
}
