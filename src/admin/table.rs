//! The backend table: its generation, who has it, and the stream of it for other Weirs.

use crate::admin::seats::Seat;
use crate::admin::stream::Feed;
use crate::admin::{Problem, State, Tokens, extract};
use crate::balance::{Carried, Present};
use crate::clock;
use crate::control::feed::{Admitted, CarriedLoad, FleetError, MAX_LOADS, Report, ServiceLoad, Subscription, Use};
use crate::model::{InstanceId, ServiceName, parse_label};
use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use utoipa::{IntoParams, ToSchema};

/// Withdrawn endpoints that one acknowledgement may name.
const MAX_USES: usize = 10_000;
/// Longest name of a subscriber, and of what it calls a subscription.
const MAX_NAME: usize = 63;

/// The backend table: its generation and who has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Table {
    /// The current generation; 0 before the first publish.
    pub generation: u64,
    /// Services in it.
    pub services: usize,
    /// Endpoints in it, draining ones left out.
    pub endpoints: usize,
    /// Everybody who must have a generation before an endpoint counts as withdrawn: workers, and Weirs that follow this table.
    pub acknowledgers: Vec<Acknowledger>,
    /// The Weirs that follow this table, by name.
    #[serde(default)]
    pub subscribers: Vec<Subscriber>,
    /// Where this Weir takes its table from, in the order of preference; empty: it follows nobody.
    #[serde(default)]
    pub sources: Vec<TableSource>,
}

/// One party that acknowledges generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledger {
    /// Its name, such as `worker-0`.
    pub name: String,
    /// The generation it last loaded.
    pub generation: u64,
    /// Whether it waits for work and will load before it uses the table, or is a subscriber that is silent.
    pub idle: bool,
}

/// A Weir that follows this one's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Subscriber {
    /// Its name.
    pub name: String,
    /// The generation that all of its workers use.
    pub generation: u64,
    /// `following`, `leaving` (a younger process of it follows too), `cut_off`, or `silent`: nothing came of it for three seconds, and no withdrawal waits for it.
    pub state: String,
    /// How long ago it was heard, in milliseconds.
    pub heard_ms: u64,
    /// Withdrawn endpoints that it still has requests at.
    pub uses: usize,
    /// What it carries for services whose replicas this Weir runs; counted for their autoscaler as if it came here.
    #[serde(default)]
    pub loads: Vec<SubscriberLoad>,
}

/// What a follower carries for one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriberLoad {
    /// The service.
    pub service: String,
    /// Requests that ended there since it subscribed.
    pub requests: u64,
    /// TCP streams and tunnels that began there since it subscribed.
    #[serde(default)]
    pub streams: u64,
    /// Requests a second of late.
    pub rate: f64,
    /// Requests in service now.
    pub in_service: u32,
    /// Requests and streams that wait for a replica now.
    pub queued: u32,
    /// Open TCP streams and tunnels.
    pub streams_open: u64,
}

/// A source of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableSource {
    /// Its address, or its file.
    pub name: String,
    /// `used`, `standby`, or `lost`.
    pub state: String,
    /// Whether its last table is in use, also when it is lost.
    pub used: bool,
    /// The generation of its last table; 0: none.
    pub generation: u64,
    /// Why it is lost.
    pub problem: Option<String>,
    /// Since when, in seconds.
    pub since_s: u64,
}

/// How the table is told.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Watch {
    /// When present: the table itself as a stream of JSON lines, whole and then what changes.
    watch: Option<String>,
    /// With `watch`: the generation that the subscriber has; it gets what changed since, or all when that is not known any more.
    from: Option<u64>,
    /// With `from`: what that generation is counted in, as the stream said.
    epoch: Option<String>,
    /// With `watch`: the subscriber's name, one DNS label. Without one it only looks, and no withdrawal waits for it.
    name: Option<String>,
    /// With `name`: what it calls this subscription; repeated in the stream and in its acknowledgements.
    session: Option<String>,
    /// With `name`: which process of the subscriber; the one before an upgrade follows on until it ends.
    process: Option<String>,
    /// With `watch`: a line follows at least this often, 50 to 10000; default 1000.
    heartbeat_ms: Option<u64>,
}

/// What a subscriber uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Acknowledgement {
    /// Its name.
    pub name: String,
    /// What it calls its subscription.
    pub session: String,
    /// The generation that all of its workers use; everything before is acknowledged too.
    pub generation: u64,
    /// Withdrawn endpoints that it still uses.
    #[serde(default)]
    pub uses: Vec<EndpointUse>,
    /// What it carries for services whose replicas the told Weir runs; absent: nothing changed.
    #[serde(default)]
    pub load: Option<LoadReport>,
}

