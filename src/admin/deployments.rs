//! Deployments: changes of definitions, their revisions, their rollouts.

use crate::admin::{Problem, State, extract, refusal};
use crate::control::deployments::{Accepted, Patch, RevisionStatus, RolloutStatus};
use crate::control::store::{ChangeSource, Outcome};
use crate::spec;
use axum::Json;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// A small change of a service's definition; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// The image of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Program and arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Variables to set; null removes one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Option<String>>,
    /// Carried out only if this revision is the wanted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
}

/// Whole definitions, all of which are taken up or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployAll {
    /// The definitions; services that do not exist are made.
    pub services: Vec<spec::Service>,
}

/// Where a rollback goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The revision; the last one that worked when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// What was stored; the rollout goes on after the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// The service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The revision that is wanted now.
    pub revision: u64,
    /// False when that was wanted before, so that nothing is to be done.
    pub changed: bool,
}

/// What was stored of several services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeployedAll {
    /// In the order of the request.
    pub deployed: Vec<Deployed>,
}

/// A numbered definition of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number, from 1, rising.
    pub revision: u64,
    /// `file`, `deploy` or `rollback`.
    pub source: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_unix_ms: u64,
    /// `progressing`, `completed`, `failed`, `rolled_back` or `superseded`.
    pub outcome: String,
    /// Why its rollout failed.
    pub cause: Option<String>,
    /// What else is known of it.
    pub note: Option<String>,
    /// Whether it is the wanted one.
    pub wanted: bool,
    /// Whether it is the last one that worked.
    pub stable: bool,
    /// The definition, with every default.
    pub definition: spec::Service,
}

/// The revisions of a service that are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revisions {
    /// Oldest first.
    pub revisions: Vec<Revision>,
}

/// The rollout of one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    /// The service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// The revision.
    pub revision: u64,
    /// `progressing`, `monitoring`, `completed`, `rolling_back`, `rolled_back`, `failed` or `superseded`.
    pub phase: String,
    /// Replicas that are wanted; 0 of a revision that is no longer the wanted one, as in the next three.
    pub replicas: u32,
    /// Replicas of this revision that run.
    pub updated: u32,
    /// Of these, those that have proved themselves.
    pub healthy: u32,
    /// Replicas of other revisions that are still to go.
    pub old: u32,
    /// Why it failed; the first line says it, the last lines of a replica that exited may follow.
    pub cause: Option<String>,
    /// The revision that took its place.
    pub next: Option<u64>,
}

/// Which rollout is shown.
#[derive(Debug, Clone, Copy, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// The revision; the wanted one when absent.
    revision: Option<u64>,
}

