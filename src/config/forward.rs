//! `[dns.forward]`: the section, its meaning, and the way back.

use crate::config::bounds::{size, time, within};
use crate::dns::{ForwardOptions, ForwardZoneOptions, ServerOptions};
use crate::model::parse_label;
use crate::spec::{Address, Duration, KeyPath, Network, Problems, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration as Time;

/// The ports of resolvers that name none: DNS, over TLS, over HTTPS.
const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;
/// The path of a resolver over HTTPS that names none, RFC 8484 §4.1.1.
const DNS_PATH: &str = "/dns-query";
const MS: Time = Time::from_millis(1);
/// Two tries of this still end before the 30 s after which clients have long given up.
const MAX_TIMEOUT: Time = Time::from_secs(10);
/// RFC 8767 §5 suggests at most three days.
const MAX_STALE: Time = Time::from_secs(3 * 86_400);
const MAX_CACHE_BYTES: usize = 4 * 1024 * 1024 * 1024;
/// Longest zone, with the dots between its labels.
const MAX_ZONE_OCTETS: usize = 253;

/// Forwarding of names outside the zone; without this section they are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsForward {
    /// Resolvers that are asked: `IP` or `IP:PORT`, `tls://IP:PORT#NAME`, `https://IP:PORT/PATH#NAME`, where NAME is what the
    /// certificate must be for; `system` stands for those of `/etc/resolv.conf`. The quickest is asked first. Default
    /// `["system"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<Resolver>>,
    /// File of the authorities that certificates of resolvers are checked against; default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// A file of names and addresses that is asked first, or `off`; default `/etc/hosts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<String>,
    /// Room for answers that are kept, `0B` to `4GiB`; `0B` keeps none. Default `16MiB`, some 40000 names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Size>,
    /// How long after its TTL an answer is still given when no resolver answers, up to `3d`; `0s`: never. Default `1h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Duration>,
    /// Questions that wait for resolvers at a time, 1 to 65536; further ones get SERVFAIL. Default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_in_flight: Option<usize>,
    /// Those of one client's address, 1 to 65536; further ones get SERVFAIL. Default 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_536))]
    pub max_in_flight_per_client: Option<usize>,
    /// One try, up to `10s`; SERVFAIL comes after twice this. Default `2s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Networks whose clients may have names resolved, others get REFUSED; default loopback, private and link-local ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Network>>,
    /// Networks that no answer of a resolver may name: list your own against DNS rebinding. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_answers: Option<Vec<Network>>,
    /// Zones with resolvers of their own; the longest that fits a name counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Vec<DnsForwardZone>>,
}

/// A zone with resolvers of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsForwardZone {
    /// The zone, such as `corp.example`.
    pub zone: String,
    /// Its resolvers, written as `dns.forward.servers` are.
    pub servers: Vec<Resolver>,
}

/// A resolver that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver(ServerOptions);

/// Why a text is no resolver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no resolver: write \"system\", or an IP address with or without a port, as \"127.0.0.53\", \
     \"tls://127.0.0.53#dns.example\" or \"https://127.0.0.53/dns-query#dns.example\""
)]
pub struct ResolverError(String);

impl FromStr for Resolver {
    type Err = ResolverError;

    fn from_str(text: &str) -> Result<Self, ResolverError> {
        let error = || ResolverError(text.to_owned());
        let named = |rest: &str, address: &str| {
            let name = rest.split_once('#').map_or(address, |(_, name)| name);
            let is_name = !name.is_empty() && !name.contains(['/', '#', ':']) || name.parse::<IpAddr>().is_ok();
            is_name.then(|| name.into()).ok_or_else(error)
        };
        let server = if text == "system" {
            ServerOptions::System
        } else if let Some(rest) = text.strip_prefix("tls://") {
            let address = address(rest.split('#').next().unwrap_or_default(), TLS_PORT).ok_or_else(error)?;
            ServerOptions::Tls { address, name: named(rest, &address.ip().to_string())? }
        } else if let Some(rest) = text.strip_prefix("https://") {
            let url = rest.split('#').next().unwrap_or_default();
            let (host, path) = url.find('/').map_or((url, DNS_PATH), |at| url.split_at(at));
            let address = address(host, HTTPS_PORT).ok_or_else(error)?;
            let is_path = path.bytes().all(|octet| octet.is_ascii_graphic());
            let path = Some(path).filter(|_| is_path).ok_or_else(error)?;
            ServerOptions::Https { address, name: named(rest, &address.ip().to_string())?, path: path.into() }
        } else {
            ServerOptions::Plain(address(text, DNS_PORT).ok_or_else(error)?)
        };
        Ok(Self(server))
    }
}