/// What a follower carries; one that is told twice counts once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadReport {
    /// Rises with each report of a subscription.
    pub number: u64,
    /// Services of which anything changed, at most 1000.
    pub services: Vec<LoadOfService>,
}

/// What a follower carries for one service: counts since it subscribed, which wrap around, and what is there now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadOfService {
    /// The service, as `name` or `namespace/name`.
    pub service: String,
    /// Requests that ended.
    pub ended: u64,
    /// Requests that an endpoint served well.
    pub served: u64,
    /// Sum of their times in service, microseconds.
    pub service_us: u64,
    /// Sum of the squares of those.
    pub service_us2: u64,
    /// Requests that were late for want of replicas.
    pub late: u64,
    /// TCP streams and tunnels begun.
    pub streams: u64,
    /// Requests in service now.
    pub in_service: u32,
    /// Requests and streams that wait for a replica now.
    pub queued: u32,
    /// Open TCP streams and tunnels.
    pub streams_open: u64,
    /// For how long answers of DNS that named its replicas may be kept, in milliseconds.
    pub named_ms: u64,
}

/// A withdrawn endpoint that a subscriber still uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EndpointUse {
    /// Its service, as `name` or `namespace/name`.
    pub service: String,
    /// The instance.
    pub instance: String,
    /// Whether requests or streams are in flight there.
    pub in_flight: bool,
    /// For how long answers of DNS that named it may be kept, in milliseconds.
    #[serde(default)]
    pub named_ms: u64,
}

/// Tells the table's generation and who has acknowledged it; with `watch` the table itself.
#[utoipa::path(get, path = "/v1/table", tag = "status", params(Watch),
    responses((status = 200, description = "the table, or a stream of it",
               content((Table = "application/json"), (String = "application/jsonl"))),
              (status = 503, description = "too_many_subscribers or too_many_followers", body = Problem)))]
pub(super) async fn table(
    state: axum::extract::State<Arc<State>>,
    (seat, tokens): (Option<axum::Extension<Seat>>, Option<axum::Extension<Tokens>>),
    headers: HeaderMap,
    extract::Params(watch): extract::Params<Watch>,
) -> Result<Response, Problem> {
    if watch.watch.is_some() {
        // A token may be taken back while it follows.
        let admitted =
            tokens.map(|axum::Extension(tokens)| Admitted(Arc::new(move || tokens.holds("/v1/table", &headers))));
        return stream(&state, watch, (seat.map(|seat| seat.cut()), admitted));
    }
    let snapshot = state.table.load();
    let acknowledgers = state.table.acknowledgers().into_iter().map(|status| Acknowledger {
        name: status.name.to_string(),
        generation: status.generation,
        idle: status.idle,
    });
    let table = Table {
        generation: snapshot.generation,
        services: snapshot.services.len(),
        endpoints: snapshot.services.iter().map(|service| service.endpoints.len()).sum(),
        acknowledgers: acknowledgers.collect(),
        subscribers: subscribers(&state),
        sources: sources(&state),
    };
    Ok(Json(table).into_response())
}

fn subscribers(state: &State) -> Vec<Subscriber> {
    let row = |status: crate::control::feed::SubscriberStatus| Subscriber {
        name: status.name.to_string(),
        generation: status.generation,
        state: match (status.silent, status.connected) {
            (true, _) => "silent",
            (false, true) if status.leaving => "leaving",
            (false, true) => "following",
            (false, false) => "cut_off",
        }
        .to_owned(),
        heard_ms: status.heard_ms,
        uses: status.uses,
        loads: status.loads.into_iter().map(load).collect(),
    };
    state.feed.fleet().status().into_iter().map(row).collect()
}

fn load(of: CarriedLoad) -> SubscriberLoad {
    SubscriberLoad {
        service: of.service.to_string(),
        requests: of.requests,
        streams: of.streams,
        rate: of.rate,
        in_service: of.present.in_service,
        queued: of.present.queued,
        streams_open: of.present.streams_open,
    }
}

fn sources(state: &State) -> Vec<TableSource> {
    let row = |status: crate::control::feed::SourceStatus| TableSource {
        state: match (status.live, status.used) {
            (true, true) => "used",
            (true, false) => "standby",
            (false, _) => "lost",
        }
        .to_owned(),
        name: status.name,
        used: status.used,
        generation: status.generation,
        problem: status.problem,
        since_s: clock::now_ms().saturating_sub(status.since_ms) / 1000,
    };
    state.sources.status().into_iter().map(row).collect()
}

