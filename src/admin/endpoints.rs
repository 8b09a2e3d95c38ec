//! The routable addresses as proxy and DNS see them: the current snapshot, by the same candidates function.

use crate::admin::rates::Reading;
use crate::admin::{Problem, State, extract, refusal};
use crate::balance::Candidate;
use crate::clock;
use crate::model::ServiceName;
use crate::table::{self, Snapshot};
use axum::Json;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// One routable address of a service and what picking knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// The instance behind it.
    pub id: String,
    /// Its service's name in the namespace.
    pub service: String,
    /// Its service's namespace.
    pub namespace: String,
    /// `usable`: picked and named in DNS; `fail_open`: used only because no other is usable; `unhealthy` or `ejected`:
    /// passed over; `draining`: finishes what it has.
    pub state: String,
    /// IP address.
    pub address: String,
    /// Port numbers in the order of the service's ports; 0 where it offers none.
    pub ports: Vec<u16>,
    /// Relative share, 1..=1000.
    pub weight: u32,
    /// False while its active checks fail.
    pub healthy: bool,
    /// Whether passive ejection holds now.
    pub ejected: bool,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests per second over the last seconds.
    pub rps: f64,
    /// Latency average in milliseconds; 0 before the first answer.
    pub latency_ms: f64,
    /// Requests ever begun.
    pub requests: u64,
    /// Failures ever observed.
    pub failures: u64,
    /// Share of its weight that slow start grants now, 0.1..=1.
    pub warm: f64,
}

/// Endpoints of one generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Endpoints {
    /// The snapshot's generation.
    pub generation: u64,
    /// By service, then id.
    pub endpoints: Vec<Endpoint>,
}

/// Which endpoints are listed.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only those of this service, as `name` or `namespace/name`.
    service: Option<String>,
}

/// Lists the endpoints of the current snapshot.
#[utoipa::path(get, path = "/v1/endpoints", operation_id = "list_endpoints", tag = "endpoints", params(Filter),
    responses((status = 200, description = "endpoints", body = Endpoints),
              (status = 404, description = "unknown_service", body = Problem)))]
pub(super) async fn list(
    state: axum::extract::State<Arc<State>>,
    extract::Params(filter): extract::Params<Filter>,
) -> Result<Json<Endpoints>, Problem> {
    let snapshot = state.table.load();
    let services = match filter.service {
        None => all(&snapshot),
        Some(text) => {
            let name = ServiceName::parse(&text).map_err(|error| Problem::invalid(format!("service: {error}")))?;
            vec![find(&snapshot, &name)?]
        }
    };
    let rates = state.rates.load();
    let endpoints = services.into_iter().flat_map(|service| of_service(&rates, service)).collect();
    Ok(Json(Endpoints { generation: snapshot.generation, endpoints }))
}

/// Returns all services by name.
pub(super) fn all(snapshot: &Snapshot) -> Vec<&Arc<table::Service>> {
    let mut services: Vec<_> = snapshot.services.iter().collect();
    services.sort_by(|a, b| a.name().cmp(b.name()));
    services
}

/// Returns the service, or the answer that there is none.
pub(super) fn find<'a>(snapshot: &'a Snapshot, name: &ServiceName) -> Result<&'a Arc<table::Service>, Problem> {
    snapshot.services.get(name).ok_or_else(|| refusal::unknown_service(name))
}

fn of_service(rates: &Reading, service: &table::Service) -> Vec<Endpoint> {
    let now_ms = clock::now_ms();
    let fails_open = service.fails_open(now_ms);
    let mut chosen = vec![false; service.endpoints.len()];
    for index in service.candidates(now_ms) {
        if let Some(slot) = chosen.get_mut(index) {
            *slot = true;
        }
    }
    let ready = service.endpoints.iter().zip(&service.candidates).zip(chosen).map(|((endpoint, candidate), chosen)| {
        let ejected = candidate.stats.is_ejected(now_ms);
        let name = match (chosen, fails_open) {
            (true, false) => "usable",
            (true, true) => "fail_open",
            (false, _) if !candidate.healthy => "unhealthy",
            (false, _) => "ejected",
        };
        (endpoint, candidate, name, ejected)
    });
    let draining = service.draining.iter().map(|(endpoint, candidate)| {
        let ejected = candidate.stats.is_ejected(now_ms);
        (endpoint, candidate, "draining", ejected)
    });
    let mut rows: Vec<Endpoint> = ready
        .chain(draining)
        .map(|(endpoint, candidate, name, ejected)| Endpoint {
            id: endpoint.id.to_string(),
            service: service.name().name().to_owned(),
            namespace: service.name().namespace().to_owned(),
            state: name.to_owned(),
            address: endpoint.address.to_string(),
            ports: endpoint.ports.to_vec(),
            weight: candidate.weight,
            healthy: candidate.healthy,
            ejected,
            in_flight: candidate.stats.in_flight(),
            rps: rates.of(candidate),
            latency_ms: latency_ms(candidate),
            requests: candidate.stats.requests(),
            failures: candidate.stats.failures(),
            warm: warm(service, candidate, now_ms),
        })
        .collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    rows
}

/// Returns the latency average in milliseconds with microseconds kept.
pub(super) fn latency_ms(candidate: &Candidate) -> f64 {
    f64::from(candidate.stats.latency_us()) / 1000.0
}

fn warm(service: &table::Service, candidate: &Candidate, now_ms: u64) -> f64 {
    let window = service.spec.slow_start.as_millis() as f64;
    let age = now_ms.saturating_sub(candidate.ready_ms) as f64;
    if age >= window { 1.0 } else { ((age / window).max(0.1) * 100.0).round() / 100.0 }
}
