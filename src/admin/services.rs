//! Services: what is wanted of each, what there is, and scaling by hand.

use crate::admin::endpoints::{all, find};
use crate::admin::rates::Reading;
use crate::admin::{Problem, State, extract, refusal};
use crate::clock;
use crate::control::scheduler::ServiceStatus;
use crate::model::{Policy, PortSpec, Probe, Protocol};
use crate::table;
use axum::Json;
use axum::http::StatusCode;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// A named group of endpoints with one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Its name in the namespace.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How an endpoint is picked.
    pub policy: String,
    /// Its ports; the first is the default of routes.
    pub ports: Vec<Port>,
    /// Its own address; null: services have none (`dns.service_addresses`).
    #[serde(default)]
    pub address: Option<String>,
    /// What one active check does; null: none is configured.
    pub check: Option<String>,
    /// Whether Weir runs its replicas, so that it can be scaled.
    pub scalable: bool,
    /// Wanted replicas; 0 where Weir runs none.
    pub replicas: u32,
    /// Whether that number was set by hand, so that it overrides definition and autoscaler.
    pub pinned: bool,
    /// Replicas that run.
    pub running: u32,
    /// Endpoints, whatever their health.
    pub endpoints: u32,
    /// Endpoints that are picked and named in DNS now.
    pub usable: u32,
    /// Whether no endpoint is usable, so that all of them are used.
    pub fail_open: bool,
    /// Wanted replicas that are not started for a while because they exit too often.
    pub quarantined: u32,
    /// The revision of its definition.
    pub revision: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests that wait for a free replica.
    pub waiting: u32,
    /// Requests per second over the last seconds.
    pub rps: f64,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its name, such as `http`.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The number at which Weir serves it on the service's own address; null: it does not.
    #[serde(default)]
    pub served: Option<u16>,
}

/// Services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// By name.
    pub services: Vec<Service>,
}

/// How many replicas are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The number of replicas.
    pub replicas: u32,
}

/// Lists the services.
#[utoipa::path(get, path = "/v1/services", operation_id = "list_services", tag = "services",
    responses((status = 200, description = "services", body = Services)))]
pub(super) async fn list(state: axum::extract::State<Arc<State>>) -> Json<Services> {
    let statuses = state.scheduler.status().await;
    let statuses: HashMap<_, _> = statuses.iter().map(|status| (&status.name, status)).collect();
    let (snapshot, rates) = (state.table.load(), state.rates.load());
    let services =
        all(&snapshot).into_iter().map(|service| row(&rates, service, statuses.get(service.name()).copied()));
    Json(Services { services: services.collect() })
}

/// Shows one service.
#[utoipa::path(get, path = "/v1/services/{name}", operation_id = "show_service", tag = "services",
    params(("name" = String, Path)),
    responses((status = 200, description = "the service", body = Service),
              (status = 404, description = "unknown_service", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
) -> Result<Json<Service>, Problem> {
    let statuses = state.scheduler.status().await;
    let snapshot = state.table.load();
    let status = statuses.iter().find(|status| status.name == name);
    Ok(Json(row(&state.rates.load(), find(&snapshot, &name)?, status)))
}

/// Sets the wanted number of replicas by hand: it overrides definition and autoscaler until it is given back. Replicas
/// start and stop after the answer, without losing a request.
#[utoipa::path(post, path = "/v1/services/{name}/scale", tag = "services", params(("name" = String, Path)),
    request_body = Scale,
    responses((status = 202, description = "accepted", body = Scale),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "not_scalable: Weir does not run its replicas", body = Problem),
              (status = 507, description = "store_full, store_failed: nothing was changed", body = Problem)))]
pub(super) async fn scale(
    state: axum::extract::State<Arc<State>>,
    extract::Service(name): extract::Service,
    body: Bytes,
) -> Result<(StatusCode, Json<Scale>), Problem> {
    let scale: Scale = extract::json(&body)?;
    find(&state.table.load(), &name)?;
    state.deployments.scale(&name, scale.replicas).await.map_err(refusal::scaling)?;
    Ok((StatusCode::ACCEPTED, Json(scale)))
}

fn row(rates: &Reading, service: &table::Service, status: Option<&ServiceStatus>) -> Service {
    let now_ms = clock::now_ms();
    let draining = service.draining.iter().map(|(_, candidate)| candidate);
    let counted = || service.candidates.iter().chain(draining.clone());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Service {
        name: service.name().name().to_owned(),
        namespace: service.name().namespace().to_owned(),
        policy: policy_name(service.spec.policy).to_owned(),
        ports: ports(service),
        address: service.address.map(|address| address.to_string()),
        check: service.spec.health.as_ref().map(|health| match &health.probe {
            Probe::Tcp => "tcp".to_owned(),
            Probe::Udp { .. } => "udp".to_owned(),
            Probe::Grpc { service, .. } => format!("grpc {service}").trim_end().to_owned(),
            Probe::Http { path, .. } => format!("http {path}"),
        }),
        scalable: service.spec.run.is_some(),
        replicas: status.map_or(0, |status| status.wanted),
        pinned: status.is_some_and(|status| status.pinned),
        running: status.map_or(0, |status| status.running),
        endpoints: count(service.endpoints.len()),
        usable: count(if service.fails_open(now_ms) { 0 } else { service.candidates(now_ms).count() }),
        fail_open: service.fails_open(now_ms),
        quarantined: status.map_or(0, |status| status.quarantined),
        revision: service.spec.revision,
        in_flight: counted().map(|candidate| candidate.stats.in_flight()).sum(),
        waiting: service.stats.waiting(),
        // Not `sum`: that of nothing is -0.0.
        rps: counted().fold(0.0, |total, candidate| total + rates.of(candidate)),
    }
}

fn ports(service: &table::Service) -> Vec<Port> {
    let number = |index| service.spec.served().find(|(served, _)| *served == index).map(|(_, number)| number);
    let declared = service.spec.ports.iter().enumerate();
    let port = |(index, port): (usize, &PortSpec)| Port {
        name: port.name.to_string(),
        protocol: protocol_name(port.protocol).to_owned(),
        served: service.address.and_then(|_| number(index)),
    };
    declared.map(port).collect()
}

pub(super) fn policy_name(policy: Policy) -> &'static str {
    match policy {
        Policy::ExpectedDelay => "expected-delay",
        Policy::RoundRobin => "round-robin",
        Policy::Weighted => "weighted",
        Policy::LeastRequest => "least-request",
        Policy::PowerOfTwo => "power-of-two",
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
