//! Names: parsed once, cheap to clone, impossible to hold invalid.

use std::fmt;
use std::sync::Arc;

/// Longest service name in octets, so that `<service>-<6 characters>` is still one DNS label (details: RFC 1035 §2.3.4).
const MAX_SERVICE_OCTETS: usize = 50;
/// Longest DNS label in octets, RFC 1035 §2.3.4.
const MAX_LABEL_OCTETS: usize = 63;
/// The namespace that is meant when none is written.
const DEFAULT_NAMESPACE: &str = "default";

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The name is longer than its limit.
    #[error("name {name:?} is longer than {limit} characters")]
    TooLong {
        /// The name as written.
        name: String,
        /// The limit in octets.
        limit: usize,
    },
    /// The name has a character that no DNS label may have here.
    #[error("name {name:?} may hold only a-z, 0-9 and inner hyphens")]
    Character {
        /// The name as written.
        name: String,
    },
}

/// Checks that `text` is one lower-case DNS label of at most `limit` octets (RFC 1123 §2.1 without upper case).
///
/// # Errors
/// [`NameError`] when it is empty, too long or has another character.
pub fn parse_label(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { name: text.to_owned(), limit });
    }
    let inner = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !inner || text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Character { name: text.to_owned() });
    }
    Ok(())
}

/// A service's name inside its namespace; shown as `name` in the default namespace, else as `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    full: Arc<str>,
    slash: u8,
}

impl ServiceName {
    /// Parses `name` or `namespace/name`.
    ///
    /// # Errors
    /// [`NameError`] for a part that is no DNS label, or a service name above 50 characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        Self::new_in(namespace, name)
    }

    /// Builds a name from its two parts.
    ///
    /// # Errors
    /// As [`ServiceName::parse`].
    pub fn new_in(namespace: &str, name: &str) -> Result<Self, NameError> {
        parse_label(namespace, MAX_LABEL_OCTETS)?;
        parse_label(name, MAX_SERVICE_OCTETS)?;
        let slash = u8::try_from(namespace.len()).unwrap_or(u8::MAX);
        Ok(Self { full: format!("{namespace}/{name}").into(), slash })
    }

    /// Returns the namespace, one DNS label.
    pub fn namespace(&self) -> &str {
        self.full.get(..usize::from(self.slash)).unwrap_or_default()
    }

    /// Returns the name inside the namespace, one DNS label.
    pub fn name(&self) -> &str {
        self.full.get(usize::from(self.slash) + 1..).unwrap_or_default()
    }

    /// Returns the text as users write and read it.
    pub fn as_str(&self) -> &str {
        if self.namespace() == DEFAULT_NAMESPACE { self.name() } else { &self.full }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An instance's id: `<service>-<6 base32>` for what Weir starts; any DNS label for what registers itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Parses one DNS label.
    ///
    /// # Errors
    /// [`NameError`] when it is none.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_label(text, MAX_LABEL_OCTETS)?;
        Ok(Self(text.into()))
    }

    /// Makes the id of a new instance from 30 random bits: `<service>-<6 base32 characters>`.
    pub fn random(service: &ServiceName, random: u64) -> Self {
        const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let suffix: String = (0..6)
            .map(|i| char::from(BASE32.get(((random >> (5 * i)) & 31) as usize).copied().unwrap_or(b'a')))
            .collect();
        Self(format!("{}-{suffix}", service.name()).into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the machine that runs an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Parses one DNS label.
    ///
    /// # Errors
    /// [`NameError`] when it is none.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        parse_label(text, MAX_LABEL_OCTETS)?;
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{InstanceId, NameError, ServiceName, parse_label};

    #[test]
    fn reads_a_bare_and_a_qualified_name() {
        let bare = ServiceName::parse("web").unwrap();
        assert_eq!((bare.namespace(), bare.name(), bare.to_string()), ("default", "web", "web".to_owned()));
        let other = ServiceName::parse("staging/web").unwrap();
        assert_eq!((other.namespace(), other.name(), other.to_string()), ("staging", "web", "staging/web".to_owned()));
        assert_ne!(bare, other);
        assert_eq!(bare, ServiceName::parse("default/web").unwrap());
    }

    #[test]
    fn refuses_what_is_no_label() {
        assert_eq!(parse_label("", 63), Err(NameError::Empty));
        for bad in ["Web", "we_b", "-web", "web-", "a.b", "a b", "ä"] {
            assert!(matches!(ServiceName::parse(bad), Err(NameError::Character { .. })), "{bad}");
        }
        assert!(matches!(ServiceName::parse(&"a".repeat(51)), Err(NameError::TooLong { limit: 50, .. })));
        assert!(ServiceName::parse(&"a".repeat(50)).is_ok());
        assert!(ServiceName::parse("a/b/c").is_err());
    }

    #[test]
    fn a_random_id_is_one_label_of_the_service() {
        let service = ServiceName::parse(&format!("x/{}", "a".repeat(50))).unwrap();
        let id = InstanceId::random(&service, u64::MAX);
        assert!(InstanceId::parse(id.as_str()).is_ok());
        assert!(id.as_str().ends_with("-777777"));
    }
}
