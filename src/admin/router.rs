//! All routes of the API, each with its entry in the OpenAPI document.

use crate::admin::guard::{self, BodyLimit};
use crate::admin::{
    Problem, State, certificates, configuration, deployments, endpoints, events, explain, instances, logs, openapi,
    resolve, routes, scale, services, status, table, upgrade,
};
use axum::Router;
use axum::http::StatusCode;
use axum::middleware;
use std::sync::Arc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes as route;

/// Builds the router; request bodies hold at most `body_bytes`.
pub(super) fn build(state: State, body_bytes: usize) -> Router {
    let (router, document) = OpenApiRouter::with_openapi(openapi::document())
        .routes(route!(services::list))
        .routes(route!(services::show, deployments::remove))
        .routes(route!(scale::show, services::scale, scale::undo))
        .routes(route!(deployments::deploy))
        .routes(route!(deployments::deploy_all))
        .routes(route!(deployments::rollback))
        .routes(route!(deployments::revisions))
        .routes(route!(deployments::rollout))
        .routes(route!(instances::list, instances::register))
        .routes(route!(instances::show, instances::deregister))
        .routes(route!(instances::history))
        .routes(route!(instances::renew))
        .routes(route!(instances::drain, instances::undo_drain))
        .routes(route!(logs::show))
        .routes(route!(endpoints::list))
        .routes(route!(routes::list))
        .routes(route!(certificates::list))
        .routes(route!(certificates::authority))
        .routes(route!(certificates::renew))
        .routes(route!(configuration::show))
        .routes(route!(configuration::reload))
        .routes(route!(configuration::diff))
        .routes(route!(upgrade::show, upgrade::begin))
        .routes(route!(status::show))
        .routes(route!(explain::show))
        .routes(route!(resolve::show))
        .routes(route!(table::table))
        .routes(route!(table::acknowledge))
        .routes(route!(table::leave))
        .routes(route!(events::list))
        .routes(route!(status::metrics))
        .routes(route!(status::livez))
        .routes(route!(status::readyz))
        .routes(route!(openapi::show))
        .split_for_parts();
    let text = openapi::Text(document.to_json().unwrap_or_default().into());
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(axum::Extension(text))
        .layer(middleware::from_fn_with_state(state.upgrader.clone(), upgrade::guard))
        .layer(middleware::from_fn_with_state(BodyLimit(body_bytes), guard::check))
        .with_state(Arc::new(state))
}

async fn unknown_path() -> Problem {
    let detail = "there is nothing at this path; /openapi.json lists what there is";
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}

async fn unknown_method() -> Problem {
    let detail = "this path does not take this method; /openapi.json lists which it takes";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "unknown_method", detail)
}
