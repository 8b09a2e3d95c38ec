//! Names that stand for other names: `[[dns.alias]]`, exact and wildcard.
//!
//! An alias is a name in a namespace, as a service is, and is looked for where no service has the name. It leads to a
//! service, whose name is then written in the schema that was asked, or to a name anywhere. A wildcard (`*`, `*.apps`) stands
//! for what does not exist below a name that does, RFC 4592.

use crate::dns::options::{AliasOptions, AliasTargetOptions};
use crate::dnswire::{parse_name, skip_label};
use crate::model::ServiceName;
use std::collections::{HashMap, HashSet};

/// Where an alias leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum To {
    /// A service or another alias, by its name in the table.
    Service(Box<[u8]>),
    /// A wire name that is no business of the schemas.
    Name(Box<[u8]>),
}

/// One alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) to: To,
    /// TTL of its CNAME, in seconds.
    pub(crate) ttl_seconds: u32,
}

/// The aliases of a server by their names in the table, without `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases {
    exact: HashMap<Box<[u8]>, Alias>,
    below: HashMap<Box<[u8]>, Alias>,
    /// Names that exist because of names below them.
    holders: HashSet<Box<[u8]>>,
}

impl Aliases {
    /// Makes the aliases of the options. What is no name is left out; `config` refuses it.
    pub fn new(options: &[AliasOptions]) -> Self {
        let mut aliases = Self::default();
        for option in options {
            let Some((wildcard, key)) = key(option) else { continue };
            let to = match &option.to {
                AliasTargetOptions::Service(name) => To::Service(service_key(name)),
                AliasTargetOptions::Name(name) => match parse_name(name) {
                    Some(name) => To::Name(name.into()),
                    None => continue,
                },
            };
            let ttl_seconds = u32::try_from(option.ttl.as_secs()).unwrap_or(u32::MAX);
            let mut holder = if wildcard { Some(&key[..]) } else { skip_label(&key) };
            while let Some(name) = holder.filter(|name| !name.is_empty()) {
                aliases.holders.insert(name.into());
                holder = skip_label(name);
            }
            let map = if wildcard { &mut aliases.below } else { &mut aliases.exact };
            map.insert(key.into(), Alias { to, ttl_seconds });
        }
        aliases
    }

    /// Returns whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty()
    }

    /// Returns the alias of this name.
    pub(crate) fn exact(&self, key: &[u8]) -> Option<&Alias> {
        self.exact.get(key)
    }

    /// Returns the wildcard directly below this name.
    pub(crate) fn below(&self, key: &[u8]) -> Option<&Alias> {
        self.below.get(key)
    }

    /// Returns whether names below this one make it exist.
    pub(crate) fn holds(&self, key: &[u8]) -> bool {
        self.holders.contains(key)
    }
}

/// Returns the name in the table of a service.
pub(crate) fn service_key(name: &ServiceName) -> Box<[u8]> {
    let mut key = parse_name(&format!("{}.{}", name.name(), name.namespace())).unwrap_or_default();
    key.pop();
    key.into()
}

/// Returns whether it is a wildcard, and its name in the table without `*`.
fn key(option: &AliasOptions) -> Option<(bool, Vec<u8>)> {
    let name = option.name.strip_prefix('*');
    let wildcard = name.is_some();
    let name = name.map_or(option.name.as_str(), |rest| rest.trim_start_matches('.'));
    let text = if name.is_empty() { option.namespace.to_string() } else { format!("{name}.{}", option.namespace) };
    let mut key = parse_name(&text)?;
    key.pop();
    Some((wildcard, key))
}

#[cfg(test)]
mod tests {
    use super::{Aliases, To};
    use crate::dns::options::{AliasOptions, AliasTargetOptions};
    use crate::model::ServiceName;
    use std::time::Duration;

    fn alias(name: &str, to: AliasTargetOptions) -> AliasOptions {
        AliasOptions { name: name.to_owned(), namespace: "prod".into(), to, ttl: Duration::from_secs(7) }
    }

    #[test]
    fn exact_and_wildcard_names_hold_what_is_above_them() {
        let aliases = Aliases::new(&[
            alias("db", AliasTargetOptions::Service(ServiceName::parse("data/postgres").unwrap())),
            alias("*.apps", AliasTargetOptions::Name("ingress.example.com".to_owned())),
            alias("*", AliasTargetOptions::Name("a..b".to_owned())),
        ]);
        let db = aliases.exact(b"\x02db\x04prod").unwrap();
        assert_eq!((&db.to, db.ttl_seconds), (&To::Service(b"\x08postgres\x04data"[..].into()), 7));
        assert!(aliases.below(b"\x04apps\x04prod").is_some());
        assert!(aliases.below(b"\x04prod").is_none(), "its target is no name");
        assert!(aliases.holds(b"\x04apps\x04prod") && aliases.holds(b"\x04prod") && !aliases.holds(b"\x02db\x04prod"));
        assert!(Aliases::new(&[]).is_empty() && !aliases.is_empty());
    }
}
