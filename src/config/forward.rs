//! `[dns.forward]`: the section, its meaning, and the way back.

use crate::config::bounds::{time, within};
use crate::dns::ForwardOptions;
use crate::spec::{Address, Duration, Network, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration as Time;

/// The port of a resolver that names none.
const DNS_PORT: u16 = 53;
const MS: Time = Time::from_millis(1);
/// Two tries of this still end before the 30 s after which clients have long given up.
const MAX_TIMEOUT: Time = Time::from_secs(10);

/// Forwarding of names outside the zone; without this section they are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsForward {
    /// Resolvers that are asked, as `IP` or `IP:PORT`; `system` stands for those of `/etc/resolv.conf`. Two are asked at a
    /// time. Default `["system"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<Upstream>>,
    /// Answers that are kept, up to 1000000; 0 keeps none. Default 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub cache: Option<usize>,
    /// Questions that wait for upstream at a time, 1 to 65536; further ones get SERVFAIL. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_in_flight: Option<usize>,
    /// One try, up to `10s`; after two of them SERVFAIL. Default `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Networks whose clients may have names resolved, others get REFUSED; default loopback, private and link-local ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Network>>,
    /// Networks that no answer from upstream may name: list your own against DNS rebinding. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_answers: Option<Vec<Network>>,
}

/// A resolver that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// Those of `/etc/resolv.conf`.
    System,
    /// One at an address.
    At(SocketAddr),
}

/// Why a text is no resolver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no resolver: write \"system\", or its IP address with or without a port, such as \"127.0.0.53\"")]
pub struct UpstreamError(String);

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        if text == "system" {
            return Ok(Self::System);
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = text.parse().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)));
        let usable = address.ok().filter(|address: &SocketAddr| address.port() != 0 && !address.ip().is_unspecified());
        usable.map(Self::At).ok_or_else(|| UpstreamError(text.to_owned()))
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::At(address) => address.fmt(f),
        }
    }
}

crate::spec::text!(
    Upstream, "Upstream",
    expecting "a resolver, such as \"127.0.0.53:53\", or \"system\"",
    pattern "^(system|[0-9.]+(:[0-9]{1,5})?|\\[[0-9a-fA-F:.]+\\](:[0-9]{1,5})?|[0-9a-fA-F:.]+)$",
    example "127.0.0.53:53"
);

/// Reads the section of a server that listens on `own`.
pub(super) fn read(p: &mut Problems, section: &DnsForward, own: &[SocketAddr]) -> ForwardOptions {
    let defaults = ForwardOptions::default();
    if section.upstreams.as_ref().is_some_and(Vec::is_empty) {
        let hint = "write a resolver or \"system\", or remove [dns.forward] to forward nothing";
        p.unknown("dns.forward.upstreams", "is empty", hint);
    }
    let listed = || section.upstreams.iter().flatten().copied().enumerate();
    for (i, upstream) in listed() {
        let Upstream::At(address) = upstream else { continue };
        if own.iter().any(|own| reaches(*own, address)) {
            let key = crate::spec::KeyPath::default().key("dns.forward.upstreams").index(i);
            let message = format!("{} is this DNS server itself", Address::new(address));
            p.at(&key, message, "a question would go round in circles: write another resolver");
        }
    }
    let networks = |list: &Option<Vec<Network>>| {
        list.as_ref().map(|list| list.iter().map(|network| network.get()).collect::<Vec<_>>())
    };
    ForwardOptions {
        upstreams: listed().filter_map(|(_, upstream)| upstream.address()).collect(),
        system: section.upstreams.is_none() || listed().any(|(_, upstream)| upstream == Upstream::System),
        cache: within(p, "dns.forward.cache", section.cache, defaults.cache, &(0..=1_000_000)),
        max_in_flight: within(
            p,
            "dns.forward.max_in_flight",
            section.max_in_flight,
            defaults.max_in_flight,
            &(1..=65_536),
        ),
        timeout: time(p, "dns.forward.timeout", section.timeout, defaults.timeout, MS..=MAX_TIMEOUT),
        allow: networks(&section.allow).unwrap_or(defaults.allow),
        deny_answers: networks(&section.deny_answers).unwrap_or(defaults.deny_answers),
    }
}

impl Upstream {
    fn address(self) -> Option<SocketAddr> {
        match self {
            Self::System => None,
            Self::At(address) => Some(address),
        }
    }
}

/// Returns whether a question to `address` arrives at a socket that is bound to `own`.
fn reaches(own: SocketAddr, address: SocketAddr) -> bool {
    own.port() == address.port()
        && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
}

/// Writes the section that says the same.
pub(super) fn write(options: &ForwardOptions) -> DnsForward {
    let system = options.system.then_some(Upstream::System);
    let listed = options.upstreams.iter().copied().map(Upstream::At);
    let networks = |list: &[(IpAddr, u8)]| list.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect();
    DnsForward {
        upstreams: Some(listed.chain(system).collect()),
        cache: Some(options.cache),
        max_in_flight: Some(options.max_in_flight),
        timeout: Some(options.timeout.into()),
        allow: Some(networks(&options.allow)),
        deny_answers: Some(networks(&options.deny_answers)),
    }
}

#[cfg(test)]
mod tests {
    use super::Upstream;

    #[test]
    fn reads_the_forms_of_a_resolver() {
        let shown = |text: &str| text.parse::<Upstream>().map(|upstream| upstream.to_string());
        assert_eq!(shown("system").unwrap(), "system");
        assert_eq!(shown("127.0.0.53").unwrap(), "127.0.0.53:53");
        assert_eq!(shown("10.0.0.2:5353").unwrap(), "10.0.0.2:5353");
        assert_eq!(shown("fd00::1").unwrap(), "[fd00::1]:53");
        assert_eq!(shown("[fd00::1]").unwrap(), "[fd00::1]:53");
        assert_eq!(shown("[fd00::1]:54").unwrap(), "[fd00::1]:54");
        for wrong in ["", "dns.example", ":53", "0.0.0.0", "127.0.0.1:0", "127.0.0.1:70000"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
