//! `[dns.rate_limit]`: the section, its meaning, and the way back.

use crate::config::bounds::within;
use crate::dns::RateLimitOptions;
use crate::spec::{Network, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many answers over UDP a source network gets for which no cookie shows that it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsRateLimit {
    /// Answers to one network in a second, up to 1000000; 0: no limit. Default 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub answers_per_second: Option<usize>,
    /// Each so-manieth answer above that is an empty one that sends the client to TCP, up to 100; the others are not sent. 0:
    /// none is. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub slip: Option<usize>,
    /// Length of the prefix that makes an IPv4 network, 1 to 32; default 24.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub ipv4_prefix: Option<usize>,
    /// The same for IPv6, 1 to 128; default 56.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: Option<usize>,
    /// Networks without a limit; default loopback, private and link-local ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exempt: Option<Vec<Network>>,
}

/// Reads the section; the result counts only when nothing was recorded.
pub(super) fn read(p: &mut Problems, section: &DnsRateLimit) -> RateLimitOptions {
    let defaults = RateLimitOptions::default();
    let mut number = |name: &str, value, default: u32, range| {
        let found = within(p, &format!("dns.rate_limit.{name}"), value, default as usize, &range);
        u32::try_from(found).unwrap_or(default)
    };
    let prefix = |bits: u32| u8::try_from(bits).unwrap_or(u8::MAX);
    let exempt = section.exempt.as_ref().map(|list| list.iter().map(|network| network.get()).collect());
    RateLimitOptions {
        answers_per_second: number(
            "answers_per_second",
            section.answers_per_second,
            defaults.answers_per_second,
            0..=1_000_000,
        ),
        slip: number("slip", section.slip, defaults.slip, 0..=100),
        ipv4_prefix: prefix(number("ipv4_prefix", section.ipv4_prefix, defaults.ipv4_prefix.into(), 1..=32)),
        ipv6_prefix: prefix(number("ipv6_prefix", section.ipv6_prefix, defaults.ipv6_prefix.into(), 1..=128)),
        exempt: exempt.unwrap_or(defaults.exempt),
    }
}

/// Writes the section that says the same.
pub(super) fn write(options: &RateLimitOptions) -> DnsRateLimit {
    DnsRateLimit {
        answers_per_second: Some(options.answers_per_second as usize),
        slip: Some(options.slip as usize),
        ipv4_prefix: Some(options.ipv4_prefix.into()),
        ipv6_prefix: Some(options.ipv6_prefix.into()),
        exempt: Some(options.exempt.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect()),
    }
}
