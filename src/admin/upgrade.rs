//! Replacing the process that serves by another binary.
//!
//! The API only asks: [`Upgrader`] leads to whoever talks to the keeper. From the moment that this process gives the store
//! up, changes are refused here with 503, and the next process takes them.

use crate::admin::{Problem, State, extract};
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};
use utoipa::ToSchema;

/// Requests that may wait.
const MAX_REQUESTS: usize = 16;

/// Which binary is to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpgrade {
    /// Its path; absent: where the running one was started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

/// The last upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Upgrade {
    /// Counts upgrades from 1; 0: there was none.
    pub number: u64,
    /// `none`, `running`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    pub cause: Option<String>,
    /// The process that answers.
    pub pid: u32,
    /// The keeper.
    pub keeper: u32,
}

type Reply = oneshot::Sender<Result<Upgrade, Problem>>;

/// What is asked.
#[derive(Debug)]
pub enum UpgradeRequest {
    /// Begin one.
    Begin(Option<PathBuf>, Reply),
    /// Replace the process by another of the same binary.
    Renew(Reply),
    /// Tell of the last one.
    Show(Reply),
}

/// Asks for upgrades; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Upgrader {
    /// `None`: there is no keeper.
    requests: Option<mpsc::Sender<UpgradeRequest>>,
    keeper: Option<u32>,
    renews: bool,
    stands_down: Arc<AtomicBool>,
}

impl Upgrader {
    /// Returns one that leads to the keeper with this process id, and where its requests come out.
    /// With `renews` another process may take over what runs.
    pub fn new(keeper: u32, renews: bool) -> (Self, mpsc::Receiver<UpgradeRequest>) {
        let (requests, inbox) = mpsc::channel(MAX_REQUESTS);
        (Self { requests: Some(requests), keeper: Some(keeper), renews, ..Self::default() }, inbox)
    }

    /// Returns whether another process can take over from this one.
    pub fn renews(&self) -> bool {
        self.renews
    }

    /// Has another process of the same binary take over; returns once that has begun.
    ///
    /// # Errors
    /// Why not.
    pub async fn renew(&self) -> Result<Upgrade, Problem> {
        self.ask(UpgradeRequest::Renew).await
    }

    /// Returns the keeper's process id.
    pub fn keeper(&self) -> Option<u32> {
        self.keeper
    }

    /// Says that this process gives the store up: it takes no more changes.
    pub fn stand_down(&self) {
        self.stands_down.store(true, Ordering::SeqCst);
    }

    /// Returns the answer to changes while another process takes over.
    pub(super) fn upgrading(&self) -> Option<Problem> {
        let detail = "another process takes over: try again in a moment";
        let problem = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "upgrading", detail);
        self.stands_down.load(Ordering::SeqCst).then(problem)
    }

    /// Begins an upgrade; returns once the new binary was checked and the swap has begun.
    ///
    /// # Errors
    /// Why not.
    pub async fn begin(&self, binary: Option<PathBuf>) -> Result<Upgrade, Problem> {
        self.ask(|reply| UpgradeRequest::Begin(binary, reply)).await
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> UpgradeRequest) -> Result<Upgrade, Problem> {
        let Some(requests) = &self.requests else {
            let detail = "this Weir runs without a keeper; restart it to run another binary";
            return Err(Problem::new(StatusCode::CONFLICT, "no_keeper", detail));
        };
        let (reply, answer) = oneshot::channel();
        requests.send(request(reply)).await.map_err(|_| Problem::stopping())?;
        answer.await.map_err(|_| Problem::stopping())?
    }
}

/// Refuses changes while another process takes over.
pub(super) async fn guard(
    axum::extract::State(upgrader): axum::extract::State<Upgrader>,
    request: Request<Body>,
    next: Next,
) -> Response {
    // Whoever reloads knows whether it is the configuration that another process takes over for.
    // Whoever follows this process's table goes on to say what it uses of it.
    let path = request.uri().path();
    let is_change = !request.method().is_safe() && path != "/v1/reload" && !path.starts_with("/v1/table/");
    if let Some(problem) = upgrader.upgrading().filter(|_| is_change) {
        return problem.into_response();
    }
    next.run(request).await
}

/// Replaces the process that serves by another binary; no connection is lost.
#[utoipa::path(post, path = "/v1/upgrade", operation_id = "begin_upgrade", tag = "status", request_body = NewUpgrade,
    responses((status = 202, description = "the swap has begun; ask again how it ended", body = Upgrade),
              (status = 409, description = "not possible, or the binary failed its check", body = Problem)))]
pub(super) async fn begin(
    state: axum::extract::State<Arc<State>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Upgrade>), Problem> {
    let wanted: NewUpgrade = extract::json(&body)?;
    let begun = state.upgrader.begin(wanted.binary.map(PathBuf::from)).await?;
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

/// Tells how the last upgrade went.
#[utoipa::path(get, path = "/v1/upgrade", operation_id = "show_upgrade", tag = "status",
    responses((status = 200, description = "the last upgrade", body = Upgrade),
              (status = 409, description = "there is no keeper", body = Problem)))]
pub(super) async fn show(state: axum::extract::State<Arc<State>>) -> Result<Json<Upgrade>, Problem> {
    state.upgrader.ask(UpgradeRequest::Show).await.map(Json)
}
