//! Registered instances: list, register, renew, deregister, drain.

use crate::admin::endpoints::latency_ms;
use crate::admin::rates::Reading;
use crate::admin::{Problem, State, extract, refusal};
use crate::balance::Candidate;
use crate::clock;
use crate::control::registry::{Registration, RegistryError};
use crate::control::withdraw::drained;
use crate::model::{self, InstanceId, InstanceState, ServiceName, Source, Verdict, Workload};
use crate::spec;
use crate::table::Snapshot;
use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

/// One registered copy of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Unique on this Weir; also its DNS name below the service.
    pub id: String,
    /// Its service's name in the namespace.
    pub service: String,
    /// Its service's namespace.
    pub namespace: String,
    /// `starting`, `ready`, `draining` or `gone`.
    pub state: String,
    /// `unknown`, `healthy` or `unhealthy`: the verdict of its active checks.
    pub health: String,
    /// Why it is in this state or has this verdict.
    pub reason: String,
    /// IP address.
    pub address: String,
    /// Port numbers in the order of the service's ports; 0 where it offers none.
    pub ports: Vec<u16>,
    /// What runs it.
    #[serde(flatten)]
    pub workload: RunBy,
    /// The machine that runs it.
    pub node: String,
    /// The revision of the service's definition that it runs.
    pub revision: u64,
    /// Requests in flight.
    pub in_flight: u32,
    /// Requests per second over the last seconds.
    pub rps: f64,
    /// Latency average in milliseconds; 0 before the first answer.
    pub latency_ms: f64,
    /// Whole seconds since it was registered.
    pub age_s: u64,
}

/// `container` for a container, else `pid`; null where Weir does not run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum RunBy {
    /// A container.
    Container {
        /// Its id.
        container: String,
    },
    /// A process, or nothing that Weir runs.
    Process {
        /// Its process id.
        pid: Option<u32>,
    },
}

/// Instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instances {
    /// By service, then id.
    pub instances: Vec<Instance>,
}

/// What registers an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstance {
    /// One DNS label, unique on this Weir; made up when absent.
    pub id: Option<String>,
    /// The service, as `name` or `namespace/name`.
    pub service: String,
    /// The IP address that the proxy connects to.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// Port numbers in the order of the service's ports; 0 where it offers none.
    pub ports: Vec<u16>,
    /// How long the registration lives without a renewal, such as `30s`; the node's default when absent.
    #[schema(value_type = Option<String>)]
    pub lease: Option<spec::Duration>,
    /// Relative share of traffic, 1..=1000; 1 when absent.
    pub weight: Option<u32>,
    /// Where it is, one label; see `dns.prefer_zone`.
    pub zone: Option<String>,
    /// Tags, one label each: names of Consul's schema select by them.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Anything else, told in the TXT record of the instance.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// A renewed lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// The instance.
    pub id: String,
    /// How long it lives from now without another renewal.
    pub lease_ms: u64,
}

/// A change of an instance's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Judgement {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The verdict before: `unknown`, `healthy` or `unhealthy`.
    pub from: String,
    /// The verdict from then on.
    pub to: String,
    /// The outcome of the check that changed it.
    pub reason: String,
}

/// The last changes of an instance's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// Oldest first.
    pub history: Vec<Judgement>,
}

/// Which instances are listed.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Filter {
    /// Only those of this service, as `name` or `namespace/name`.
    service: Option<String>,
}

/// Lists the instances; those that are gone stay listed for a minute.
#[utoipa::path(get, path = "/v1/instances", operation_id = "list_instances", tag = "instances", params(Filter),
    responses((status = 200, description = "instances", body = Instances)))]
pub(super) async fn list(
    state: axum::extract::State<Arc<State>>,
    extract::Params(filter): extract::Params<Filter>,
) -> Result<Json<Instances>, Problem> {
    let only = filter.service.as_deref().map(ServiceName::parse).transpose();
    let only = only.map_err(|error| Problem::invalid(format!("service: {error}")))?;
    let mut found = state.registry.instances().await;
    found.retain(|instance| only.as_ref().is_none_or(|name| instance.service == *name));
    found.sort_by(|a, b| (&a.service, &a.id).cmp(&(&b.service, &b.id)));
    let snapshot = state.table.load();
    let known = candidates(&snapshot, found.iter().map(|instance| &instance.service));
    let rates = state.rates.load();
    let instances = found.iter().map(|instance| row(&rates, instance, known.get(&instance.id).copied()));
    Ok(Json(Instances { instances: instances.collect() }))
}

