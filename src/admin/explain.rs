//! Where a request would go, and why: route, service, endpoints as picking sees them, from the table in force.
//!
//! Nothing is picked and nothing is counted. The answer is made by what the proxy itself uses: the compiled routes, the
//! one predicate of who is a candidate, and the score by which the policy compares.

use crate::admin::{Problem, State, extract};
use crate::balance::Candidate;
use crate::clock;
use crate::control::history::History;
use crate::model::{ListenerProtocol, ListenerSpec};
use crate::spec;
use crate::table::{self, Endpoint, Route, Snapshot};
use axum::Json;
use axum::http::{Method, Uri};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Methods that are tried again after any failure (RFC 9110 §9.2.2).
const IDEMPOTENT: [Method; 6] =
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE];

/// What is asked.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// The method, such as `GET`.
    method: String,
    /// The URL, such as `http://app.example.com:8080/api`; its port chooses the listener. A path alone has no host.
    url: String,
}

/// Where a request would go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The generation of the table that was asked.
    pub generation: u64,
    /// The listener that it would come to.
    pub listener: Option<String>,
    /// The route that matches.
    pub route: Option<String>,
    /// The service that answers, as `name` or `namespace/name`.
    pub service: Option<String>,
    /// The service's policy.
    pub policy: Option<String>,
    /// The service's port that it would go to.
    pub port: Option<String>,
    /// Further attempts that it may get after a failure of any kind; others only before anything was sent.
    pub retries: u32,
    /// Requests that one endpoint is given at once; null: no bound.
    pub concurrency: Option<u32>,
    /// Requests of the service that wait for a free endpoint.
    pub waiting: u32,
    /// Endpoints of the service, candidates first.
    pub endpoints: Vec<Candidacy>,
    /// `forwarded`, `queued`, `held` until there is a replica, or the reason by which it would be refused: `no_listener`,
    /// `no_route`, `no_service`, `no_endpoint`, `service_off`, `tcp`.
    pub outcome: String,
    /// The outcome as a sentence.
    pub because: String,
}

/// An endpoint as picking sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidacy {
    /// The instance behind it.
    pub id: String,
    /// IP address and port that would be connected to; empty where it does not offer the port.
    pub address: String,
    /// `candidate`: may be picked; `full`: at its bound; `unhealthy`, `ejected`: passed over; `draining`: withdrawn.
    pub state: String,
    /// False while its active checks fail.
    pub healthy: bool,
    /// Why, where its checks said something.
    pub reason: Option<String>,
    /// Milliseconds until passive ejection ends; 0: it is not ejected.
    pub ejected_ms: u64,
    /// Requests in flight, tunnels included.
    pub in_flight: u32,
    /// Relative share, 1..=1000.
    pub weight: u32,
    /// Latency average in milliseconds; 0 before the first answer.
    pub latency_ms: f64,
    /// What the policy compares by, least first: milliseconds of expected delay, or requests per weight; null: it goes in
    /// turn.
    pub score: Option<f64>,
}

