//! What an answer depends on besides the question: the table of one moment, who asks, and what that asker may see.
//!
//! A [`Scope`] is a `[[dns.view]]` of the configuration, ready for lookups. Without any there is one for everybody, and
//! choosing it costs nothing; else the first whose networks and listeners fit is taken. What it does not see is as if it did
//! not exist.

use crate::dns::Authority;
use crate::dns::alias::Aliases;
use crate::dns::network::contains;
use crate::dns::options::{ListenOptions, ViewOptions};
use crate::dns::schema::Schemas;
use crate::dnswire::{parse_name, skip_label};
use crate::table::{Service, Snapshot, Whereabouts};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The namespace of short names where no view says another.
const DEFAULT_NAMESPACE: &str = "default";

/// What all answers of one moment share, and who asks.
#[derive(Debug, Clone, Copy)]
pub struct View<'s> {
    /// The table.
    pub snapshot: &'s Snapshot,
    /// Records of the server itself.
    pub authority: &'s Authority,
    /// The time, in milliseconds of `clock::now_ms`.
    pub now_ms: u64,
    /// Whether the forwarder may be asked for this client.
    pub forwards: bool,
    /// Which names are answered.
    pub schemas: &'s Schemas,
    /// Names that stand for others.
    pub aliases: &'s Aliases,
    /// Who asks.
    pub asker: Asker,
    /// What that asker may see.
    pub scope: &'s Scope,
}

/// Who asks, and where the question came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asker {
    /// Source address; IPv4 in its own form. `None`: not known.
    pub client: Option<IpAddr>,
    /// The local address that was asked. `None`: not known.
    pub listener: Option<SocketAddr>,
    /// Whether that is a listener for containers: the gateway of one of their networks.
    pub containers: bool,
    /// The network of containers whose gateway was asked: network and prefix length.
    pub network: Option<(IpAddr, u8)>,
}

/// A view of the configuration, ready for lookups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    name: Arc<str>,
    networks: Box<[(IpAddr, u8)]>,
    listeners: Box<[ListenOptions]>,
    /// Namespaces that it sees; `None`: all.
    namespaces: Option<Box<[Arc<str>]>>,
    namespace: Arc<str>,
    /// The own namespace as a wire label.
    label: Box<[u8]>,
    zone: Option<Arc<str>>,
    /// Search domains as wire names.
    search: Box<[Box<[u8]>]>,
}

/// The scopes of a server; cheap to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    listed: Box<[Scope]>,
    /// For whom none fits.
    rest: Scope,
}

impl Asker {
    /// Makes the asker of a question from `client` that came in at `listener`.
    pub fn new(client: Option<IpAddr>, listener: Option<SocketAddr>) -> Self {
        Self { client: client.map(|client| client.to_canonical()), listener, containers: false, network: None }
    }
}

impl Asker {
    /// Returns where the asker is, as far as that decides what it reaches.
    pub fn whereabouts(&self) -> Whereabouts {
        let Some(client) = self.client else { return Whereabouts::Here };
        let own = self.listener.is_some_and(|listener| listener.ip().to_canonical() == client);
        match self.network {
            _ if own || client.is_loopback() => Whereabouts::Here,
            Some(network) if contains(network, client) => Whereabouts::Inside(network),
            _ => Whereabouts::Elsewhere,
        }
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new(&ViewOptions::default())
    }
}

impl Scope {
    /// Makes what the options say. Search domains that are no names are left out; `config` refuses them.
    pub fn new(options: &ViewOptions) -> Self {
        let label = parse_name(&options.namespace).unwrap_or_default();
        Self {
            name: options.name.clone(),
            networks: options.networks.clone().into(),
            listeners: options.listen.clone().into(),
            namespaces: options.namespaces.clone().map(Into::into),
            namespace: options.namespace.clone(),
            label: label.strip_suffix(&[0]).unwrap_or_default().into(),
            zone: options.zone.clone(),
            search: options.search.iter().filter_map(|domain| parse_name(domain)).map(Into::into).collect(),
        }
    }

    /// Returns the name of the view; empty where none was configured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the namespace in which short names are looked for.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns that namespace as a wire label.
    pub(crate) fn label(&self) -> &[u8] {
        &self.label
    }

    /// Returns the zone of its askers.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns the search domains of its clients as wire names, in their order.
    pub(crate) fn search(&self) -> &[Box<[u8]>] {
        &self.search
    }

    /// Returns whether it sees everything.
    pub(crate) fn sees_all(&self) -> bool {
        self.namespaces.is_none()
    }

    /// Returns whether it sees a namespace.
    pub fn sees(&self, namespace: &str) -> bool {
        self.namespaces.as_ref().is_none_or(|listed| listed.iter().any(|seen| **seen == *namespace))
    }

