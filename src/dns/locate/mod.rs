//! What a name stands for, to this asker: from the name as it was asked to what the table holds.
//!
//! Each schema cuts its names down to the form of the table, `[_<port>._<protocol>.]<service>.<namespace>`, before the one
//! lookup. Native names are that form; a name without namespace is in the asker's own, and `a.b` is always service a in
//! namespace b. Where the table has nothing, aliases and wildcards follow. What the asker's scope does not see is missing.

use crate::dns::alias::Alias;
use crate::dns::schema::{ADDR, Kind, SVC, Schema, Target, address_of_hex, address_of_hyphens};
use crate::dns::view::View;
use crate::dnswire::{labels, skip_label};
use crate::table::Service;
use crate::table::names::{Found, below};
use std::net::IpAddr;
use std::sync::Arc;

/// A name in its schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'s, 'n> {
    /// The schema whose zone the name is in; `None`: in none.
    pub(crate) schema: Option<&'s Schema>,
    /// What it stands for.
    pub(crate) located: Located<'s, 'n>,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Located<'s, 'n> {
    /// Not in a zone of this server.
    Outside,
    /// A zone itself.
    Apex,
    /// A service; SRV records are those of the port, where there is one.
    Service(&'s Arc<Service>, Pick<'n>),
    /// A port of a service, by its index.
    Port(&'s Arc<Service>, usize),
    /// An instance of a service, by its index.
    Instance(&'s Arc<Service>, usize),
    /// A withdrawn instance, whose name leads to it as long as answers that name it may be cached.
    Draining(IpAddr),
    /// An address that the name itself tells.
    Address(IpAddr),
    /// Another name.
    Alias(&'s Alias),
    /// Nothing itself, but a name below it exists.
    Empty,
    /// Not there; the name without the zone.
    Missing(&'n [u8]),
}

/// Which endpoints of a service are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pick<'n> {
    /// The port whose SRV records the name has.
    pub(crate) port: Option<usize>,
    /// Only endpoints with this tag.
    pub(crate) tag: Option<&'n [u8]>,
    /// The endpoints themselves and never an address in front of them.
    pub(crate) direct: bool,
}

/// Says what a lower-case wire name stands for; some 50 ns.
pub(crate) fn locate<'s, 'n>(view: &View<'s>, name: &'n [u8]) -> Place<'s, 'n> {
    for schema in view.schemas.listed() {
        let Some((relative, depth)) = below(name, &schema.zone) else { continue };
        let located = match &schema.kind {
            _ if depth == 0 => Located::Apex,
            Kind::Native => native(view, relative, depth),
            Kind::Kubernetes => kubernetes(view, relative),
            Kind::Consul(datacenter) => consul(view, relative, datacenter),
            Kind::Docker => Located::Missing(relative),
        };
        return Place { schema: Some(schema), located };
    }
    let docker = view.schemas.docker().map(|schema| (schema, docker(view, name)));
    match docker {
        Some((schema, Some(located))) => Place { schema: Some(schema), located },
        _ => Place { schema: None, located: Located::Outside },
    }
}

/// Returns how many of the labels are those of port and protocol.
fn marks(relative: &[u8]) -> usize {
    let marked = relative.get(1) == Some(&b'_');
    if marked { labels(relative).take(2).filter(|label| label.starts_with(b"_")).count() } else { 0 }
}

fn native<'s, 'n>(view: &View<'s>, relative: &'n [u8], depth: usize) -> Located<'s, 'n> {
    let marks = marks(relative);
    match (depth - marks, marks) {
        (0, _) => Located::Missing(relative),
        (1, _) => match Target::of(&[relative, view.scope.label()]).map(|key| at(view, key.name(), relative)) {
            // No service of this name; a namespace has names below it.
            None | Some(Located::Missing(_)) if marks == 0 => at(view, relative, relative),
            found => found.unwrap_or(Located::Missing(relative)),
        },
        (2, _) => at(view, relative, relative),
        _ => deeper(view, relative, relative),
    }
}

/// Kubernetes DNS specification 1.1, sections 2.2 to 2.4, and the records of pods of 1.0.
fn kubernetes<'s, 'n>(view: &View<'s>, relative: &'n [u8]) -> Located<'s, 'n> {
    let missing = Located::Missing(relative);
    if let Some((key, depth)) = below(relative, SVC) {
        let marks = marks(key);
        return match (depth - marks, marks) {
            (0, 0) => Located::Empty,
            (1, 0) => match at(view, key, relative) {
                Located::Empty => Located::Empty,
                _ => missing,
            },
            (0 | 1, _) => missing,
            (2, _) => at(view, key, relative),
            _ => deeper(view, key, relative),
        };
    }
    let Some((key, depth)) = below(relative, b"\x03pod") else { return missing };
    match depth {
        0 => Located::Empty,
        1 => match at(view, key, relative) {
            Located::Empty => Located::Empty,
            _ => missing,
        },
        2 => pod(view, key).map_or(missing, Located::Address),
        _ => missing,
    }
}

/// Returns the address that `<a-b-c-d>.<namespace>` tells, if an instance of that namespace has it.
fn pod(view: &View<'_>, key: &[u8]) -> Option<IpAddr> {
    let address = address_of_hyphens(labels(key).next()?)?;
    let namespace = labels(key).nth(1)?;
    let owners = view.snapshot.names.owners(address)?;
    let of = |slot| view.snapshot.services.at(slot).filter(|service| view.scope.sees_service(service));
    let owned = |service: &Arc<Service>| service.name().namespace().as_bytes() == namespace;
    let instances = owners.iter().filter(|owner| owner.id.is_some());
    instances.filter_map(|owner| of(owner.slot)).any(owned).then_some(address)
}

/// Names of Consul: `[<tag>.]<service>.service`, `_<service>._<tag>.service` and `<hex>.addr`, each with the data center or
/// without; `service.<namespace>.ns` names another namespace than the asker's own.
fn consul<'s, 'n>(view: &View<'s>, relative: &'n [u8], datacenter: &[u8]) -> Located<'s, 'n> {
    let missing = Located::Missing(relative);
    let spelled = below(relative, b"\x02dc").map(|(rest, _)| rest);
    let rest = below(spelled.unwrap_or(relative), datacenter).map(|(rest, _)| rest);
    let head = match (spelled, rest) {
        (Some(_), None) => return missing,
        (_, rest) => rest.unwrap_or(relative),
    };
    if head.is_empty() {
        return Located::Empty;
    }
    if let Some((label, depth)) = below(head, ADDR) {
        return match depth {
            0 => Located::Empty,
            1 => label.get(1..).and_then(address_of_hex).map_or(missing, Located::Address),
            _ => missing,
        };
    }
    let (head, namespace) = match below(head, b"\x02ns") {
        Some((head, depth)) if depth >= 2 => match last_label(head) {
            Some((head, namespace)) => (head, namespace),
            None => return missing,
        },
        _ => (head, view.scope.label()),
    };
    let Some((name, depth)) = below(head, b"\x07service") else { return missing };
    let service = |label: &[u8]| {
        let length = [u8::try_from(label.len()).unwrap_or(0)];
        Target::of(&[&length, label, namespace]).map(|key| at(view, key.name(), relative))
    };
    let mut parts = labels(name);
    let found = match (depth, parts.next(), parts.next()) {
        (0, ..) => Some(Located::Empty),
        (1, Some(name), None) => service(name).map(|located| tagged(located, None, relative)),
        (2, Some(name), Some(tag)) => match (name.strip_prefix(b"_"), tag.strip_prefix(b"_")) {
            (Some(name), Some(tag)) => service(name).map(|located| tagged(located, Some(tag), relative)),
            (None, None) => service(tag).map(|located| tagged(located, Some(name), relative)),
            _ => None,
        },
        _ => None,
    };
    found.unwrap_or(missing)
}

/// Narrows a service of Consul's to a tag: a protocol is none, the name of a port is that port.
fn tagged<'s, 'n>(located: Located<'s, 'n>, tag: Option<&'n [u8]>, relative: &'n [u8]) -> Located<'s, 'n> {
    let (service, pick) = match located {
        Located::Service(service, _) => (service, Pick { port: Some(0), direct: true, ..Pick::default() }),
        Located::Alias(alias) if tag.is_none() => return Located::Alias(alias),
        _ => return Located::Missing(relative),
    };
    let Some(tag) = tag.filter(|tag| !matches!(*tag, b"tcp" | b"udp")) else { return Located::Service(service, pick) };
    match service.spec.ports.iter().position(|port| port.name.as_bytes() == tag) {
        Some(port) => Located::Service(service, Pick { port: Some(port), ..pick }),
        None => Located::Service(service, Pick { tag: Some(tag), ..pick }),
    }
}

/// Names of Docker: `<service>` in the asker's namespace, `tasks.<service>` for its instances, an instance by its own name.
/// `None`: not a name of ours.
fn docker<'s, 'n>(view: &View<'s>, name: &'n [u8]) -> Option<Located<'s, 'n>> {
    let relative = name.strip_suffix(&[0])?;
    let direct = relative.strip_prefix(b"\x05tasks").filter(|rest| !rest.is_empty());
    let label = direct.unwrap_or(relative);
    if label.len() != 1 + usize::from(*label.first()?) {
        return None;
    }
    let service = |label: &[u8]| Target::of(&[label, view.scope.label()]).map(|key| at(view, key.name(), relative));
    match service(label)? {
        Located::Service(service, pick) => Some(Located::Service(service, Pick { direct: direct.is_some(), ..pick })),
        Located::Alias(alias) => Some(Located::Alias(alias)),
        _ if direct.is_some() => None,
        // An instance is `<service>-<six letters>`.
        _ => {
            let id = label.get(1..)?;
            let end = id.iter().rposition(|octet| *octet == b'-')?;
            let owner = [&[u8::try_from(end).ok()?], id.get(..end)?].concat();
            let Located::Service(service, _) = service(&owner)? else { return None };
            Some(Located::Instance(service, service.records.find(id)?))
        }
    }
}

/// Splits the last label off, which keeps its length octet.
fn last_label(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        let next = at + 1 + usize::from(*name.get(at)?);
        if next == name.len() {
            return name.split_at_checked(at);
        }
        at = next;
    }
}

/// Finds what the asker may see.
fn find(view: &View<'_>, key: &[u8]) -> Found {
    match view.snapshot.names.find(key) {
        found if view.scope.sees_all() => found,
        Found::Missing => Found::Missing,
        _ if !view.scope.sees_end_of(key) => Found::Missing,
        found => found,
    }
}

/// Says what a name of the table is: a service, a port, an alias, a namespace.
fn at<'s, 'n>(view: &View<'s>, key: &[u8], relative: &'n [u8]) -> Located<'s, 'n> {
    let service = |slot| view.snapshot.services.at(slot);
    match find(view, key) {
        Found::Service(slot) => {
            service(slot).map_or(Located::Missing(relative), |s| Located::Service(s, Pick::default()))
        }
        Found::Port(slot, port) => service(slot).map_or(Located::Missing(relative), |s| Located::Port(s, port)),
        Found::Empty => Located::Empty,
        Found::Missing => unlisted(view, key).unwrap_or(Located::Missing(relative)),
    }
}

/// Looks among the aliases for a name that the table does not have.
fn unlisted<'s, 'n>(view: &View<'s>, key: &[u8]) -> Option<Located<'s, 'n>> {
    if view.aliases.is_empty() || !view.scope.sees_end_of(key) {
        return None;
    }
    if let Some(alias) = view.aliases.exact(key) {
        return Some(Located::Alias(alias));
    }
    if view.aliases.holds(key) {
        return Some(Located::Empty);
    }
    wildcard(view, key)
}

/// Says what a name below a service is: an instance, or what a wildcard makes of it.
fn deeper<'s, 'n>(view: &View<'s>, key: &[u8], relative: &'n [u8]) -> Located<'s, 'n> {
    let (Some(label), Some(parent)) = (labels(key).next(), skip_label(key)) else { return Located::Missing(relative) };
    if let Found::Service(slot) = find(view, parent)
        && let Some(service) = view.snapshot.services.at(slot)
    {
        if let Some(index) = service.records.find(label) {
            return Located::Instance(service, index);
        }
        if let Some((endpoint, _)) = service.draining.iter().find(|(e, _)| e.id.as_str().as_bytes() == label) {
            return Located::Draining(endpoint.address);
        }
    }
    wildcard(view, key).unwrap_or(Located::Missing(relative))
}

/// Looks for the wildcard of a name that does not exist: below its closest name that does, RFC 4592 §3.3.1.
fn wildcard<'s, 'n>(view: &View<'s>, key: &[u8]) -> Option<Located<'s, 'n>> {
    let alias =
        |parent: &[u8]| view.aliases.below(parent).filter(|_| view.scope.sees_end_of(parent)).map(Located::Alias);
    let mut child = key;
    while let Some(parent) = skip_label(child).filter(|parent| !parent.is_empty()) {
        match find(view, parent) {
            Found::Service(slot) => {
                let service = view.snapshot.services.at(slot)?;
                let exists = labels(child).next().is_some_and(|label| service.records.find(label).is_some());
                let own = service.spec.dns.wildcard.then(|| Located::Service(service, Pick::default()));
                return own.or_else(|| alias(parent)).filter(|_| !exists);
            }
            Found::Port(..) | Found::Empty => return alias(parent),
            Found::Missing if view.aliases.exact(parent).is_some() || view.aliases.holds(parent) => {
                return alias(parent);
            }
            Found::Missing => child = parent,
        }
    }
    None
}

#[cfg(test)]
mod tests;