/// Explains where a request would go.
#[utoipa::path(get, path = "/v1/explain", operation_id = "explain", tag = "routes", params(Asked),
    responses((status = 200, description = "where it would go, and why", body = Explanation),
              (status = 400, description = "invalid", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Params(asked): extract::Params<Asked>,
) -> Result<Json<Explanation>, Problem> {
    let method = Method::from_bytes(asked.method.as_bytes())
        .map_err(|_| Problem::invalid(format!("method: {:?} is no method", asked.method)))?;
    let uri = asked.url.parse::<Uri>().map_err(|error| Problem::invalid(format!("url: {:?}: {error}", asked.url)))?;
    let snapshot = state.table.load();
    Ok(Json(explain(&snapshot, &state.history, &method, &uri)))
}

fn explain(snapshot: &Snapshot, history: &History, method: &Method, uri: &Uri) -> Explanation {
    let mut made = nothing(snapshot.generation);
    let listener = match listener(&snapshot.listeners, uri) {
        Ok(listener) => listener,
        Err(why) => return Explanation { outcome: "no_listener".to_owned(), because: why, ..made },
    };
    made.listener = Some(listener.name.to_string());
    if let ListenerProtocol::Tcp { service, .. } = &listener.protocol {
        let because = format!("listener {} forwards connections to {service} without looking into them", listener.name);
        return Explanation { service: Some(service.to_string()), outcome: "tcp".to_owned(), because, ..made };
    }
    if listener.protocol == ListenerProtocol::Captured {
        let because = format!("listener {} passes connections on to where they were going", listener.name);
        return Explanation { outcome: "tcp".to_owned(), because, ..made };
    }
    if listener.protocol.is_udp() {
        let because = format!("listener {} takes datagrams", listener.name);
        return Explanation { outcome: "no_listener".to_owned(), because, ..made };
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let path = if uri.path().is_empty() { "/" } else { uri.path() };
    let Some(route) = snapshot.routes.find(&listener.name, &host, path) else {
        let because = unmatched(snapshot, &listener.name, &host, path);
        return Explanation { outcome: "no_route".to_owned(), because, ..made };
    };
    made.route = Some(route.name.to_string());
    made.service = Some(route.service.to_string());
    match route.slot.and_then(|slot| snapshot.services.at(slot)).filter(|service| *service.name() == route.service) {
        None => {
            let because = format!("route {} names service {}, which is not there", route.name, route.service);
            Explanation { outcome: "no_service".to_owned(), because, ..made }
        }
        Some(service) => picked(made, service, route, history, method),
    }
}

fn nothing(generation: u64) -> Explanation {
    Explanation {
        generation,
        listener: None,
        route: None,
        service: None,
        policy: None,
        port: None,
        retries: 0,
        concurrency: None,
        waiting: 0,
        endpoints: Vec::new(),
        outcome: String::new(),
        because: String::new(),
    }
}

/// Finds the listener: by the port that the URL names, else the only one or the first.
fn listener<'a>(listeners: &'a [ListenerSpec], uri: &Uri) -> Result<&'a ListenerSpec, String> {
    let known = || {
        let each = listeners.iter().map(|listener| format!("{} on {}", listener.name, listener.address));
        each.collect::<Vec<_>>().join(", ")
    };
    match uri.port_u16() {
        Some(port) => listeners
            .iter()
            .find(|listener| listener.address.port() == port)
            .ok_or_else(|| format!("no listener is on port {port}; there is: {}", known())),
        None => listeners
            .iter()
            .find(|listener| uri.scheme().is_some() && listener.address.port() == 80)
            .or_else(|| listeners.iter().find(|listener| listener.protocol == ListenerProtocol::Http))
            .or_else(|| listeners.first())
            .ok_or_else(|| "there is no listener".to_owned()),
    }
}