fn stream(
    state: &State,
    watch: Watch,
    (cut, admitted): (Option<Arc<Notify>>, Option<Admitted>),
) -> Result<Response, Problem> {
    let (session, process) = (watch.session.unwrap_or_default(), watch.process.unwrap_or_default());
    if let Some(name) = &watch.name {
        parse_label(name, MAX_NAME).map_err(|error| Problem::invalid(format!("name: {error}")))?;
    }
    for (key, text) in [("session", &session), ("process", &process)] {
        if text.len() > MAX_NAME || !text.bytes().all(|octet| octet.is_ascii_alphanumeric()) {
            return Err(Problem::invalid(format!("{key}: is no text of at most {MAX_NAME} letters and digits")));
        }
    }
    let pieces = state.feed.subscribe(Subscription {
        name: watch.name,
        process,
        session,
        from: watch.epoch.zip(watch.from),
        heartbeat: watch.heartbeat_ms.map(Duration::from_millis),
        cut,
        admitted,
    });
    let body = Body::from_stream(Feed(pieces.map_err(|error| refusal(&error))?));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// Says which generation a subscriber uses, and which withdrawn endpoints it still uses.
#[utoipa::path(post, path = "/v1/table/acknowledge", tag = "status", request_body = Acknowledgement,
    responses((status = 204, description = "noted"),
              (status = 400, description = "invalid_request", body = Problem),
              (status = 409, description = "unknown_subscription: subscribe again", body = Problem)))]
pub(super) async fn acknowledge(state: axum::extract::State<Arc<State>>, body: Bytes) -> Result<StatusCode, Problem> {
    let said: Acknowledgement = extract::json(&body)?;
    if said.uses.len() > MAX_USES {
        return Err(Problem::invalid(format!("uses: more than {MAX_USES}")));
    }
    let one = |one: &EndpointUse| {
        Ok(Use {
            service: ServiceName::parse(&one.service).map_err(|error| format!("service: {error}"))?,
            instance: InstanceId::parse(&one.instance).map_err(|error| format!("instance: {error}"))?,
            in_flight: one.in_flight,
            named_ms: one.named_ms,
        })
    };
    let uses = said.uses.iter().map(one).collect::<Result<Vec<_>, String>>().map_err(Problem::invalid)?;
    let fleet = state.feed.fleet();
    let report = said.load.as_ref().map(LoadReport::read).transpose().map_err(Problem::invalid)?;
    fleet.acknowledge(&said.name, &said.session, said.generation, &uses).map_err(|error| refusal(&error))?;
    if let Some(report) = report {
        fleet.load(&said.name, &said.session, &report).map_err(|error| refusal(&error))?;
    }
    Ok(StatusCode::NO_CONTENT)
}

impl LoadReport {
    fn read(&self) -> Result<Report, String> {
        if self.services.len() > MAX_LOADS {
            return Err(format!("load: more than {MAX_LOADS} services"));
        }
        let one = |one: &LoadOfService| {
            Ok(ServiceLoad {
                service: ServiceName::parse(&one.service).map_err(|error| format!("service: {error}"))?,
                carried: Carried {
                    ended: one.ended,
                    served: one.served,
                    service_us: one.service_us,
                    service_us2: one.service_us2,
                    late: one.late,
                    streams: one.streams,
                },
                present: Present { in_service: one.in_service, queued: one.queued, streams_open: one.streams_open },
                named_ms: one.named_ms,
            })
        };
        let services = self.services.iter().map(one).collect::<Result<_, String>>()?;
        Ok(Report { number: self.number, services })
    }
}

/// Ends a subscription of a Weir that uses nothing any more.
#[utoipa::path(post, path = "/v1/table/leave", tag = "status", request_body = Acknowledgement,
    responses((status = 204, description = "it is waited for no more"),
              (status = 409, description = "unknown_subscription", body = Problem)))]
pub(super) async fn leave(state: axum::extract::State<Arc<State>>, body: Bytes) -> Result<StatusCode, Problem> {
    let said: Acknowledgement = extract::json(&body)?;
    state.feed.fleet().leave(&said.name, &said.session).map_err(|error| refusal(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn refusal(error: &FleetError) -> Problem {
    let detail = error.to_string();
    match error {
        FleetError::Full => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_subscribers", detail),
        FleetError::Unknown(_) => Problem::new(StatusCode::CONFLICT, "unknown_subscription", detail),
        FleetError::Future(_) => Problem::invalid(detail),
    }
}
