//! Errors of the API as RFC 9457 problem details.
//!
//! A [`Problem`] is the whole answer: status, a stable `code` for programs, and `detail` for people, which says what to
//! do. What happened inside is logged, never shown.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use utoipa::ToSchema;

/// An answer that says why a request was not carried out (RFC 9457 §3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:weir:problem:<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status code of the answer.
    pub status: u16,
    /// What happened, stable for programs, such as `unknown_service`.
    pub code: String,
    /// What happened and what to do, for people.
    pub detail: String,
}

impl Problem {
    /// Makes a problem; `code` is stable, `detail` is shown.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: format!("urn:weir:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into().into_owned(),
        }
    }

    /// The request cannot be understood: 400.
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// The process is ending: 503.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "this Weir is stopping and takes no more changes")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::Problem;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;

    #[tokio::test]
    async fn a_problem_is_rfc_9457_json() {
        let response = Problem::new(StatusCode::NOT_FOUND, "unknown_service", "no service \"x\"").into_response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["type"], "urn:weir:problem:unknown_service");
        assert_eq!((value["status"].as_u64(), value["title"].as_str()), (Some(404), Some("Not Found")));
        assert_eq!(value["detail"], "no service \"x\"");
    }
}
