//! What handlers take from a request, refused as [`Problem`]s: names and ids of the path, query values, JSON bodies.
//!
//! A service outside the default namespace stands in a path as `namespace%2Fname`: the text that `weir services` shows,
//! percent-encoded (RFC 3986 §2.1).

use crate::admin::Problem;
use crate::model::{InstanceId, ServiceName};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::de::DeserializeOwned;

/// The service that a path names.
pub(super) struct Service(pub(super) ServiceName);

/// The instance that a path names.
pub(super) struct Id(pub(super) InstanceId);

/// Values of the query.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync> FromRequestParts<S> for Service {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = segment(parts, state).await?;
        ServiceName::parse(&text).map(Self).map_err(|error| Problem::invalid(format!("in the path: {error}")))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = segment(parts, state).await?;
        InstanceId::parse(&text).map(Self).map_err(|error| Problem::invalid(format!("in the path: {error}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(values) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::invalid(format!("in the query: {}", rejection.body_text())))?;
        Ok(Self(values))
    }
}

async fn segment<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, Problem> {
    let Path(text) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|rejection| Problem::invalid(format!("in the path: {}", rejection.body_text())))?;
    Ok(text)
}

/// Reads a JSON body; the message names line and column.
pub(super) fn json<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::invalid(format!("in the body: {error}")))
}
