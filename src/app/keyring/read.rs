//! What listeners name, read: pairs of certificate and key, and what their clients are checked against.

use crate::model::{CertificateFiles, ClientCertificate, TlsSpec};
use crate::net::tls::files::{authorities, certificates, private_key, read, revocation_lists};
use crate::net::tls::{BadFile, ClientPolicy};
use crate::table::certificates::{Certificate, CertificateError};
use rustls::RootCertStore;
use xxhash_rust::xxh3::xxh3_64;

/// A file that cannot be used, with the key that names it.
pub(super) type Fault = (&'static str, BadFile);

/// Reads a certificate with its key; the keys of its faults are `certificate` and `key`.
pub(super) fn pair(files: &CertificateFiles) -> Result<(u64, Certificate), Fault> {
    let CertificateFiles { certificate, key } = files;
    let chain_text = read(certificate).map_err(|bad| ("certificate", bad))?;
    let key_text = read(key).map_err(|bad| ("key", bad))?;
    let hash = xxh3_64(&chain_text) ^ xxh3_64(&key_text).rotate_left(1);
    let chain = certificates(certificate, &chain_text).map_err(|bad| ("certificate", bad))?;
    let secret = private_key(key, &key_text).map_err(|bad| ("key", bad))?;
    use CertificateError as E;
    let read = Certificate::new(chain, secret).map_err(|error| match error {
        E::Mismatch => ("key", BadFile::new(key, error, "put both files of one pair there, each by a rename")),
        E::NoKey | E::BadKey(_) => ("key", BadFile::new(key, error, "write an ECDSA, Ed25519 or RSA key")),
        E::NoCertificate | E::BadCertificate(_) => {
            ("certificate", BadFile::new(certificate, error, "write the certificate again"))
        }
    })?;
    Ok((hash, read))
}

/// Reads what a listener's clients are checked against, with a hash of it.
pub(super) fn policy(spec: &TlsSpec) -> Result<(u64, ClientPolicy), Fault> {
    let certificate = spec.client_certificate;
    if certificate == ClientCertificate::None {
        return Ok((0, ClientPolicy::default()));
    }
    let mut hash = 1 + certificate as u64;
    let mut policy = ClientPolicy { certificate, ..ClientPolicy::default() };
    let mut roots = RootCertStore::empty();
    if let Some(path) = &spec.client_ca {
        let fault = |bad| ("tls.client_ca", bad);
        let text = read(path).map_err(fault)?;
        hash ^= xxh3_64(&text);
        policy.authorities = certificates(path, &text).map_err(fault)?;
        roots = authorities(path, policy.authorities.iter().cloned()).map_err(fault)?;
    }
    if let Some(path) = &spec.client_crl {
        let fault = |bad| ("tls.client_crl", bad);
        let text = read(path).map_err(fault)?;
        hash ^= xxh3_64(&text).rotate_left(1);
        policy.revoked = revocation_lists(path, &text).map_err(fault)?;
        policy.check_lists(roots).map_err(|(i, error)| {
            let problem = format!("its list {} cannot be used: {error}", i + 1);
            fault(BadFile::new(path, problem, "have the authority sign the list again"))
        })?;
    }
    Ok((hash, policy))
}
