//! The configuration: what is in use, taking up another, comparing one with what runs.

use crate::admin::{Problem, State, extract};
use crate::control::configuration::{Cause, Fault, Outcome};
use axum::Json;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// The configuration in use, and why the file is not, when it is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The file; null: a configuration of the program's own.
    pub file: Option<String>,
    /// Hash of the text in use.
    pub hash: String,
    /// Since when it is in use, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Why it was taken up: `start`, `last_good` (at a start, because the file was refused), `file`, `signal` or `api`.
    pub cause: String,
    /// The generation of the table that showed it first.
    pub generation: u64,
    /// How changes of the file are noticed: `inotify`, `poll` or `none`.
    pub watch: String,
    /// Reloads by outcome.
    pub reloads: Reloads,
    /// Why the file's present text is not in use; null: it is.
    pub failure: Option<RefusedConfiguration>,
}

/// How often reloads ended in each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloads {
    /// Taken up.
    pub applied: u64,
    /// The same as before.
    pub unchanged: u64,
    /// Refused.
    pub refused: u64,
}

/// A configuration that was not taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RefusedConfiguration {
    /// When it was looked at first, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Why it was: `start`, `file`, `signal` or `api`.
    pub cause: String,
    /// Hash of its text; empty when there was none to read.
    pub hash: String,
    /// Everything that is wrong with it.
    pub problems: Vec<ConfigurationProblem>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationProblem {
    /// The file, variable or flag.
    pub file: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// The key; empty when the text itself is wrong.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// `applied`, `unchanged`, `handed_over`: another process takes it up; or `handed_before`: another process takes up
    /// what the file said before, so ask again once that upgrade has ended.
    pub outcome: String,
    /// The number of the upgrade that does; null when this process took it up.
    #[serde(default)]
    pub upgrade: Option<u64>,
    /// The generation of the table that shows it; null when nothing changed.
    pub generation: Option<u64>,
    /// What changed.
    pub changes: Vec<ConfigurationChange>,
}

/// One key that differs; secrets are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationChange {
    /// The key, elements of lists by their names.
    pub key: String,
    /// The value before; null: it was not there.
    pub before: Option<String>,
    /// The value after; null: it is gone.
    pub after: Option<String>,
    /// Whether it can be taken up while Weir runs, by this process or another; others need a restart.
    pub live: bool,
    /// The service that it belongs to.
    pub service: Option<String>,
    /// Whose definition of that service runs: `file`, `deploy` or `rollback`, and its revision.
    pub owner: Option<String>,
}

/// A configuration to compare with what runs; empty: the file as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// How problems name it.
    pub name: Option<String>,
    /// The text, TOML.
    pub text: Option<String>,
}

/// What a configuration would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Differences {
    /// In the order of the keys; empty: nothing.
    pub changes: Vec<ConfigurationChange>,
}

/// Shows which configuration is in use.
#[utoipa::path(get, path = "/v1/configuration", operation_id = "show_configuration", tag = "configuration",
    responses((status = 200, description = "the configuration", body = Configuration)))]
pub(super) async fn show(state: axum::extract::State<Arc<State>>) -> Json<Configuration> {
    let status = state.configuration.status();
    let [applied, unchanged, refused] = state.configuration.counts().map(|(_, count)| count);
    Json(Configuration {
        file: status.file.clone(),
        hash: status.hash.clone(),
        since_unix_ms: status.since_unix_ms,
        cause: status.cause.as_str().to_owned(),
        generation: status.generation,
        watch: status.watch.to_owned(),
        reloads: Reloads { applied, unchanged, refused },
        failure: status.failure.as_ref().map(|failure| RefusedConfiguration {
            at_unix_ms: failure.at_unix_ms,
            cause: failure.cause.as_str().to_owned(),
            hash: failure.hash.clone(),
            problems: failure.faults.iter().map(ConfigurationProblem::from).collect(),
        }),
    })
}

/// Looks at the file now and takes it up as a whole, or refuses it as a whole.
#[utoipa::path(post, path = "/v1/reload", operation_id = "reload", tag = "configuration",
    responses((status = 200, description = "in use", body = Reloaded),
              (status = 422, description = "invalid_configuration: the last good one stays in use", body = Problem),
              (status = 503, description = "stopping", body = Problem)))]
pub(super) async fn reload(state: axum::extract::State<Arc<State>>) -> Result<Json<Reloaded>, Problem> {
    let mut upgrade = None;
    let (outcome, generation, changes) =
        match state.configuration.reload(Cause::Api).await.ok_or_else(Problem::stopping)? {
            Outcome::Applied(changes, generation) => ("applied", Some(generation), changes),
            Outcome::HandedOver(changes, number) => {
                upgrade = Some(number);
                ("handed_over", None, changes)
            }
            Outcome::HandedBefore(changes, number) => {
                upgrade = Some(number);
                ("handed_before", None, changes)
            }
            Outcome::Unchanged => ("unchanged", None, Vec::new()),
            Outcome::Refused(faults) => return Err(state.upgrader.upgrading().unwrap_or_else(|| invalid(&faults))),
        };
    let changes = changes.into_iter().map(ConfigurationChange::from).collect();
    Ok(Json(Reloaded { outcome: outcome.to_owned(), upgrade, generation, changes }))
}

/// Compares a configuration with what runs; changes nothing.
#[utoipa::path(post, path = "/v1/configuration/diff", operation_id = "diff_configuration", tag = "configuration",
    request_body = Candidate,
    responses((status = 200, description = "what it would change", body = Differences),
              (status = 422, description = "invalid_configuration", body = Problem),
              (status = 503, description = "stopping", body = Problem)))]
pub(super) async fn diff(state: axum::extract::State<Arc<State>>, body: Bytes) -> Result<Json<Differences>, Problem> {
    let candidate: Candidate = if body.is_empty() { Candidate::default() } else { extract::json(&body)? };
    let text = candidate.text.map(|text| (candidate.name.unwrap_or_else(|| "the text".to_owned()), text));
    match state.configuration.diff(text).await.ok_or_else(Problem::stopping)? {
        Ok(changes) => Ok(Json(Differences { changes: changes.into_iter().map(ConfigurationChange::from).collect() })),
        Err(faults) => Err(invalid(&faults)),
    }
}

/// The problem of a configuration with problems: all of them, a line or two each.
fn invalid(faults: &[Fault]) -> Problem {
    let lines: Vec<String> = faults.iter().map(|fault| ConfigurationProblem::from(fault).to_string()).collect();
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_configuration", lines.join("\n"))
}

impl From<&Fault> for ConfigurationProblem {
    fn from(fault: &Fault) -> Self {
        let Fault { file, line, key, message, hint } = fault.clone();
        Self { file, line, key, message, hint }
    }
}

/// As `weir check` prints it.
impl std::fmt::Display for ConfigurationProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let key = if self.key.is_empty() { String::new() } else { format!(" {}:", self.key) };
        write!(f, "{}{line}:{key} {}", self.file, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<crate::control::configuration::Change> for ConfigurationChange {
    fn from(change: crate::control::configuration::Change) -> Self {
        let crate::control::configuration::Change { key, before, after, live, service, owner } = change;
        Self { key, before, after, live, service, owner }
    }
}
