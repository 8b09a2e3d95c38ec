//! Who issues certificates, as the keeper sees them.

use crate::control::certificates::schedule::Window;
use crate::control::store::Secret;
use async_trait::async_trait;
use std::sync::Arc;

/// What a certificate is called by its authority: DER content of the issuer's key identifier and of the serial number
/// (RFC 9773 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalId {
    /// The issuer's key identifier.
    pub authority: Vec<u8>,
    /// The serial number.
    pub serial: Vec<u8>,
}

/// A wish for a certificate.
#[derive(Debug, Clone)]
pub struct Order {
    /// The one name that it is to be for.
    pub name: Arc<str>,
    /// Failures in a row so far.
    pub failures: u32,
    /// The certificate that it replaces.
    pub replaces: Option<RenewalId>,
}

/// What was issued.
#[derive(Debug, Clone)]
pub struct Made {
    /// The certificate and those above it, PEM.
    pub chain: String,
    /// Its private key.
    pub key: Secret,
}

/// Why nothing was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// There were too many orders.
    #[error("{0}")]
    Limited(String),
    /// Whoever says which names are welcome says that this one is not.
    #[error("{0}")]
    Unwelcome(String),
    /// Anything else, for people.
    #[error("{0}")]
    Failed(String),
}

/// Issues certificates.
#[async_trait]
pub trait Issuer: std::fmt::Debug + Send + Sync {
    /// Issues one; takes seconds to minutes, and bounds that itself.
    async fn issue(&self, order: &Order) -> Result<Made, IssueError>;

    /// Returns when a certificate should be renewed, and in how many milliseconds to ask again; `None`: it says nothing.
    async fn window(&self, _id: &RenewalId) -> Result<Option<(Window, u64)>, IssueError> {
        Ok(None)
    }

    /// Returns whether a certificate may be ordered, or ordered again, for a name that no configuration lists.
    async fn allows(&self, _name: &str) -> Result<(), IssueError> {
        Err(IssueError::Failed("only names of the configuration".to_owned()))
    }
}
