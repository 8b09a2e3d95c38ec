//! How a service is scaled: what is wanted and why, and giving a number by hand back.

use crate::admin::endpoints::find;
use crate::admin::{Problem, State, extract, refusal};
use crate::control::autoscale::{Decision, Decisions, Recommendation};
use crate::control::scheduler::SchedulerError;
use crate::model::{ScalePolicy, ScaleSpec};
use crate::spec;
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// How a service that Weir runs is scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScaleState {
    /// Its name in the namespace.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Wanted replicas.
    pub replicas: u32,
    /// Replicas that serve.
    pub ready: u32,
    /// Whether that number was set by hand; the autoscaler's does not count meanwhile.
    pub pinned: bool,
    /// How the autoscaler sizes it; null: it has no `[service.scale]`.
    pub autoscaler: Option<Autoscaler>,
}

/// How the autoscaler sizes a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Autoscaler {
    /// What the number follows: `objective`, `concurrency` or `requests-per-second`.
    pub policy: String,
    /// The objective, such as `p99 < 500ms`.
    pub objective: String,
    /// The target of the plain policies.
    pub target: Option<u32>,
    /// Fewest replicas.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// Longest time that a request or stream is held until a replica serves, milliseconds; null: it always has one.
    pub wake_timeout_ms: Option<u64>,
    /// How often a replica was ordered because something waited while there was none.
    pub wakes: u64,
    /// The newest decision; null in the first seconds.
    pub newest: Option<ScaleDecision>,
    /// The newest decision that changed what is wanted.
    pub changed: Option<ScaleDecision>,
}

/// A recommendation with every input that led to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScaleDecision {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Replicas that were wanted before.
    pub wanted: u32,
    /// Replicas that are recommended.
    pub recommended: u32,
    /// The term that decided: `forecast`, `target`, `backlog`, `window`, `min`, `max`, `idle`, `wake`, `expected` or `hold`.
    pub because: String,
    /// Whether it changed what is wanted.
    pub applied: bool,
    /// Newest arrivals per second.
    pub rate: f64,
    /// Highest arrivals per second that are forecast until an order serves.
    pub forecast: f64,
    /// By how much such forecasts were off, per second.
    pub sigma: f64,
    /// How many of those are staffed for.
    pub z: f64,
    /// Arrivals per second that are staffed for.
    pub staffed_rate: f64,
    /// Mean time in service, milliseconds.
    pub service_ms: f64,
    /// Its coefficient of variation.
    pub cv: f64,
    /// Requests that a replica serves at once.
    pub slots: u32,
    /// Requests in service.
    pub in_service: u32,
    /// Requests that waited for a free replica.
    pub queued: u32,
    /// Cold start that is reckoned with, seconds.
    pub cold_start_s: f64,
    /// Replicas by the forecast, or by the target.
    pub by_forecast: u32,
    /// Replicas by the backlog.
    pub by_backlog: u32,
    /// Most replicas within the stabilization window.
    pub by_window: u32,
    /// That window, seconds.
    pub window_s: f64,
    /// Share of the last half hour's requests that were late for want of replicas.
    pub late_ratio: f64,
    /// For how long nobody has used it, seconds.
    pub idle_s: f64,
    /// After so long the last replica goes, seconds; null: it never does.
    pub zero_after_s: Option<f64>,
}

/// Shows how a service is scaled, with the inputs of the newest decision.
#[utoipa::path(get, path = "/v1/services/{name}/scale", operation_id = "show_scale", tag = "services",
    params(("name" = String, Path)),
    responses((status = 200, description = "how it is scaled", body = ScaleState),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "not_scalable: Weir does not run its replicas", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
) -> Result<Json<ScaleState>, Problem> {
    let snapshot = state.table.load();
    let service = find(&snapshot, &name)?;
    let statuses = state.scheduler.status().await;
    let Some(status) = statuses.into_iter().find(|status| status.name == name) else {
        return Err(refusal::scheduler(SchedulerError::NotRun(name)));
    };
    let decisions = state.autoscaler.of(&name);
    let autoscaler = service.spec.scale.as_ref().map(|scale| describe(scale, decisions.as_ref()));
    Ok(Json(ScaleState {
        service: name.name().to_owned(),
        namespace: name.namespace().to_owned(),
        replicas: status.wanted,
        ready: status.ready,
        pinned: status.pinned,
        autoscaler,
    }))
}

/// Gives the number of replicas back to the autoscaler; without one, to the definition.
#[utoipa::path(delete, path = "/v1/services/{name}/scale", operation_id = "undo_scale", tag = "services",
    params(("name" = String, Path)),
    responses((status = 202, description = "accepted"),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "not_scalable: Weir does not run its replicas", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn undo(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
) -> Result<StatusCode, Problem> {
    find(&state.table.load(), &name)?;
    state.deployments.unpin(&name).await.map_err(refusal::scaling)?;
    Ok(StatusCode::ACCEPTED)
}

fn describe(scale: &ScaleSpec, decisions: Option<&Decisions>) -> Autoscaler {
    let (policy, target) = match scale.policy {
        ScalePolicy::Objective => ("objective", None),
        ScalePolicy::Concurrency { target } => ("concurrency", Some(target)),
        ScalePolicy::RequestsPerSecond { target } => ("requests-per-second", Some(target)),
    };
    Autoscaler {
        policy: policy.to_owned(),
        objective: spec::Objective::new(scale.objective.quantile_ppm, scale.objective.latency).to_string(),
        target,
        min: scale.min,
        max: scale.max,
        wake_timeout_ms: (scale.min == 0).then(|| u64::try_from(scale.wake_timeout.as_millis()).unwrap_or(u64::MAX)),
        wakes: decisions.map_or(0, |decisions| decisions.wakes),
        newest: decisions.map(|decisions| row(&decisions.newest)),
        changed: decisions.and_then(|decisions| decisions.changed.as_ref()).map(row),
    }
}

fn row(decision: &Decision) -> ScaleDecision {
    let Recommendation { rate, forecast, sigma, z, staffed_rate, cv, .. } = decision.made;
    let Recommendation { in_service, queued, by_forecast, by_backlog, by_window, .. } = decision.made;
    let short = |value: f64| (value * 1000.0).round() / 1000.0;
    ScaleDecision {
        at_unix_ms: decision.at_unix_ms,
        wanted: decision.wanted,
        recommended: decision.made.replicas,
        because: decision.made.because.as_str().to_owned(),
        applied: decision.applied,
        rate: short(rate),
        forecast: short(forecast),
        sigma: short(sigma),
        z: short(z),
        staffed_rate: short(staffed_rate),
        service_ms: short(1000.0 * decision.made.service_s),
        cv: short(cv),
        slots: decision.slots,
        in_service,
        queued,
        cold_start_s: short(decision.made.cold_start_s),
        by_forecast,
        by_backlog,
        by_window,
        window_s: short(decision.made.window_s),
        idle_s: short(decision.made.idle_s),
        zero_after_s: decision.made.zero_after_s.map(short),
        late_ratio: (decision.made.late_share * 1e6).round() / 1e6,
    }
}
