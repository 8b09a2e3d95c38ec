//! Routes of two origins as one list: the configuration's, and those of another Weir's table.

use crate::model::RouteSpec;
use std::collections::HashSet;
use std::sync::Arc;

/// The routes of each origin.
#[derive(Debug, Default)]
pub(super) struct RouteSources {
    own: Arc<[RouteSpec]>,
    fed: Arc<[RouteSpec]>,
}

impl RouteSources {
    /// Takes up what is new of either; returns the list as it is then, when anything is.
    pub(super) fn take_up(
        &mut self,
        own: Option<Arc<[RouteSpec]>>,
        fed: Option<Arc<[RouteSpec]>>,
    ) -> Option<Arc<[RouteSpec]>> {
        if own.is_none() && fed.is_none() {
            return None;
        }
        self.own = own.unwrap_or_else(|| self.own.clone());
        self.fed = fed.unwrap_or_else(|| self.fed.clone());
        if self.fed.is_empty() {
            return Some(self.own.clone());
        }
        // Listeners are this Weir's: one that is named here and there need not be the same.
        let taken: HashSet<_> = self.own.iter().map(|route| (&route.host, &route.path)).collect();
        let names: HashSet<_> = self.own.iter().map(|route| &route.name).collect();
        let free = |route: &&RouteSpec| !taken.contains(&(&route.host, &route.path)) && !names.contains(&route.name);
        Some(self.own.iter().chain(self.fed.iter().filter(free)).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::RouteSources;
    use crate::model::{RouteSpec, ServiceName};
    use std::sync::Arc;

    fn routes(rows: &[(&str, &str, &str)]) -> Arc<[RouteSpec]> {
        let route = |(name, path, service): &(&str, &str, &str)| RouteSpec {
            name: (*name).into(),
            listeners: Vec::new(),
            host: None,
            path: (*path).into(),
            service: ServiceName::parse(service).unwrap(),
            port: 0,
        };
        rows.iter().map(route).collect()
    }

    fn names(list: Option<Arc<[RouteSpec]>>) -> Vec<String> {
        list.unwrap().iter().map(|route| format!("{}:{}", route.name, route.service)).collect()
    }

    #[test]
    fn the_configuration_s_route_wins_and_each_origin_changes_by_itself() {
        let mut sources = RouteSources::default();
        assert_eq!(sources.take_up(None, None), None);
        let fed = routes(&[("a", "/", "far"), ("b", "/b", "far"), ("c", "/c", "far")]);
        assert_eq!(names(sources.take_up(None, Some(fed))), ["a:far", "b:far", "c:far"]);
        let own = routes(&[("root", "/", "near"), ("c", "/d", "near")]);
        assert_eq!(names(sources.take_up(Some(own), None)), ["root:near", "c:near", "b:far"]);
        assert_eq!(names(sources.take_up(None, Some(Arc::new([])))), ["root:near", "c:near"]);
    }
}