/// Says why no route matches: which host or path comes nearest.
fn unmatched(snapshot: &Snapshot, listener: &str, host: &str, path: &str) -> String {
    let on = |spec: &&crate::model::RouteSpec| {
        spec.listeners.is_empty() || spec.listeners.iter().any(|name| **name == *listener)
    };
    let specs = snapshot.routes.specs();
    let here: Vec<_> = specs.iter().filter(on).collect();
    if here.is_empty() {
        return format!("no route applies to listener {listener}");
    }
    let covers = |pattern: Option<&str>| match pattern {
        None => true,
        Some(pattern) => match pattern.strip_prefix('*') {
            Some(suffix) => host.ends_with(suffix),
            None => host == pattern,
        },
    };
    let same_host: Vec<_> = here.iter().filter(|spec| covers(spec.host.as_deref())).collect();
    if same_host.is_empty() {
        let mut hosts: Vec<&str> = here.iter().filter_map(|spec| spec.host.as_deref()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let asked = if host.is_empty() { "a request without a host".to_owned() } else { format!("host {host:?}") };
        return format!("no route is for {asked}; on listener {listener} there are routes for: {}", hosts.join(", "));
    }
    let paths: Vec<&str> = same_host.iter().map(|spec| &*spec.path).collect();
    format!("no route for that host covers path {path:?}; there is: {}", paths.join(", "))
}

/// Describes the service and its endpoints.
fn picked(
    made: Explanation,
    service: &table::Service,
    route: &Route,
    history: &History,
    method: &Method,
) -> Explanation {
    let now_ms = clock::now_ms();
    let fails_open = service.fails_open(now_ms);
    let usable: Vec<usize> = service.candidates(now_ms).collect();
    let concurrency = service.picker.concurrency();
    let state = |index: usize, candidate: &Candidate| match usable.contains(&index) {
        true if concurrency.is_some_and(|limit| candidate.stats.active() >= limit) => "full",
        true => "candidate",
        false if !candidate.healthy => "unhealthy",
        false => "ejected",
    };
    let view = View { service, port: route.port, history, now_ms };
    let mut endpoints: Vec<Candidacy> = service
        .endpoints
        .iter()
        .zip(&service.candidates)
        .enumerate()
        .map(|(index, (endpoint, candidate))| view.row(endpoint, candidate, state(index, candidate)))
        .collect();
    endpoints.extend(service.draining.iter().map(|(endpoint, candidate)| view.row(endpoint, candidate, "draining")));
    let count = |word: &str| endpoints.iter().filter(|endpoint| endpoint.state == word).count();
    let (free, full) = (count("candidate"), count("full"));
    let (outcome, because) = match (free, full) {
        (0, 0) => absent(service),
        (0, full) => ("queued", format!("each of {full} endpoints serves as many requests as it may: it would wait")),
        (free, _) if fails_open => {
            ("forwarded", format!("no endpoint is usable, so that all {free} are used: one of them would be picked"))
        }
        (free, _) => ("forwarded", format!("{} picks one of {free} endpoints", policy(service))),
    };
    endpoints.sort_by(|a, b| {
        let rank = |endpoint: &Candidacy| !matches!(endpoint.state.as_str(), "candidate" | "full");
        let score = |endpoint: &Candidacy| endpoint.score.unwrap_or(0.0);
        rank(a).cmp(&rank(b)).then(score(a).total_cmp(&score(b))).then(a.id.cmp(&b.id))
    });
    Explanation {
        policy: Some(policy(service)),
        port: service.spec.ports.get(route.port).map(|port| port.name.to_string()),
        retries: if IDEMPOTENT.contains(method) { service.spec.retries } else { 0 },
        concurrency,
        waiting: service.stats.still_waiting(),
        endpoints,
        outcome: outcome.to_owned(),
        because,
        ..made
    }
}

/// What becomes of a request for a service without endpoints.
fn absent(service: &table::Service) -> (&'static str, String) {
    let name = service.name();
    if service.may_wake() {
        let limit = spec::Duration::new(service.spec.wake_timeout());
        return ("held", format!("service {name} has no replica: it would wait up to {limit} for one, and ask for it"));
    }
    match service.spec.run {
        Some(_) => ("service_off", format!("service {name} is scaled to 0")),
        None => ("no_endpoint", format!("service {name} has no endpoint: no replica of it is ready")),
    }
}

fn policy(service: &table::Service) -> String {
    crate::admin::services::policy_name(service.spec.policy).to_owned()
}

/// What the rows of one service have in common.
struct View<'a> {
    service: &'a table::Service,
    port: usize,
    history: &'a History,
    now_ms: u64,
}

impl View<'_> {
    fn row(&self, endpoint: &Endpoint, candidate: &Candidate, state: &str) -> Candidacy {
        let reason = self.history.of(&endpoint.id).pop().map(|record| record.reason);
        Candidacy {
            id: endpoint.id.to_string(),
            address: endpoint.socket(self.port).map(|socket| socket.to_string()).unwrap_or_default(),
            state: state.to_owned(),
            healthy: candidate.healthy,
            reason,
            ejected_ms: candidate.stats.ejected_for_ms(self.now_ms),
            in_flight: candidate.stats.in_flight(),
            weight: candidate.weight,
            latency_ms: crate::admin::endpoints::latency_ms(candidate),
            score: self.service.picker.score(candidate),
        }
    }
}
