//! Whether this Weir lives and is ready, and its metrics.

use crate::admin::{Problem, State, extract};
use crate::clock;
use crate::control;
use crate::control::runtime::{EngineState, EngineStatus};
use crate::lifecycle::Phase;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// This Weir as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// The machine's name.
    pub node: String,
    /// The process that serves.
    pub pid: u32,
    /// The process that holds its sockets and starts it again; absent without one.
    pub keeper: Option<u32>,
    /// `running`, `draining` or `stopping`.
    pub lifecycle: String,
    /// The current generation of the table.
    pub generation: u64,
    /// What survives; absent where nothing does.
    pub store: Option<StoreStatus>,
    /// What runs containers.
    pub engines: Vec<Engine>,
    /// What somebody should do something about: certificates that end soon or could not be replaced.
    pub warnings: Vec<String>,
}

/// Something that runs workloads for Weir.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Engine {
    /// Its name, such as `docker`.
    pub name: String,
    /// `unused` before it was needed, `reachable`, `away`, or `stuck` when it does not answer in time.
    pub state: String,
    /// Why it is away or stuck.
    pub problem: Option<String>,
    /// Since when, in seconds.
    pub since_s: u64,
    /// Workloads that it is known to run.
    pub workloads: usize,
}

impl From<EngineStatus> for Engine {
    fn from(status: EngineStatus) -> Self {
        let problem = match &status.state {
            EngineState::Away(why) | EngineState::Stuck(why) => Some(why.to_string()),
            EngineState::Unused | EngineState::Reachable => None,
        };
        Self {
            name: status.name.to_owned(),
            state: status.state.to_string(),
            problem,
            since_s: clock::now_ms().saturating_sub(status.since_ms) / 1000,
            workloads: status.workloads,
        }
    }
}

/// The store: what was committed survives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Its file.
    pub path: String,
    /// `ok`, or `failing` after a write that failed: changes are refused until one succeeds.
    pub state: String,
    /// Why the last write failed.
    pub problem: Option<String>,
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Records of what happened that could not be written down yet.
    pub unsaved: usize,
    /// Instances that are written down as serving: they serve at once after a restart.
    pub serving: usize,
    /// Transactions since the start.
    pub commits: u64,
    /// Transactions that failed since the start.
    pub failures: u64,
}

/// How `/readyz` answers.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Detail {
    /// When present: one line for each condition.
    verbose: Option<String>,
}

/// Tells how this Weir and its store do.
#[utoipa::path(get, path = "/v1/status", tag = "status",
    responses((status = 200, description = "how it does", body = Status)))]
pub(super) async fn show(state: axum::extract::State<Arc<State>>) -> Json<Status> {
    let store = state.store.as_ref().map(control::store::Store::status).map(|status| StoreStatus {
        path: status.path.display().to_string(),
        state: if status.problem.is_some() { "failing" } else { "ok" }.to_owned(),
        problem: status.problem.map(|problem| problem.to_string()),
        file_bytes: status.file_bytes,
        unsaved: status.unsaved,
        serving: status.serving,
        commits: status.commits,
        failures: status.failures,
    });
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: state.node.to_string(),
        pid: std::process::id(),
        keeper: state.upgrader.keeper(),
        lifecycle: phase_name(state.signal.phase()).to_owned(),
        generation: state.table.load().generation,
        store,
        engines: state.scheduler.engines().into_iter().map(Engine::from).collect(),
        warnings: state.certificates.warnings(i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX)),
    })
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, description = "Prometheus text", content_type = "text/plain")))]
pub(super) async fn metrics(state: axum::extract::State<Arc<State>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.metrics.encode()).into_response()
}

/// Whether the process lives: 200 as long as it answers.
#[utoipa::path(get, path = "/livez", tag = "status",
    responses((status = 200, description = "ok", content_type = "text/plain")))]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether traffic may be sent here: from the first published table until the drain.
#[utoipa::path(get, path = "/readyz", tag = "status", params(Detail),
    responses((status = 200, description = "ready", content_type = "text/plain"),
              (status = 503, description = "not ready", content_type = "text/plain")))]
pub(super) async fn readyz(
    state: axum::extract::State<Arc<State>>,
    extract::Params(detail): extract::Params<Detail>,
) -> Result<Response, Problem> {
    let (generation, phase) = (state.table.load().generation, state.signal.phase());
    let conditions = [
        (generation > 0, format!("table: generation {generation}")),
        (phase == Phase::Running, format!("lifecycle: {}", phase_name(phase))),
    ];
    let ready = conditions.iter().all(|(holds, _)| *holds);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    for (holds, line) in conditions.iter().filter(|(holds, _)| detail.verbose.is_some() || !holds) {
        text.push_str(if *holds { "[+] " } else { "[-] " });
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    Ok((status, text).into_response())
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "running",
        Phase::Draining => "draining",
        Phase::Stopping => "stopping",
    }
}