/// Changes a part of a service's definition.
#[utoipa::path(post, path = "/v1/services/{name}/deploy", operation_id = "deploy", tag = "deployments",
    params(("name" = String, Path)), request_body = Deploy,
    responses((status = 202, description = "stored; the rollout begins", body = Deployed),
              (status = 400, description = "nothing to change", body = Problem),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "not_run, revision_moved", body = Problem),
              (status = 422, description = "invalid_definition", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn deploy(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
    body: Bytes,
) -> Result<(StatusCode, Json<Deployed>), Problem> {
    let Deploy { image, command, env, if_revision } = extract::json(&body)?;
    let patch = Patch { image, command, env };
    let accepted = state.deployments.patch(&name, patch, if_revision).await.map_err(refusal::deployment)?;
    Ok((StatusCode::ACCEPTED, Json(accepted.into())))
}

/// Replaces whole definitions, all or none; services that do not exist are made.
#[utoipa::path(post, path = "/v1/deploy", operation_id = "deploy_all", tag = "deployments", request_body = DeployAll,
    responses((status = 202, description = "stored; the rollouts begin", body = DeployedAll),
              (status = 409, description = "endpoints_in_file, port_in_use", body = Problem),
              (status = 422, description = "invalid_definition", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn deploy_all(
    state: axum::extract::State<Arc<State>>,
    body: Bytes,
) -> Result<(StatusCode, Json<DeployedAll>), Problem> {
    let DeployAll { services } = extract::json(&body)?;
    let accepted = state.deployments.define(services).await.map_err(refusal::deployment)?;
    Ok((StatusCode::ACCEPTED, Json(DeployedAll { deployed: accepted.into_iter().map(Into::into).collect() })))
}

/// Removes a service that was made over the API: its replicas are drained and stopped after the answer.
#[utoipa::path(delete, path = "/v1/services/{name}", operation_id = "remove_service", tag = "deployments",
    params(("name" = String, Path)),
    responses((status = 202, description = "stored; its replicas leave"),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "defined_in_file, service_in_use", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn remove(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
) -> Result<StatusCode, Problem> {
    state.deployments.remove(&name).await.map_err(refusal::deployment)?;
    Ok(StatusCode::ACCEPTED)
}

/// Wants an earlier definition again, as a new revision.
#[utoipa::path(post, path = "/v1/services/{name}/rollback", operation_id = "rollback", tag = "deployments",
    params(("name" = String, Path)), request_body = Rollback,
    responses((status = 202, description = "stored; the rollout begins", body = Deployed),
              (status = 404, description = "unknown_service, unknown_revision", body = Problem),
              (status = 409, description = "nothing_earlier, port_in_use", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn rollback(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
    body: Bytes,
) -> Result<(StatusCode, Json<Deployed>), Problem> {
    let Rollback { to } = if body.is_empty() { Rollback::default() } else { extract::json(&body)? };
    let accepted = state.deployments.rollback(&name, to).await.map_err(refusal::deployment)?;
    Ok((StatusCode::ACCEPTED, Json(accepted.into())))
}

/// Lists the revisions of a service that are kept.
#[utoipa::path(get, path = "/v1/services/{name}/revisions", operation_id = "list_revisions", tag = "deployments",
    params(("name" = String, Path)),
    responses((status = 200, description = "revisions, oldest first", body = Revisions),
              (status = 404, description = "unknown_service", body = Problem)))]
pub(super) async fn revisions(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
) -> Result<Json<Revisions>, Problem> {
    let found = state.deployments.history(&name).await.map_err(refusal::deployment)?;
    Ok(Json(Revisions { revisions: found.into_iter().map(Into::into).collect() }))
}

/// Shows where a rollout stands.
#[utoipa::path(get, path = "/v1/services/{name}/rollout", operation_id = "show_rollout", tag = "deployments",
    params(("name" = String, Path), Which),
    responses((status = 200, description = "the rollout", body = Rollout),
              (status = 404, description = "unknown_service, unknown_revision", body = Problem)))]
pub(super) async fn rollout(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
    extract::Params(Which { revision }): extract::Params<Which>,
) -> Result<Json<Rollout>, Problem> {
    let found = state.deployments.rollout(&name, revision).await.map_err(refusal::deployment)?;
    Ok(Json(found.into()))
}

impl From<Accepted> for Deployed {
    fn from(accepted: Accepted) -> Self {
        let Accepted { service, revision, changed } = accepted;
        let (service, namespace) = (service.name().to_owned(), service.namespace().to_owned());
        Self { service, namespace, revision, changed }
    }
}

impl From<RevisionStatus> for Revision {
    fn from(status: RevisionStatus) -> Self {
        Self {
            revision: status.number,
            source: match status.source {
                ChangeSource::File => "file",
                ChangeSource::Deploy => "deploy",
                ChangeSource::Rollback => "rollback",
            }
            .to_owned(),
            created_unix_ms: status.created_ms,
            outcome: match status.outcome {
                Outcome::Progressing => "progressing",
                Outcome::Completed => "completed",
                Outcome::Failed => "failed",
                Outcome::RolledBack => "rolled_back",
                Outcome::Superseded => "superseded",
            }
            .to_owned(),
            cause: status.cause,
            note: status.note,
            wanted: status.is_wanted,
            stable: status.is_stable,
            definition: status.definition,
        }
    }
}

impl From<RolloutStatus> for Rollout {
    fn from(status: RolloutStatus) -> Self {
        Self {
            service: status.service.name().to_owned(),
            namespace: status.service.namespace().to_owned(),
            revision: status.revision,
            phase: status.phase.as_str().to_owned(),
            replicas: status.wanted,
            updated: status.updated,
            healthy: status.healthy,
            old: status.old,
            cause: status.cause,
            next: status.next,
        }
    }
}
