//! Compiled routes: host and path prefix → service.
//!
//! Exact host, then the longest `*.suffix`, then any host; inside a host the longest prefix by whole segments (`/api`
//! matches `/api` and `/api/x`, not `/apix`). Lookup allocates nothing.

use crate::model::{RouteSpec, ServiceName};
use foldhash::{HashMap, HashMapExt};
use std::sync::Arc;

/// One compiled route.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// The service that answers.
    pub service: ServiceName,
    /// The service's slot when the routes were compiled; checked against the name at each pick.
    pub slot: Option<usize>,
    /// Index of the port in the service's ports.
    pub port: usize,
    prefix: Arc<str>,
}

/// The routes of one host pattern, longest prefix first.
type Paths = Vec<Arc<Route>>;

#[derive(Debug, Clone, Default)]
struct Hosts {
    exact: HashMap<Arc<str>, Paths>,
    /// Keyed by the suffix without `*`, such as `.example.com`.
    suffix: HashMap<Arc<str>, Paths>,
    any: Paths,
}

/// The routes of a snapshot, by listener.
#[derive(Debug, Clone)]
pub struct Routes {
    listeners: HashMap<Arc<str>, Hosts>,
    /// Routes of no listener in particular: for connections of one that was just removed.
    others: Hosts,
    specs: Arc<[RouteSpec]>,
    names: Arc<[Arc<str>]>,
}

impl Routes {
    /// Returns no routes.
    pub fn empty() -> Self {
        Self { listeners: HashMap::new(), others: Hosts::default(), specs: Arc::new([]), names: Arc::new([]) }
    }

    /// Compiles routes for the listeners; `slot` tells where a service stands.
    pub fn compile(
        specs: Arc<[RouteSpec]>,
        listeners: Arc<[Arc<str>]>,
        slot: impl Fn(&ServiceName) -> Option<usize>,
    ) -> Self {
        let mut compiled: HashMap<Arc<str>, Hosts> =
            listeners.iter().map(|name| (name.clone(), Hosts::default())).collect();
        let mut others = Hosts::default();
        for spec in specs.iter() {
            let route = Arc::new(Route {
                name: spec.name.clone(),
                service: spec.service.clone(),
                slot: slot(&spec.service),
                port: spec.port,
                prefix: spec.path.clone(),
            });
            let named =
                compiled.iter_mut().filter(|(name, _)| spec.listeners.is_empty() || spec.listeners.contains(name));
            let unnamed = spec.listeners.is_empty().then_some(&mut others);
            for hosts in named.map(|(_, hosts)| hosts).chain(unnamed) {
                let paths = match spec.host.as_deref() {
                    None => &mut hosts.any,
                    Some(host) => match host.strip_prefix('*') {
                        Some(suffix) => hosts.suffix.entry(suffix.into()).or_default(),
                        None => hosts.exact.entry(host.into()).or_default(),
                    },
                };
                paths.push(route.clone());
            }
        }
        for hosts in compiled.values_mut().chain([&mut others]) {
            for paths in hosts.exact.values_mut().chain(hosts.suffix.values_mut()).chain([&mut hosts.any]) {
                paths.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
            }
        }
        Self { listeners: compiled, others, specs, names: listeners }
    }

    /// Compiles the same routes again after services came or went.
    pub fn recompile(&self, slot: impl Fn(&ServiceName) -> Option<usize>) -> Self {
        Self::compile(self.specs.clone(), self.names.clone(), slot)
    }

    /// Finds the route of a request on a listener. `host` is lower case without port; `path` has no query.
    pub fn find(&self, listener: &str, host: &str, path: &str) -> Option<&Arc<Route>> {
        let hosts = self.listeners.get(listener).unwrap_or(&self.others);
        let in_paths = |paths: &'_ Paths| paths.iter().position(|route| covers(&route.prefix, path));
        if !hosts.exact.is_empty()
            && let Some(paths) = hosts.exact.get(host)
            && let Some(at) = in_paths(paths)
        {
            return paths.get(at);
        }
        if !hosts.suffix.is_empty() {
            for (dot, _) in host.match_indices('.') {
                if let Some(paths) = host.get(dot..).and_then(|suffix| hosts.suffix.get(suffix))
                    && let Some(at) = in_paths(paths)
                {
                    return paths.get(at);
                }
            }
        }
        hosts.any.get(in_paths(&hosts.any)?)
    }

    /// Returns the definitions, in the order of the configuration.
    pub fn specs(&self) -> &[RouteSpec] {
        &self.specs
    }
}

/// Returns whether `prefix` covers `path` by whole segments.
fn covers(prefix: &str, path: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || rest.starts_with('/') || prefix.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Routes, covers};
    use crate::model::{RouteSpec, ServiceName};
    use std::sync::Arc;

    fn routes(rows: &[(&str, &str)]) -> Routes {
        let specs: Vec<RouteSpec> = rows
            .iter()
            .enumerate()
            .map(|(i, (host, path))| RouteSpec {
                name: format!("r{i}").into(),
                listeners: Vec::new(),
                host: (!host.is_empty()).then(|| (*host).into()),
                path: (*path).into(),
                service: ServiceName::parse(&format!("s{i}")).unwrap(),
                port: 0,
            })
            .collect();
        Routes::compile(specs.into(), Arc::new(["web".into()]), |_| Some(0))
    }

    fn found(routes: &Routes, host: &str, path: &str) -> Option<String> {
        routes.find("web", host, path).map(|r| r.name.to_string())
    }

    #[test]
    fn a_prefix_matches_by_whole_segments() {
        assert!(covers("/api", "/api") && covers("/api", "/api/x") && covers("/api/", "/api/x") && covers("/", "/any"));
        assert!(!covers("/api", "/apix") && !covers("/api", "/ap") && covers("/api/", "/api"));
    }

    #[test]
    fn exact_host_wins_then_the_longest_wildcard_then_any_and_the_longest_prefix_inside() {
        let r = routes(&[
            ("", "/"),
            ("*.example.com", "/"),
            ("*.a.example.com", "/"),
            ("x.a.example.com", "/only"),
            ("", "/api"),
            ("", "/api/v2"),
        ]);
        assert_eq!(found(&r, "other", "/"), Some("r0".into()));
        assert_eq!(found(&r, "b.example.com", "/"), Some("r1".into()));
        assert_eq!(found(&r, "b.a.example.com", "/"), Some("r2".into()));
        assert_eq!(found(&r, "x.a.example.com", "/only/y"), Some("r3".into()));
        assert_eq!(found(&r, "x.a.example.com", "/elsewhere"), Some("r2".into()));
        assert_eq!(found(&r, "example.com", "/api/v2/x"), Some("r5".into()));
        assert_eq!(found(&r, "example.com", "/api/v1"), Some("r4".into()));
        assert_eq!(found(&r, "example.com", "/apix"), Some("r0".into()));
    }

    #[test]
    fn finds_nothing_on_another_listener_or_without_a_match() {
        let r = routes(&[("h", "/a")]);
        let bound = RouteSpec { listeners: vec!["web".into()], ..r.specs()[0].clone() };
        let bound = Routes::compile(Arc::new([bound]), Arc::new(["web".into(), "other".into()]), |_| Some(0));
        assert!(found(&bound, "h", "/a").is_some());
        assert!(bound.find("other", "h", "/a").is_none() && bound.find("removed", "h", "/a").is_none());
        assert!(r.find("removed", "h", "/a").is_some(), "a connection of a removed listener has a next response");
        assert!(found(&r, "h", "/b").is_none() && found(&r, "g", "/a").is_none());
    }
}
