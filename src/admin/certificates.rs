//! Certificates that Weir obtained: what there is, the root of the internal authority, and a renewal by hand.

use crate::admin::{Problem, State};
use crate::control::certificates::{Handle, Listed};
use crate::control::store::Origin;
use crate::table::certificates::{RefusedFile, Standing};
use axum::Json;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// The certificate of a name, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The name.
    pub name: String,
    /// Who issues it: `acme` or `internal`.
    pub source: String,
    /// Whether a client asked for it, and no listener lists it.
    pub on_demand: bool,
    /// Whether a listener wants it; what nobody wants is kept until it expires.
    pub wanted: bool,
    /// The issuer's name; null: there is no certificate yet.
    pub issuer: Option<String>,
    /// Until when it is valid, in milliseconds since the Unix epoch.
    pub not_after_unix_ms: Option<u64>,
    /// When it is renewed, or ordered again after a failure, in milliseconds since the Unix epoch; null: at once.
    pub next_unix_ms: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// Certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificates {
    /// What Weir obtains, by name.
    pub certificates: Vec<Certificate>,
    /// What is in use from files, by listener, and after it the files that cannot be used now.
    #[serde(default)]
    pub files: Vec<CertificateFile>,
}

/// A file of a certificate, or one of a certificate, key, authority or revocation list that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateFile {
    /// Its path.
    pub file: String,
    /// Whose it is: `listener NAME`, or `endpoints` for what services' endpoints are spoken to with.
    pub owner: String,
    /// The names that the certificate is for; empty for a file that cannot be used.
    pub names: Vec<String>,
    /// Until when it is valid, in milliseconds since the Unix epoch.
    pub not_after_unix_ms: Option<u64>,
    /// What is wrong with it now; null: it is in use.
    pub problem: Option<String>,
    /// Whether what was read before stays in use; null where nothing is wrong.
    pub stays: Option<bool>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl From<&Standing> for CertificateFile {
    fn from(standing: &Standing) -> Self {
        let source = &*standing.source;
        Self {
            file: source.strip_prefix("file ").unwrap_or(source).to_owned(),
            owner: format!("listener {}", standing.listener),
            names: standing.names.iter().map(ToString::to_string).collect(),
            not_after_unix_ms: u64::try_from(standing.not_after_unix_s).ok().map(|seconds| seconds * 1000),
            problem: None,
            stays: None,
            hint: None,
        }
    }
}

impl From<&RefusedFile> for CertificateFile {
    fn from(refused: &RefusedFile) -> Self {
        Self {
            file: refused.file.to_string(),
            owner: refused.owner.to_string(),
            names: Vec::new(),
            not_after_unix_ms: None,
            problem: Some(refused.problem.clone()),
            stays: Some(refused.stays),
            hint: Some(refused.hint.to_owned()),
        }
    }
}

impl From<Listed> for Certificate {
    fn from(listed: Listed) -> Self {
        Self {
            name: listed.name.to_string(),
            source: match listed.origin {
                Origin::Acme => "acme".to_owned(),
                Origin::Internal => "internal".to_owned(),
            },
            on_demand: listed.on_demand,
            wanted: listed.is_wanted,
            issuer: listed.issuer,
            not_after_unix_ms: listed.not_after_ms,
            next_unix_ms: listed.next_ms,
            failures: listed.failures,
            error: listed.error,
        }
    }
}

/// Lists the certificates that Weir obtains, and those that it reads from files.
#[utoipa::path(get, path = "/v1/certificates", operation_id = "list_certificates", tag = "certificates",
    responses((status = 200, description = "certificates", body = Certificates)))]
pub(super) async fn list(state: axum::extract::State<Arc<State>>) -> Json<Certificates> {
    let listed = state.obtained.as_ref().map(Handle::list).unwrap_or_default();
    let (standings, refused) = (state.certificates.standings(), state.certificates.refused());
    let files = standings.iter().map(Into::into).chain(refused.iter().map(Into::into)).collect();
    Json(Certificates { certificates: listed.into_iter().map(Into::into).collect(), files })
}

/// Shows the root of the internal authority: who trusts it trusts every certificate for a private name.
#[utoipa::path(get, path = "/v1/certificates-authority", operation_id = "show_authority", tag = "certificates",
    responses((status = 200, description = "the root, PEM", content_type = "application/x-pem-file"),
        (status = 404, description = "it has issued nothing yet", body = Problem)))]
pub(super) async fn authority(state: axum::extract::State<Arc<State>>) -> Result<impl IntoResponse, Problem> {
    let root = state.obtained.as_ref().and_then(Handle::root).ok_or_else(|| {
        let detail = "no listener has names in tls.internal, so there is no internal authority";
        Problem::new(StatusCode::NOT_FOUND, "no_authority", detail)
    })?;
    Ok(([(header::CONTENT_TYPE, "application/x-pem-file")], root.to_string()))
}

/// Renews a certificate now.
#[utoipa::path(post, path = "/v1/certificates/{name}/renew", operation_id = "renew_certificate", tag = "certificates",
    params(("name" = String, Path, description = "the name")),
    responses((status = 202, description = "it is being obtained"),
        (status = 404, description = "no listener wants a certificate for that name", body = Problem)))]
pub(super) async fn renew(
    state: axum::extract::State<Arc<State>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    let is_known = match &state.obtained {
        Some(keeper) => keeper.renew(&name).await,
        None => false,
    };
    if is_known {
        return Ok(StatusCode::ACCEPTED);
    }
    let detail = format!("no listener wants a certificate for {name}; GET /v1/certificates lists the names");
    Err(Problem::new(StatusCode::NOT_FOUND, "unknown_certificate", detail))
}
