//! The internal authority: certificates for private names, from a root of our own.
//!
//! The root is made once and kept in the store; who trusts it (`weir certificates ca` prints it) trusts every certificate of
//! this Weir. Certificates live for a day, so that none needs to be revoked. Invariant: a root is on the disk before a
//! certificate of it is served.

use crate::clock;
use crate::control::certificates::{IssueError, Issuer, Made, Order};
use crate::control::store::{Change, RootRecord, Secret, Store, StoreError};
use async_trait::async_trait;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer as Signer, KeyPair,
    KeyUsagePurpose,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the root is valid: ten years.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a certificate is valid: short, so that none needs to be revoked.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A certificate is valid from this part of its lifetime ago, for clocks that are behind.
const BACKDATED: u32 = 24;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    /// The root could not be made, or what is stored is none.
    #[error("the root of the internal authority is of no use: {0}")]
    Root(#[from] rcgen::Error),
    /// The root could not be stored.
    #[error("the root of the internal authority could not be stored: {0}")]
    Store(#[from] StoreError),
}

/// Signs certificates for private names.
pub(super) struct Authority {
    certificate: String,
    signer: Signer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Takes the root that is stored, or makes one and stores it.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub(super) async fn open(store: &Store, stored: Option<RootRecord>) -> Result<Self, AuthorityError> {
        let root = match stored {
            Some(root) => root,
            None => {
                let root = make_root(store.id(), clock::unix_ms())?;
                store.commit(vec![Change::PutRoot(root.clone())]).await?;
                root
            }
        };
        let key = KeyPair::from_pem(root.key.reveal())?;
        let signer = Signer::from_ca_cert_pem(&root.certificate, key)?;
        Ok(Self { certificate: root.certificate, signer })
    }

    /// Returns the root in PEM.
    pub(super) fn root(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for one name; returns chain and key.
    fn sign(&self, name: &str, now_ms: u64) -> Result<Made, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        let backdated = LIFETIME / BACKDATED;
        params.not_before = (at(now_ms) - backdated).into();
        params.not_after = (at(now_ms) + (LIFETIME - backdated)).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.signer)?;
        Ok(Made { chain: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }
}

#[async_trait]
impl Issuer for Authority {
    async fn issue(&self, order: &Order) -> Result<Made, IssueError> {
        self.sign(&order.name, clock::unix_ms()).map_err(|error| IssueError::Failed(error.to_string()))
    }
}

fn at(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn make_root(id: &str, now_ms: u64) -> Result<RootRecord, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Weir internal authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(now_ms).into();
    params.not_after = (at(now_ms) + ROOT_LIFETIME).into();
    let certificate = params.self_signed(&key)?;
    Ok(RootRecord { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
}