/// Shows one instance.
#[utoipa::path(get, path = "/v1/instances/{id}", operation_id = "show_instance", tag = "instances",
    params(("id" = String, Path)),
    responses((status = 200, description = "the instance", body = Instance),
              (status = 404, description = "unknown_instance", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
) -> Result<Json<Instance>, Problem> {
    let instance = find(&state, &id).await?;
    let snapshot = state.table.load();
    let known = candidates(&snapshot, std::iter::once(&instance.service));
    Ok(Json(row(&state.rates.load(), &instance, known.get(&id).copied())))
}

/// Shows the last changes of an instance's verdict, with the check that caused each.
#[utoipa::path(get, path = "/v1/instances/{id}/history", tag = "instances", params(("id" = String, Path)),
    responses((status = 200, description = "changes of its verdict", body = History),
              (status = 404, description = "unknown_instance", body = Problem)))]
pub(super) async fn history(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
) -> Result<Json<History>, Problem> {
    find(&state, &id).await?;
    let records = state.history.of(&id).into_iter().map(|record| Judgement {
        at_unix_ms: record.at_unix_ms,
        from: health_name(record.transition.from).to_owned(),
        to: health_name(record.transition.to).to_owned(),
        reason: record.reason,
    });
    Ok(Json(History { history: records.collect() }))
}

/// Registers an instance that something else runs; it lives as long as its lease is renewed.
#[utoipa::path(post, path = "/v1/instances", tag = "instances", request_body = NewInstance,
    responses((status = 201, description = "registered", body = Instance),
              (status = 400, description = "invalid_request", body = Problem),
              (status = 404, description = "unknown_service", body = Problem),
              (status = 409, description = "duplicate_instance", body = Problem)))]
pub(super) async fn register(state: axum::extract::State<Arc<State>>, body: Bytes) -> Result<Response, Problem> {
    let new: NewInstance = extract::json(&body)?;
    let mut problems = spec::Problems::new();
    let said = spec::Said { zone: new.zone.as_deref(), tags: &new.tags, meta: &new.meta };
    let traits = said.read(&mut problems);
    if let Some(problem) = problems.into_vec().into_iter().next() {
        return Err(Problem::invalid(problem.to_string()));
    }
    let registration = Registration {
        id: new.id.as_deref().map(InstanceId::parse).transpose().map_err(|e| Problem::invalid(format!("id: {e}")))?,
        service: ServiceName::parse(&new.service).map_err(|e| Problem::invalid(format!("service: {e}")))?,
        source: Source::Api,
        address: new.address,
        ports: new.ports,
        weight: new.weight.unwrap_or(1),
        traits,
        workload: None,
        revision: 0,
        lease: new.lease.map(|lease| lease.get()),
        node: state.node.clone(),
    };
    let instance = state.registry.register(registration).await.map_err(refusal::registry)?;
    let location = format!("/v1/instances/{}", instance.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(row(&state.rates.load(), &instance, None)))
        .into_response())
}

/// Extends the lease of a registered instance.
#[utoipa::path(post, path = "/v1/instances/{id}/renew", tag = "instances", params(("id" = String, Path)),
    responses((status = 200, description = "renewed", body = Lease),
              (status = 404, description = "unknown_instance: register again", body = Problem)))]
pub(super) async fn renew(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
) -> Result<Json<Lease>, Problem> {
    let lease = state.registry.renew(&id).await.map_err(|error| match error {
        RegistryError::UnknownInstance(id) => {
            let detail = format!("instance {id} is not registered, or its lease ran out long ago; register it again");
            Problem::new(StatusCode::NOT_FOUND, "unknown_instance", detail)
        }
        other => refusal::registry(other),
    })?;
    let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(Lease { id: id.to_string(), lease_ms }))
}

/// How an instance leaves.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Departure {
    /// Time to wait until nobody uses it any more, other Weirs and the caches of DNS answers included, in milliseconds up to
    /// 600000; answered then. Default 0.
    drain_ms: Option<u64>,
}

/// Longest drain that a departure waits for.
const MAX_DRAIN_MS: u64 = 600_000;

/// Deregisters an instance: no more traffic at once, or after a drain.
#[utoipa::path(delete, path = "/v1/instances/{id}", tag = "instances", params(("id" = String, Path), Departure),
    responses((status = 204, description = "done"), (status = 404, description = "unknown_instance", body = Problem),
              (status = 409, description = "not_registered_here: not registered over this API", body = Problem)))]
