//! How a service is named: what its DNS answers hold besides its endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

/// How DNS answers for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSpec {
    /// Whether every name below the service that is no instance's stands for the service, RFC 4592.
    pub wildcard: bool,
    /// Whether its name always leads to its endpoints and never to an address of the service.
    pub headless: bool,
    /// Whether endpoints in the asker's zone are named alone where there are any.
    pub prefer_zone: bool,
    /// Most records in one answer; `None`: all that fit.
    pub answers: Option<u32>,
    /// Strings of its TXT record, each at most 255 octets.
    pub txt: Vec<Arc<str>>,
}

/// What is said about an instance, for names and for whoever reads it; Weir itself acts on zone and tags only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traits {
    /// Where it is: a data center, a rack.
    pub zone: Option<Arc<str>>,
    /// Tags, each one DNS label.
    pub tags: Vec<Arc<str>>,
    /// Anything else: the TXT record of its name, a string `key=value` each.
    pub meta: BTreeMap<Arc<str>, Arc<str>>,
}