/// Reads an address of one host with or without a port.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = text.parse().or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)));
    address.ok().filter(|address: &SocketAddr| address.port() != 0 && !address.ip().is_unspecified())
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

crate::spec::text!(
    Resolver, "Resolver",
    expecting "a resolver, such as \"127.0.0.53:53\", or \"system\"",
    pattern "^(system|(tls://|https://)?([0-9.]+|\\[[0-9a-fA-F:.]+\\]|[0-9a-fA-F:.]+)(:[0-9]{1,5})?(/[!-\"$-~]*)?(#.+)?)$",
    example "127.0.0.53:53"
);

/// Reads the section of a server that listens on `own` and has the zone `own_zone`.
pub(super) fn read(p: &mut Problems, section: &DnsForward, own: &[SocketAddr], own_zone: &str) -> ForwardOptions {
    let defaults = ForwardOptions::default();
    let key = KeyPath::default().key("dns.forward");
    let networks = |list: &Option<Vec<Network>>| {
        list.as_ref().map(|list| list.iter().map(|network| network.get()).collect::<Vec<_>>())
    };
    let listed = section.zone.iter().flatten().enumerate();
    let zones: Vec<ForwardZoneOptions> = listed
        .map(|(i, zone)| {
            p.within("dns.forward.zone", i, |p| {
                let servers = servers(p, "servers", &zone.servers, own);
                ForwardZoneOptions { zone: read_zone(p, &zone.zone, own_zone), servers }
            })
        })
        .collect();
    for (i, zone) in zones.iter().enumerate() {
        if zones.iter().take(i).any(|before| before.zone == zone.zone) {
            let message = format!("the zone {:?} is there already", zone.zone);
            p.at(&key.key("zone").index(i).key("zone"), message, "write all of its resolvers in one place");
        }
    }
    ForwardOptions {
        servers: match &section.servers {
            None => defaults.servers,
            Some(list) => servers(p, "dns.forward.servers", list, own),
        },
        zones,
        ca: section.ca.as_ref().map(PathBuf::from),
        system_file: defaults.system_file,
        hosts: match section.hosts.as_deref() {
            None => defaults.hosts,
            Some("off") => None,
            Some(path) => Some(PathBuf::from(path)),
        },
        cache_bytes: size(p, "dns.forward.cache", section.cache, defaults.cache_bytes, 0..=MAX_CACHE_BYTES),
        stale: time(p, "dns.forward.stale", section.stale, defaults.stale, Time::ZERO..=MAX_STALE),
        max_in_flight: within(
            p,
            "dns.forward.max_in_flight",
            section.max_in_flight,
            defaults.max_in_flight,
            &(1..=65_536),
        ),
        max_in_flight_per_client: within(
            p,
            "dns.forward.max_in_flight_per_client",
            section.max_in_flight_per_client,
            defaults.max_in_flight_per_client,
            &(1..=65_536),
        ),
        timeout: time(p, "dns.forward.timeout", section.timeout, defaults.timeout, MS..=MAX_TIMEOUT),
        allow: networks(&section.allow).unwrap_or(defaults.allow),
        deny_answers: networks(&section.deny_answers).unwrap_or(defaults.deny_answers),
    }
}

fn servers(p: &mut Problems, key: &str, list: &[Resolver], own: &[SocketAddr]) -> Vec<ServerOptions> {
    if list.is_empty() {
        p.unknown(key, "is empty", "write a resolver or \"system\", or remove the section to forward nothing");
    }
    for (i, server) in list.iter().enumerate() {
        let Some(address) = server.0.address() else { continue };
        if own.iter().any(|own| reaches(*own, address)) {
            let message = format!("{} is this DNS server itself", Address::new(address));
            p.at(
                &KeyPath::default().key(key).index(i),
                message,
                "a question would go round in circles: write another resolver",
            );
        }
    }
    list.iter().map(|server| server.0.clone()).collect()
}