pub(super) async fn deregister(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
    extract::Params(departure): extract::Params<Departure>,
) -> Result<StatusCode, Problem> {
    let instance = find(&state, &id).await?;
    let other = match instance.source {
        Source::Api => None,
        Source::File => Some("it stands in the configuration file"),
        Source::Scheduler => Some("Weir runs it; use `weir drain` or `weir scale`"),
        Source::Feed => Some("another Weir lists it; ask that one"),
    };
    if let Some(why) = other {
        let detail = format!("instance {id} was not registered over the API: {why}");
        return Err(Problem::new(StatusCode::CONFLICT, "not_registered_here", detail));
    }
    let drain = Duration::from_millis(departure.drain_ms.unwrap_or_default().min(MAX_DRAIN_MS));
    if !drain.is_zero() && instance.state != InstanceState::Gone {
        let withdrawn = state.registry.withdraw(&id, "deregistered").await.map_err(refusal::registry)?;
        // However it ends: whoever asked has waited as long as it wanted to.
        drained(&state.table, &withdrawn, drain, &state.events, &id).await;
    }
    state.registry.deregister(&id).await.map_err(refusal::registry)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Drains an instance: a replacement first when Weir runs it, then it is stopped; others stay draining until undone.
#[utoipa::path(post, path = "/v1/instances/{id}/drain", tag = "instances", params(("id" = String, Path)),
    responses((status = 204, description = "done"), (status = 404, description = "unknown_instance", body = Problem),
              (status = 409, description = "already_stopping or lease_expired", body = Problem)))]
pub(super) async fn drain(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
) -> Result<StatusCode, Problem> {
    state.scheduler.drain(&id).await.map_err(refusal::scheduler)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Undoes a drain: the instance takes new work again.
#[utoipa::path(delete, path = "/v1/instances/{id}/drain", tag = "instances", params(("id" = String, Path)),
    responses((status = 204, description = "done"), (status = 404, description = "unknown_instance", body = Problem),
              (status = 409, description = "already_stopping or lease_expired", body = Problem)))]
pub(super) async fn undo_drain(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
) -> Result<StatusCode, Problem> {
    state.scheduler.undo_drain(&id).await.map_err(refusal::scheduler)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the instance, or the answer that there is none.
pub(super) async fn find(state: &State, id: &InstanceId) -> Result<model::Instance, Problem> {
    state.registry.instance(id).await.ok_or_else(|| refusal::unknown_instance(id))
}

/// Returns what picking knows of each instance of the services, by id.
pub(super) fn candidates<'a>(
    snapshot: &'a Snapshot,
    services: impl Iterator<Item = &'a ServiceName>,
) -> HashMap<&'a InstanceId, &'a Candidate> {
    let services: HashSet<&ServiceName> = services.collect();
    let mut known = HashMap::new();
    for service in services.into_iter().filter_map(|name| snapshot.services.get(name)) {
        known.extend(service.endpoints.iter().zip(&service.candidates).map(|(endpoint, c)| (&endpoint.id, c)));
        known.extend(service.draining.iter().map(|(endpoint, candidate)| (&endpoint.id, candidate)));
    }
    known
}

fn row(rates: &Reading, instance: &model::Instance, candidate: Option<&Candidate>) -> Instance {
    Instance {
        id: instance.id.to_string(),
        service: instance.service.name().to_owned(),
        namespace: instance.service.namespace().to_owned(),
        state: state_name(instance.state).to_owned(),
        health: health_name(instance.verdict).to_owned(),
        reason: instance.reason.to_string(),
        address: instance.address.to_string(),
        ports: instance.ports.clone(),
        workload: match &instance.workload {
            Some(Workload::Container(id)) => RunBy::Container { container: id.to_string() },
            Some(Workload::Process(pid)) => RunBy::Process { pid: Some(*pid) },
            None => RunBy::Process { pid: None },
        },
        node: instance.node.to_string(),
        revision: instance.revision,
        in_flight: candidate.map_or(0, |candidate| candidate.stats.in_flight()),
        rps: candidate.map_or(0.0, |candidate| rates.of(candidate)),
        latency_ms: candidate.map_or(0.0, latency_ms),
        age_s: clock::now_ms().saturating_sub(instance.created_ms) / 1000,
    }
}

fn state_name(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Starting => "starting",
        InstanceState::Ready => "ready",
        InstanceState::Draining => "draining",
        InstanceState::Gone => "gone",
    }
}

fn health_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Healthy => "healthy",
        Verdict::Unhealthy => "unhealthy",
    }
}
