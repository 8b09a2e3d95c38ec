//! `[[dns.view]]`: the section, its meaning, and the way back.

use crate::config::naming::{element, is_name, lower};
use crate::dns::{ListenOptions, ViewOptions};
use crate::model::parse_label;
use crate::spec::{Network, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest namespace and name of a view: one label.
const LABEL: usize = 63;
/// Stands for every namespace.
const ALL: &str = "*";
const CONTAINERS: &str = "containers";

/// What some askers see. The first view whose networks and listeners fit is taken; without one everybody sees everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsView {
    /// Its name, one label.
    #[serde(default)]
    pub name: String,
    /// Source networks that it is for; default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<Network>>,
    /// Listening addresses that it is for, `IP`, `IP:PORT` or `containers`; default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<ViewListen>>,
    /// Namespaces that it sees; names of others do not exist for it. Default `["*"]`, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<Vec<String>>,
    /// The namespace in which short names are looked for; default `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Where its clients are, one label: for services that prefer endpoints of their zone. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The `search` line of its clients' resolv.conf: what they complete in vain is answered with what they would ask for
    /// next. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Vec<String>>,
}

/// A listening address of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewListen(ListenOptions);

/// Why a text is no listening address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no listening address: write an IP address with or without a port, or \"containers\"")]
pub struct ViewListenError(String);

impl FromStr for ViewListen {
    type Err = ViewListenError;

    fn from_str(text: &str) -> Result<Self, ViewListenError> {
        if text == CONTAINERS {
            return Ok(Self(ListenOptions::Containers));
        }
        let whole = text.parse::<SocketAddr>().map(|at| ListenOptions::At(at.ip(), Some(at.port())));
        let found = whole.or_else(|_| text.parse::<IpAddr>().map(|ip| ListenOptions::At(ip, None)));
        found.map(Self).map_err(|_| ViewListenError(text.to_owned()))
    }
}

impl fmt::Display for ViewListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ListenOptions::Containers => f.write_str(CONTAINERS),
            ListenOptions::At(ip, Some(port)) => SocketAddr::new(ip, port).fmt(f),
            ListenOptions::At(ip, None) => ip.fmt(f),
        }
    }
}

crate::spec::text!(
    ViewListen, "ViewListen",
    expecting "a listening address, such as \"127.0.0.1\", or \"containers\"",
    pattern "^(containers|[0-9.]+(:[0-9]{1,5})?|\\[[0-9a-fA-F:.]+\\]:[0-9]{1,5}|[0-9a-fA-F:.]+)$",
    example "127.0.0.1"
);

/// Reads the sections.
pub(super) fn read(p: &mut Problems, views: &[DnsView]) -> Vec<ViewOptions> {
    let mut names = HashSet::new();
    let mut read = Vec::with_capacity(views.len());
    for (i, view) in views.iter().enumerate() {
        p.within("dns.view", i, |p| {
            if view.name.is_empty() {
                p.absent("name", "write name = \"…\": it is shown where the view is explained");
            } else if let Err(error) = parse_label(&view.name, LABEL) {
                p.add("name", error.to_string(), "use one label, such as \"staging\"");
            } else if !names.insert(view.name.clone()) {
                p.add("name", format!("{:?} is taken by another view", view.name), "give each view a name of its own");
            }
            read.push(read_one(p, view));
        });
    }
    read
}

fn read_one(p: &mut Problems, view: &DnsView) -> ViewOptions {
    let defaults = ViewOptions::default();
    let namespace = view.namespace.as_deref().map_or(defaults.namespace, Into::into);
    let all = view.namespaces.as_ref().is_none_or(|list| list.iter().any(|name| name == ALL));
    let listed = view.namespaces.as_deref().unwrap_or_default();
    for (i, name) in listed.iter().enumerate().filter(|(_, name)| *name != ALL) {
        if let Err(error) = parse_label(name, LABEL) {
            p.at(&element("namespaces", i), error.to_string(), "write a namespace, or \"*\" for all");
        }
    }
    if let Err(error) = parse_label(&namespace, LABEL) {
        p.add("namespace", error.to_string(), "write a namespace, such as \"default\"");
    } else if !all && !listed.iter().any(|name| **name == *namespace) {
        p.add(
            "namespace",
            format!("{namespace:?} is none of the namespaces that the view sees"),
            "add it to namespaces, or write one of them",
        );
    }
    let search: Vec<String> = view.search.iter().flatten().map(|domain| lower(domain)).collect();
    for (i, domain) in search.iter().enumerate().filter(|(_, domain)| !is_name(domain)) {
        p.at(&element("search", i), format!("{domain:?} is no domain"), "write labels separated by dots");
    }
    if let Some(Err(error)) = view.zone.as_deref().map(|zone| parse_label(zone, LABEL)) {
        p.add("zone", error.to_string(), "use one label, such as \"eu-1\"");
    }
    ViewOptions {
        name: view.name.as_str().into(),
        networks: view.networks.iter().flatten().map(|network| network.get()).collect(),
        listen: view.listen.iter().flatten().map(|listen| listen.0).collect(),
        namespaces: (!all).then(|| listed.iter().map(|name| name.as_str().into()).collect()),
        namespace,
        zone: view.zone.as_deref().map(Into::into),
        search,
    }
}

/// Writes the sections that say the same.
pub(super) fn write(views: &[ViewOptions]) -> Vec<DnsView> {
    let texts = |list: &[Arc<str>]| list.iter().map(|text| text.to_string()).collect();
    let one = |view: &ViewOptions| DnsView {
        name: view.name.to_string(),
        networks: Some(view.networks.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect()),
        listen: Some(view.listen.iter().copied().map(ViewListen).collect()),
        namespaces: Some(view.namespaces.as_deref().map_or_else(|| vec![ALL.to_owned()], texts)),
        namespace: Some(view.namespace.to_string()),
        zone: view.zone.as_deref().map(str::to_owned),
        search: Some(view.search.clone()),
    };
    views.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::ViewListen;

    #[test]
    fn reads_the_forms_of_a_listening_address() {
        for text in ["containers", "127.0.0.1", "127.0.0.1:53", "::1", "[::1]:53"] {
            assert_eq!(text.parse::<ViewListen>().unwrap().to_string(), text);
        }
        for wrong in ["", "container", "127.0.0.1:", "[::1]", "localhost:53"] {
            assert!(wrong.parse::<ViewListen>().is_err(), "{wrong}");
        }
    }
}
