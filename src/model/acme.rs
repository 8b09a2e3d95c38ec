//! What is said of an ACME authority (RFC 8555).

/// Which authority certificates are ordered from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AcmeDirectory {
    /// Let's Encrypt.
    #[default]
    Production,
    /// Let's Encrypt's authority for tests: nobody trusts its certificates, and its limits are wide.
    Staging,
    /// The one with this directory, `https://…`.
    Url(String),
}

/// How an authority sees that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Challenge {
    /// By a request in clear text to port 80 (RFC 8555 §8.3).
    Http01,
    /// By a TLS handshake with port 443 (RFC 8737).
    TlsAlpn01,
}
