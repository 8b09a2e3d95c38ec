//! The routes in force: host and path prefix → service.

use crate::admin::State;
use axum::Json;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A rule of the HTTP listeners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The listeners it applies to.
    pub listeners: Vec<String>,
    /// The host; null: any.
    pub host: Option<String>,
    /// The path prefix, by whole segments.
    pub path: String,
    /// The service that answers, as `name` or `namespace/name`.
    pub service: String,
    /// The service's port that requests go to.
    pub port: String,
}

/// Routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Routes {
    /// In the order of the configuration.
    pub routes: Vec<Route>,
}

/// Lists the routes.
#[utoipa::path(get, path = "/v1/routes", operation_id = "list_routes", tag = "routes",
    responses((status = 200, description = "routes", body = Routes)))]
pub(super) async fn list(state: axum::extract::State<Arc<State>>) -> Json<Routes> {
    let snapshot = state.table.load();
    let all = || snapshot.listeners.iter().map(|listener| listener.name.to_string());
    let routes = snapshot.routes.specs().iter().map(|spec| {
        let service = snapshot.services.get(&spec.service);
        let port = service.and_then(|service| service.spec.ports.get(spec.port));
        Route {
            name: spec.name.to_string(),
            listeners: match spec.listeners.as_slice() {
                [] => all().collect(),
                some => some.iter().map(ToString::to_string).collect(),
            },
            host: spec.host.as_deref().map(str::to_owned),
            path: spec.path.to_string(),
            service: spec.service.to_string(),
            port: port.map(|port| port.name.to_string()).unwrap_or_default(),
        }
    });
    Json(Routes { routes: routes.collect() })
}
