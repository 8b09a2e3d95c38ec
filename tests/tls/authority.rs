//! An authority of the tests, and what it issues.

use super::support::process::Folder;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

/// An authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "tests");
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    /// Returns its own certificate.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate for names with an elliptic key.
    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &PKCS_ECDSA_P256_SHA256, |_| {})
    }

    /// Issues a certificate after a change of its parameters.
    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Issues a certificate for a client, with a common name, a URI and a serial number.
    pub(crate) fn issue_client(&self, name: &str, serial: u64) -> Pair {
        self.issue_with(&[], &PKCS_ECDSA_P256_SHA256, |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names.push(SanType::URI(format!("spiffe://tests/{name}").try_into().unwrap()));
            params.serial_number = Some(SerialNumber::from(serial));
        })
    }

    /// Issues a certificate that has expired.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &PKCS_ECDSA_P256_SHA256, |params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        })
    }

    /// Signs a list of revoked serial numbers.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Pair {
    /// Writes it as `NAME.pem` and `NAME.key`; returns the entry for the configuration.
    pub(crate) fn write(&self, folder: &Folder, name: &str) -> String {
        let certificate = folder.write(&format!("{name}.pem"), &self.certificate);
        let key = folder.write(&format!("{name}.key"), &self.key);
        format!("{{ certificate = {certificate:?}, key = {key:?} }}")
    }
}
