//! The OpenAPI document, made from the handlers.

use axum::Extension;
use axum::http::header;
use axum::response::IntoResponse;
use std::sync::Arc;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(info(
    title = "Weir admin API",
    description = "What this Weir runs, knows and serves, and how to change it. Reachable from this machine only. \
                   A service outside the namespace `default` stands in a path as `namespace%2Fname`. A request that \
                   changes something needs `content-type: application/json` or `x-requested-with: weir`. Errors are \
                   RFC 9457 problem details with a stable `code`."
))]
struct Document;

/// The document as JSON, made once.
#[derive(Debug, Clone)]
pub(super) struct Text(pub(super) Arc<str>);

/// Returns the document without paths; the router adds them.
pub(super) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "status",
    responses((status = 200, description = "OpenAPI 3.1")))]
pub(super) async fn show(Extension(Text(text)): Extension<Text>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string())
}
