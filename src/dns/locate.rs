//! What a name stands for, to this asker: from the name as it was asked to what the table holds.
//!
//! Native names are `<service>`, `<service>.<namespace>`, `<instance>.<service>.<namespace>` and, before the first two,
//! `_<port>._<protocol>`; a name without namespace is in the asker's own. `a.b` is always service a in namespace b. What the
//! asker's scope does not see is missing.

use crate::dns::view::View;
use crate::dnswire::{MAX_NAME_BYTES, labels, skip_label};
use crate::table::Service;
use crate::table::names::{Found, below};
use std::sync::Arc;

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Located<'s, 'n> {
    /// Not in a zone of this server.
    Outside,
    /// A zone itself.
    Apex,
    /// A service.
    Service(&'s Arc<Service>),
    /// A port of a service, by its index.
    Port(&'s Arc<Service>, usize),
    /// One label below a service: an instance, if it has one of this id.
    Below(&'s Arc<Service>, &'n [u8]),
    /// Nothing itself, but a name below it exists.
    Empty,
    /// Not there; the name without the zone.
    Missing(&'n [u8]),
}

/// Says what a lower-case wire name stands for; some 50 ns.
pub(crate) fn locate<'s, 'n>(view: &View<'s>, name: &'n [u8]) -> Located<'s, 'n> {
    match below(name, view.snapshot.names.zone()) {
        None => Located::Outside,
        Some((_, 0)) => Located::Apex,
        Some((relative, depth)) => native(view, relative, depth),
    }
}

fn native<'s, 'n>(view: &View<'s>, relative: &'n [u8], depth: usize) -> Located<'s, 'n> {
    // Marks are the labels of port and protocol.
    let marked = relative.get(1) == Some(&b'_');
    let marks = if marked { labels(relative).take(2).filter(|label| label.starts_with(b"_")).count() } else { 0 };
    match (depth - marks, marks) {
        (1, _) => {
            let mut room = [0u8; MAX_NAME_BYTES];
            let found = join(relative, view.scope.label(), &mut room).map_or(Found::Missing, |key| find(view, key));
            match found {
                // No service of this name; a namespace has names below it.
                Found::Missing if marks == 0 => located(view, find(view, relative), relative),
                found => located(view, found, relative),
            }
        }
        (2, _) => located(view, find(view, relative), relative),
        (3, 0) => match (labels(relative).next(), skip_label(relative).map(|service| find(view, service))) {
            (Some(label), Some(Found::Service(slot))) => match view.snapshot.services.at(slot) {
                Some(service) => Located::Below(service, label),
                None => Located::Missing(relative),
            },
            _ => Located::Missing(relative),
        },
        _ => Located::Missing(relative),
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

fn located<'s, 'n>(view: &View<'s>, found: Found, relative: &'n [u8]) -> Located<'s, 'n> {
    let service = |slot| view.snapshot.services.at(slot);
    match found {
        Found::Service(slot) => service(slot).map_or(Located::Missing(relative), Located::Service),
        Found::Port(slot, port) => {
            service(slot).map_or(Located::Missing(relative), |service| Located::Port(service, port))
        }
        Found::Empty => Located::Empty,
        Found::Missing => Located::Missing(relative),
    }
}

/// Writes one name behind the other; `None` when they are too long together.
fn join<'r>(first: &[u8], second: &[u8], room: &'r mut [u8; MAX_NAME_BYTES]) -> Option<&'r [u8]> {
    let length = first.len() + second.len();
    room.get_mut(..first.len())?.copy_from_slice(first);
    room.get_mut(first.len()..length)?.copy_from_slice(second);
    room.get(..length)
}

#[cfg(test)]
mod tests {
    use super::{Located, locate};
    use crate::dns::options::ViewOptions;
    use crate::dns::{Asker, Authority, Options, Scope, View};
    use crate::dnswire::{labels, parse_name};
    use crate::table::Snapshot;
    use crate::table::fixture::{empty, set};

    /// The kind of what is found, without its borrowed parts.
    fn kind(snapshot: &Snapshot, scope: &Scope, name: &str) -> String {
        let authority = Authority::new(&Options::default(), &[]);
        let asker = Asker::default();
        let view = View { snapshot, authority: &authority, now_ms: 1, forwards: false, asker, scope };
        match locate(&view, &parse_name(name).unwrap()) {
            Located::Service(service) => format!("service {}", service.name()),
            Located::Port(service, port) => format!("port {port} of {}", service.name()),
            Located::Below(service, label) => format!("{} below {}", String::from_utf8_lossy(label), service.name()),
            Located::Missing(relative) => format!("missing {}", labels(relative).count()),
            other => format!("{other:?}").to_lowercase(),
        }
    }

    fn table() -> Snapshot {
        set(&empty(), &[("web", &["http", "admin"], &[]), ("staging/web", &["http"], &[]), ("staging", &["x"], &[])])
    }

    #[test]
    fn finds_long_and_short_names_ports_instances_and_empty_non_terminals() {
        let (table, scope) = (table(), Scope::default());
        for (name, expected) in [
            ("weir.internal", "apex"),
            ("web.weir.internal", "service web"),
            ("web.default.weir.internal", "service web"),
            ("web.staging.weir.internal", "service staging/web"),
            ("_http._tcp.web.default.weir.internal", "port 0 of web"),
            ("_admin._tcp.web.weir.internal", "port 1 of web"),
            ("_http._tcp.web.staging.weir.internal", "port 0 of staging/web"),
            ("_http._udp.web.weir.internal", "missing 3"),
            ("default.weir.internal", "empty"),
            ("staging.weir.internal", "service staging"),
            ("_tcp.web.weir.internal", "empty"),
            ("_tcp.web.staging.weir.internal", "empty"),
            ("_tcp.weir.internal", "missing 1"),
            ("_http._tcp.weir.internal", "missing 2"),
            ("_a._b._c.web.weir.internal", "missing 4"),
            ("web-abcdef.web.default.weir.internal", "web-abcdef below web"),
            ("web-abcdef.web.weir.internal", "missing 2"),
            ("x.web-abcdef.web.default.weir.internal", "missing 4"),
            ("nope.weir.internal", "missing 1"),
            ("nope.default.weir.internal", "missing 2"),
            ("internal", "outside"),
            ("xweir.internal", "outside"),
            ("example.com", "outside"),
        ] {
            assert_eq!(kind(&table, &scope, name), expected, "{name}");
        }
    }

    #[test]
    fn a_view_sees_its_namespaces_and_short_names_are_in_its_own() {
        let table = table();
        let options = ViewOptions {
            namespaces: Some(vec!["staging".into()]),
            namespace: "staging".into(),
            ..ViewOptions::default()
        };
        let scope = Scope::new(&options);
        for (name, expected) in [
            ("web.weir.internal", "service staging/web"),
            ("_http._tcp.web.weir.internal", "port 0 of staging/web"),
            ("web.staging.weir.internal", "service staging/web"),
            ("a.web.staging.weir.internal", "a below staging/web"),
            ("staging.weir.internal", "empty"),
            ("web.default.weir.internal", "missing 2"),
            ("a.web.default.weir.internal", "missing 3"),
            ("_tcp.web.default.weir.internal", "missing 3"),
            ("default.weir.internal", "missing 1"),
            ("weir.internal", "apex"),
        ] {
            assert_eq!(kind(&table, &scope, name), expected, "{name}");
        }
    }

    #[test]
    fn a_short_name_that_grows_too_long_is_missing() {
        let options = ViewOptions { namespace: "n".repeat(63).into(), ..ViewOptions::default() };
        let name = format!("{}.weir.internal", ["_a".repeat(31), "_b".repeat(31), "c".repeat(63)].join("."));
        assert_eq!(kind(&table(), &Scope::new(&options), &name), "missing 3");
    }
}
