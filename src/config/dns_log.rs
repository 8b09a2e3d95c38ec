//! `[dns.log]` and `dns.nsid`: what the server says of questions and of itself; their meaning, and the way back.

use crate::config::bounds::within;
use crate::dns::QueryLogOptions;
use crate::spec::Problems;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const MAX: usize = 1_000_000;
/// Longest identity, in octets.
const MAX_NSID: usize = 255;

/// Which DNS questions are logged; without this section none is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsLog {
    /// One of so many questions, drawn by chance, 1 to 1000000; 1: each. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub one_in: Option<usize>,
    /// Lines in a second, 1 to 1000000; what is above is left out and counted. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_per_second: Option<usize>,
}

/// Reads the section; the result counts only when nothing was recorded.
pub(super) fn read(p: &mut Problems, section: &DnsLog) -> QueryLogOptions {
    let defaults = QueryLogOptions::default();
    let mut number = |name: &str, value, default: u32| {
        let found = within(p, &format!("dns.log.{name}"), value, default as usize, &(1..=MAX));
        u32::try_from(found).unwrap_or(default)
    };
    QueryLogOptions {
        one_in: number("one_in", section.one_in, defaults.one_in),
        max_per_second: number("max_per_second", section.max_per_second, defaults.max_per_second),
    }
}

/// Reads what the server calls itself.
pub(super) fn read_nsid(p: &mut Problems, text: Option<&str>) -> Option<Arc<str>> {
    let text = text?;
    if text.is_empty() || text.len() > MAX_NSID || !text.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ')
    {
        p.add("dns.nsid", "is no name of 1 to 255 printable characters", "write a short name, such as \"dns-1\"");
    }
    Some(text.into())
}

/// Writes the section that says the same.
pub(super) fn write(options: &QueryLogOptions) -> DnsLog {
    let number = |value: u32| usize::try_from(value).ok();
    DnsLog { one_in: number(options.one_in), max_per_second: number(options.max_per_second) }
}