    /// Returns whether it sees a service.
    pub fn sees_service(&self, service: &Service) -> bool {
        // First: the definition is not in the cache.
        self.sees_all() || self.sees(service.spec.name.namespace())
    }

    /// Returns whether it sees the namespace that a wire name without zone ends with.
    pub(crate) fn sees_end_of(&self, relative: &[u8]) -> bool {
        let mut last = relative;
        while let Some(rest) = skip_label(last).filter(|rest| !rest.is_empty()) {
            last = rest;
        }
        let label = last.get(1..).and_then(|label| std::str::from_utf8(label).ok());
        self.sees_all() || label.is_some_and(|label| self.sees(label))
    }

    fn fits(&self, asker: &Asker) -> bool {
        let from = |client| self.networks.iter().any(|network| contains(*network, client));
        let at = |place: &ListenOptions| match *place {
            ListenOptions::Containers => asker.containers,
            ListenOptions::At(ip, port) => asker.listener.is_some_and(|listener| {
                listener.ip().to_canonical() == ip && port.is_none_or(|port| port == listener.port())
            }),
        };
        (self.networks.is_empty() || asker.client.is_some_and(from))
            && (self.listeners.is_empty() || self.listeners.iter().any(at))
    }
}

impl Scopes {
    /// Makes the scopes of the configured views; who fits none of them sees everything, from the namespace `default`.
    pub fn new(views: &[ViewOptions]) -> Self {
        Self { listed: views.iter().map(Scope::new).collect(), rest: Scope::default() }
    }

    /// Returns the first scope that fits who asks; nothing is compared where no view is configured.
    pub fn choose(&self, asker: &Asker) -> &Scope {
        self.listed.iter().find(|scope| scope.fits(asker)).unwrap_or(&self.rest)
    }
}

impl Default for ViewOptions {
    fn default() -> Self {
        Self {
            name: "".into(),
            networks: Vec::new(),
            listen: Vec::new(),
            namespaces: None,
            namespace: DEFAULT_NAMESPACE.into(),
            zone: None,
            search: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, Scope, Scopes};
    use crate::dns::options::{ListenOptions, ViewOptions};

    fn view(name: &str) -> ViewOptions {
        ViewOptions { name: name.into(), ..ViewOptions::default() }
    }

    #[test]
    fn the_first_view_that_fits_source_and_listener_is_taken() {
        let views = [
            ViewOptions { networks: vec![("10.1.0.0".parse().unwrap(), 16)], ..view("net") },
            ViewOptions { networks: vec![("10.0.0.0".parse().unwrap(), 8)], ..view("wide") },
            ViewOptions { listen: vec![ListenOptions::At("127.0.0.2".parse().unwrap(), None)], ..view("ip") },
            ViewOptions { listen: vec![ListenOptions::At("127.0.0.3".parse().unwrap(), Some(53))], ..view("port") },
            ViewOptions {
                networks: vec![("fd00::".parse().unwrap(), 8)],
                listen: vec![ListenOptions::Containers],
                ..view("both")
            },
        ];
        let scopes = Scopes::new(&views);
        let chosen = |client: &str, listener: &str, containers: bool| {
            let asker = Asker::new(client.parse().ok(), listener.parse().ok());
            scopes.choose(&Asker { containers, ..asker }).name().to_owned()
        };
        for (client, listener, containers, name) in [
            ("10.1.2.3", "127.0.0.1:53", false, "net"),
            ("::ffff:10.1.2.3", "127.0.0.1:53", false, "net"),
            ("10.2.2.3", "127.0.0.1:53", false, "wide"),
            ("11.2.2.3", "127.0.0.2:99", false, "ip"),
            ("11.2.2.3", "127.0.0.3:53", false, "port"),
            ("11.2.2.3", "127.0.0.3:54", false, ""),
            ("fd00::1", "127.0.0.9:53", true, "both"),
            ("fd00::1", "127.0.0.9:53", false, ""),
            ("fe80::1", "127.0.0.9:53", true, ""),
            ("nobody", "nowhere", false, ""),
        ] {
            assert_eq!(chosen(client, listener, containers), name, "{client} at {listener}");
        }
    }

    #[test]
    fn a_scope_sees_its_namespaces_only() {
        let scope = Scope::new(&ViewOptions { namespaces: Some(vec!["prod".into()]), ..view("prod") });
        assert!(scope.sees("prod") && !scope.sees("default") && !scope.sees_all());
        assert!(scope.sees_end_of(b"\x03web\x04prod") && scope.sees_end_of(b"\x04prod"));
        assert!(!scope.sees_end_of(b"\x04prod\x03web") && !scope.sees_end_of(b""));
        assert!(Scope::default().sees("any") && Scope::default().sees_end_of(b""));
        assert_eq!(Scope::default().label(), b"\x07default");
    }
}