/// Reads a zone that is not this server's own; returns it in lower case without the final dot.
fn read_zone(p: &mut Problems, zone: &str, own_zone: &str) -> String {
    let lower = zone.strip_suffix('.').unwrap_or(zone).to_ascii_lowercase();
    if lower.len() > MAX_ZONE_OCTETS {
        p.add("zone", format!("is longer than {MAX_ZONE_OCTETS} characters"), "no DNS name is that long");
    } else if let Some(error) = lower.split('.').find_map(|label| check_label(label).err()) {
        let hint = "write labels separated by dots, such as \"corp.example\"";
        p.add("zone", format!("{zone:?} is no zone: {error}"), hint);
    } else if lower == own_zone || lower.ends_with(&format!(".{own_zone}")) {
        let hint = "it is answered here and never asked of others: name another zone, or change dns.zone";
        p.add("zone", format!("{zone:?} is in this server's own zone"), hint);
    }
    lower
}

/// Zones of services may begin with an underscore, others are as names of hosts.
fn check_label(label: &str) -> Result<(), String> {
    let bare = label.strip_prefix('_').unwrap_or(label);
    parse_label(bare, 63).map_err(|error| error.to_string())
}

/// Returns whether a question to `address` arrives at a socket that is bound to `own`.
fn reaches(own: SocketAddr, address: SocketAddr) -> bool {
    own.port() == address.port()
        && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
}

/// Writes the section that says the same.
pub(super) fn write(options: &ForwardOptions) -> DnsForward {
    let servers = |list: &[ServerOptions]| list.iter().cloned().map(Resolver).collect();
    let networks = |list: &[(IpAddr, u8)]| list.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect();
    let text = |path: &PathBuf| path.display().to_string();
    let zones = options.zones.iter();
    let zones = zones.map(|zone| DnsForwardZone { zone: zone.zone.clone(), servers: servers(&zone.servers) }).collect();
    DnsForward {
        servers: Some(servers(&options.servers)),
        ca: options.ca.as_ref().map(text),
        hosts: Some(options.hosts.as_ref().map_or_else(|| "off".to_owned(), text)),
        cache: Some(Size::new(options.cache_bytes as u64)),
        stale: Some(options.stale.into()),
        max_in_flight: Some(options.max_in_flight),
        max_in_flight_per_client: Some(options.max_in_flight_per_client),
        timeout: Some(options.timeout.into()),
        allow: Some(networks(&options.allow)),
        deny_answers: Some(networks(&options.deny_answers)),
        zone: Some(zones).filter(|zones: &Vec<DnsForwardZone>| !zones.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::Resolver;

    #[test]
    fn reads_the_forms_of_a_resolver() {
        let shown = |text: &str| text.parse::<Resolver>().map(|resolver| resolver.to_string());
        for (text, full) in [
            ("system", "system"),
            ("127.0.0.53", "127.0.0.53:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]", "[fd00::1]:53"),
            ("[fd00::1]:54", "[fd00::1]:54"),
            ("tls://10.0.0.2", "tls://10.0.0.2:853#10.0.0.2"),
            ("tls://10.0.0.2:8853#dns.example", "tls://10.0.0.2:8853#dns.example"),
            ("https://10.0.0.2", "https://10.0.0.2:443/dns-query#10.0.0.2"),
            ("https://[fd00::1]:8443/q#dns.example", "https://[fd00::1]:8443/q#dns.example"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(full));
            assert_eq!(shown(full).as_deref(), Ok(full));
        }
        let wrong = [
            "",
            "dns.example",
            ":53",
            "0.0.0.0",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "tls://",
            "tls://dns.example",
            "https://dns.example/q",
            "tls://10.0.0.2#",
            "tls://10.0.0.2#a/b",
            "udp://10.0.0.2",
        ];
        for wrong in wrong {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }
}
