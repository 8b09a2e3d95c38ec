//! Why a handshake failed, as a closed list of reason codes.

use rustls::{CertificateError, Error, PeerIncompatible};
use std::io;

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The other side closed or reset the connection.
    Gone,
    /// What came is no TLS.
    NotTls,
    /// A message was malformed, too long or out of order.
    BadMessage,
    /// The other side speaks only versions that are refused.
    Version,
    /// The two sides have no way to encrypt, sign or agree on keys in common.
    Incompatible,
    /// The two sides have no application protocol in common.
    NoProtocol,
    /// There is no certificate for the client: none at all, or none that it can check.
    NoCertificate,
    /// A certificate of the other side was asked for and not shown.
    CertificateMissing,
    /// The certificate of the other side is revoked.
    CertificateRevoked,
    /// The certificate of the other side has expired or is not valid yet.
    CertificateExpired,
    /// The certificate of the other side is not acceptable for another reason: authority, name, purpose, signature.
    CertificateInvalid,
    /// The other side gave up with an alert: it may not like our certificate.
    Alert,
    /// It took too long.
    Timeout,
    /// Too many handshakes were under way, and this was the oldest.
    Crowded,
    /// Something in Weir.
    Internal,
}

impl Refusal {
    /// Returns the reason code for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Gone => "client_gone",
            Self::NotTls => "not_tls",
            Self::BadMessage => "bad_message",
            Self::Version => "version",
            Self::Incompatible => "incompatible",
            Self::NoProtocol => "no_protocol",
            Self::NoCertificate => "no_certificate",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateRevoked => "certificate_revoked",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Alert => "alert",
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::Internal => "internal",
        }
    }

    /// Reads the reason from an error of a handshake.
    pub(super) fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return Self::Gone };
        match error {
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version,
            Error::PeerIncompatible(_) => Self::Incompatible,
            Error::NoApplicationProtocol => Self::NoProtocol,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(CertificateError::Revoked) => Self::CertificateRevoked,
            Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => Self::CertificateExpired,
            Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) => Self::CertificateInvalid,
            Error::AlertReceived(_) => Self::Alert,
            // What a resolver without an answer leads to.
            Error::General(what) if what.contains("certificate") => Self::NoCertificate,
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::DecryptError
            | Error::PeerSentOversizedRecord => Self::BadMessage,
            _ => Self::Internal,
        }
    }
}
