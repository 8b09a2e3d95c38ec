//! `[service.dns]`, and what is said about an endpoint: zone, tags, anything else.

use crate::model::{DnsSpec, Traits, parse_label};
use crate::spec::{KeyPath, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Longest label of a name.
const LABEL: usize = 63;
/// Longest string of a TXT record, RFC 1035 §3.3.14.
const STRING: usize = 255;
/// Most strings, tags or pairs: all of them still fit in a datagram of the usual size.
const MOST: usize = 16;
/// Most records that `answers` may ask for; more do not fit in any answer.
const MOST_ANSWERS: u32 = 4000;

/// How DNS answers for a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DnsDefinition)]
pub struct ServiceDns {
    /// Whether the service's name always leads to its endpoints and never to an address of the service itself; default
    /// `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headless: Option<bool>,
    /// Whether every name below the service that is no instance's stands for the service; default `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wildcard: Option<bool>,
    /// Whether clients in a view with a zone are told the endpoints of that zone alone, where there are any; default `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_zone: Option<bool>,
    /// Most records in one answer, 1 to 4000, drawn by weight; all that fit when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4000))]
    pub answers: Option<u32>,
    /// Strings of the service's TXT record, at most 16 of 255 octets; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txt: Option<Vec<String>>,
}

impl ServiceDns {
    /// Converts the section.
    pub(super) fn read(&self, p: &mut Problems) -> DnsSpec {
        if self.answers.is_some_and(|answers| !(1..=MOST_ANSWERS).contains(&answers)) {
            let answers = self.answers.unwrap_or_default();
            p.add("dns.answers", format!("is {answers}"), format!("write 1 to {MOST_ANSWERS}"));
        }
        let txt = self.txt.as_deref().unwrap_or_default();
        bound(p, "dns.txt", txt.len());
        for (i, _) in txt.iter().enumerate().filter(|(_, text)| text.len() > STRING || text.is_empty()) {
            let message = format!("is no string of 1 to {STRING} octets");
            p.at(&KeyPath::default().key("dns.txt").index(i), message, "a TXT record holds no longer one: divide it");
        }
        DnsSpec {
            wildcard: self.wildcard.unwrap_or_default(),
            headless: self.headless.unwrap_or_default(),
            prefer_zone: self.prefer_zone.unwrap_or_default(),
            answers: self.answers,
            txt: txt.iter().map(|text| text.as_str().into()).collect(),
        }
    }

    /// Writes the section that says the same.
    pub(super) fn write(spec: &DnsSpec) -> Self {
        Self {
            headless: Some(spec.headless),
            wildcard: Some(spec.wildcard),
            prefer_zone: Some(spec.prefer_zone),
            answers: spec.answers,
            txt: Some(spec.txt.iter().map(|text| text.to_string()).collect()),
        }
    }
}

/// What is said about an endpoint, as written.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Where it is.
    pub zone: Option<&'a str>,
    /// Its tags.
    pub tags: &'a [String],
    /// Anything else.
    pub meta: &'a BTreeMap<String, String>,
}

impl Said<'_> {
    /// Converts it; `None` when nothing is said.
    pub fn read(&self, p: &mut Problems) -> Option<Arc<Traits>> {
        let hint = "use one label of lower-case letters, digits and hyphens";
        if let Some(Err(error)) = self.zone.map(|zone| parse_label(zone, LABEL)) {
            p.add("zone", error.to_string(), hint);
        }
        bound(p, "tags", self.tags.len());
        for (i, tag) in self.tags.iter().enumerate() {
            if let Err(error) = parse_label(tag, LABEL) {
                p.at(&KeyPath::default().key("tags").index(i), error.to_string(), hint);
            }
        }
        bound(p, "meta", self.meta.len());
        for (key, value) in self.meta {
            let whole = key.len() + 1 + value.len();
            if key.is_empty() || key.contains('=') || whole > STRING {
                let message = format!("{key:?} and its value are no string key=value of at most {STRING} octets");
                p.add("meta", message, "a TXT record holds each as one string");
            }
        }
        let nothing = self.zone.is_none() && self.tags.is_empty() && self.meta.is_empty();
        (!nothing).then(|| {
            let meta = self.meta.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into()));
            Arc::new(Traits {
                zone: self.zone.map(Into::into),
                tags: self.tags.iter().map(|tag| tag.as_str().into()).collect(),
                meta: meta.collect(),
            })
        })
    }
}

/// Returns the parts of what is said about an endpoint, as they are written.
pub fn written(traits: Option<&Traits>) -> (Option<String>, Vec<String>, BTreeMap<String, String>) {
    let Some(traits) = traits else { return Default::default() };
    let meta = traits.meta.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    (traits.zone.as_deref().map(str::to_owned), traits.tags.iter().map(|tag| tag.to_string()).collect(), meta.collect())
}

fn bound(p: &mut Problems, key: &str, count: usize) {
    if count > MOST {
        p.add(key, format!("has {count} entries"), format!("write at most {MOST}: more do not fit in an answer"));
    }
}
