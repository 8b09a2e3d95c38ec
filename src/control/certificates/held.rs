//! A certificate that was issued, read and found to fit: what is served, and what is known of it.

use crate::control::certificates::issuer::{Made, RenewalId};
use crate::control::certificates::schedule::{Window, renew_at};
use crate::control::store::{CertificateRecord, Origin};
use crate::table::certificates::{Certificate, CertificateError};
use std::sync::Arc;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use xxhash_rust::xxh3::xxh3_64;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// The texts are not what they should be.
    #[error(transparent)]
    Unreadable(#[from] CertificateError),
    /// It is for other names.
    #[error("the certificate is not for {0}")]
    OtherName(String),
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// As it is stored.
    pub(crate) record: CertificateRecord,
    /// As it is served.
    pub(crate) certificate: Arc<Certificate>,
    /// The issuer's common name.
    pub(crate) issuer: String,
    /// Hash of it.
    pub(crate) fingerprint: u64,
    /// What its authority calls it.
    pub(crate) id: Option<RenewalId>,
}

impl Held {
    /// Reads what was issued for a name.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn new(name: &str, made: Made, origin: Origin, issued_ms: u64, on_demand: bool) -> Result<Self, Unfit> {
        Self::read(name, CertificateRecord { origin, chain: made.chain, key: made.key, issued_ms, on_demand })
    }

    /// Reads what was stored for a name.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn read(name: &str, record: CertificateRecord) -> Result<Self, Unfit> {
        let certificate = Certificate::from_pem(record.chain.as_bytes(), record.key.reveal().as_bytes())?;
        if !certificate.covers(name) {
            return Err(Unfit::OtherName(name.to_owned()));
        }
        let leaf = certificate.key().cert.first().ok_or(CertificateError::NoCertificate)?;
        let bad = |error: &dyn std::fmt::Display| CertificateError::BadCertificate(error.to_string());
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| bad(&error))?;
        let issuer = parsed.issuer().iter_common_name().next().and_then(|name| name.as_str().ok());
        let issuer = issuer.map_or_else(|| parsed.issuer().to_string(), str::to_owned);
        let (fingerprint, id) = (xxh3_64(leaf), renewal_id(&parsed));
        Ok(Self { record, certificate: Arc::new(certificate), issuer, fingerprint, id })
    }

    /// Returns until when it is valid, in milliseconds since the epoch.
    pub(crate) fn not_after_ms(&self) -> u64 {
        ms(self.certificate.not_after_unix_s())
    }

    /// Returns when to renew it.
    pub(crate) fn renew_at_ms(&self, window: Option<Window>) -> u64 {
        renew_at(ms(self.certificate.not_before_unix_s()), self.not_after_ms(), window, self.fingerprint)
    }
}

fn ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

fn renewal_id(certificate: &X509Certificate<'_>) -> Option<RenewalId> {
    let authority = certificate.iter_extensions().find_map(|one| match one.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(one) => one.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    })?;
    Some(RenewalId { authority, serial: certificate.raw_serial().to_vec() })
}
