//! Which resolvers a name belongs to: the longest zone that it is within, else the ones for everything.

use crate::dns::forward::race::Group;
use crate::dns::forward::upstream::Upstream;
use crate::dns::options::{ForwardOptions, ServerOptions};
use crate::dnswire::{parse_name, skip_label};
use hickory_proto::rr::Name;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The port of a resolver in the system's file.
const DNS_PORT: u16 = 53;

/// The resolvers of every zone.
#[derive(Debug)]
pub(crate) struct Zones {
    rest: Arc<Group>,
    by_name: HashMap<Vec<u8>, Arc<Group>>,
}

/// What resolvers are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) options: &'a ForwardOptions,
    /// This server's addresses, which it never asks.
    pub(crate) own: &'a [SocketAddr],
    pub(crate) tls: &'a rustls::ClientConfig,
    /// What the system's file names.
    pub(crate) system: &'a [SocketAddr],
}

impl Zones {
    /// Makes the resolvers; those of `before` that stay keep what is known of them, and their connections.
    pub(crate) fn new(making: Making<'_>, before: Option<&Self>) -> Self {
        let mut made: HashMap<ServerOptions, Arc<Upstream>> = HashMap::new();
        for upstream in before.into_iter().flat_map(Self::upstreams) {
            made.insert(upstream.server().clone(), upstream.clone());
        }
        let mut group = |zone: &str, servers: &[ServerOptions]| {
            let mut upstreams: Vec<Arc<Upstream>> = Vec::new();
            for server in listed(servers, making) {
                let upstream = match made.get(&server) {
                    Some(known) => known.clone(),
                    None => {
                        let Some(new) = Upstream::new(&server, making.options, making.tls) else { continue };
                        let new = Arc::new(new);
                        made.insert(server.clone(), new.clone());
                        new
                    }
                };
                if !upstreams.iter().any(|known| Arc::ptr_eq(known, &upstream)) {
                    upstreams.push(upstream);
                }
            }
            if upstreams.is_empty() {
                tracing::warn!(zone, "DNS forwards to nobody: there is no resolver; names of this zone get SERVFAIL");
            }
            let mut zone = Name::from_ascii(zone).unwrap_or_else(|_| Name::root());
            zone.set_fqdn(true);
            Arc::new(Group { zone, upstreams })
        };
        let rest = group(".", &making.options.servers);
        let zones = making.options.zones.iter();
        let by_name = zones.filter_map(|zone| Some((parse_name(&zone.zone)?, group(&zone.zone, &zone.servers))));
        let by_name = by_name.collect();
        Self { rest, by_name }
    }

    /// Returns the resolvers for a wire name in lower case.
    pub(crate) fn find(&self, name: &[u8]) -> &Arc<Group> {
        self.explicit(name).unwrap_or(&self.rest)
    }

    /// The same, where a zone was configured for it.
    pub(crate) fn explicit(&self, name: &[u8]) -> Option<&Arc<Group>> {
        if self.by_name.is_empty() {
            return None;
        }
        let mut rest = Some(name);
        while let Some(suffix) = rest {
            if let Some(group) = self.by_name.get(suffix) {
                return Some(group);
            }
            rest = skip_label(suffix);
        }
        None
    }

    /// Returns every resolver, those of several zones more than once.
    pub(crate) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.by_name.values().chain([&self.rest]).flat_map(|group| &group.upstreams)
    }
}

/// Returns the resolvers of a list, the system's spelled out and without this server itself.
fn listed(servers: &[ServerOptions], making: Making<'_>) -> Vec<ServerOptions> {
    let all = servers.iter().flat_map(|server| match server {
        ServerOptions::System => making.system.iter().map(|address| ServerOptions::Plain(*address)).collect(),
        server => vec![server.clone()],
    });
    let foreign = all.filter(|server| {
        let loops = server.address().is_some_and(|address| making.own.iter().any(|own| is_own(*own, address)));
        if loops {
            tracing::warn!(%server, "this DNS server is listed as its own resolver; it is left out");
        }
        !loops
    });
    foreign.collect()
}

/// Reads the resolvers of the system's file. Search lists and `ndots` are its clients' business.
pub(crate) fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        // A link-local address may name its interface, which an address of a socket does not.
        let address = words.next()?.split('%').next()?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, DNS_PORT))
    });
    lines.collect()
}

/// Returns whether `address` reaches a socket that is bound to `own`: the same, or any local one where it is a wildcard.
fn is_own(own: SocketAddr, address: SocketAddr) -> bool {
    let ip = own.ip();
    own.port() == address.port()
        && (ip == address.ip()
            || (ip.is_unspecified() && (address.ip().is_loopback() || address.ip().is_unspecified())))
}

#[cfg(test)]
mod tests {
    use super::{is_own, nameservers};

    #[test]
    fn reads_the_systems_file() {
        let text = "# nameserver 1.1.1.1\nsearch a.example\nnameserver 10.0.0.53\n nameserver\tfe80::1%eth0 x\n\
                    nameserver dns.example\noptions ndots:5\nnameserver\n";
        let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.53:53", "[fe80::1]:53"]);
    }

    #[test]
    fn knows_its_own_addresses() {
        let at = |text: &str| text.parse().unwrap();
        assert!(is_own(at("127.0.0.1:53"), at("127.0.0.1:53")) && is_own(at("0.0.0.0:53"), at("127.0.0.9:53")));
        assert!(!is_own(at("127.0.0.1:53"), at("127.0.0.2:53")) && !is_own(at("0.0.0.0:53"), at("127.0.0.1:54")));
    }
}
