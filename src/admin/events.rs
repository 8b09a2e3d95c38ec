//! The feed of what control did, as a list or live (server-sent events).
//!
//! A live feed starts with what is still kept, after `Last-Event-ID` when the reader resumes, and goes on without a gap:
//! it subscribes before it copies. A reader that is too slow is told how many events it missed.

use crate::admin::stream::Feed;
use crate::admin::{Problem, State, extract};
use crate::control::events;
use crate::lifecycle::Phase;
use axum::Json;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

/// A comment follows after this much silence, so that both sides notice a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events that may wait for a slow reader beside the broadcast's own ring.
const QUEUE: usize = 64;

/// Something that control did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number, rising by one.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The generation of the table that it belongs to.
    pub generation: u64,
    /// What happened, such as `instance_ready`.
    pub kind: String,
    /// The service, as `name` or `namespace/name`.
    pub service: Option<String>,
    /// The instance.
    pub instance: Option<String>,
    /// What happened, for people.
    pub message: String,
}

/// Events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
}

/// How events are answered.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Mode {
    /// `false`: a JSON list of what is kept; else the live feed.
    follow: Option<bool>,
}

/// The last events and, live, those to come.
#[utoipa::path(get, path = "/v1/events", operation_id = "list_events", tag = "events", params(Mode),
    responses((status = 200, description = "events",
               content((Events = "application/json"), (String = "text/event-stream")))))]
pub(super) async fn list(
    state: axum::extract::State<Arc<State>>,
    extract::Params(mode): extract::Params<Mode>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if mode.follow == Some(false) {
        let events = state.events.recent().iter().map(|event| row(event)).collect();
        return Ok(Json(Events { events }).into_response());
    }
    let after = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(feed(state.0, after, sender));
    Ok(Sse::new(Feed(receiver)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

type Item = Result<sse::Event, Infallible>;

/// Sends what is kept and what comes until the reader is gone or the process stops.
async fn feed(state: Arc<State>, after: Option<u64>, sender: mpsc::Sender<Item>) {
    let mut live = state.events.subscribe();
    let mut last = after.unwrap_or(0);
    let kept = state.events.recent();
    // A number above all that are kept comes from a former run of Weir: the reader gets everything.
    if kept.last().is_none_or(|event| event.seq < last) {
        last = 0;
    }
    for event in kept.iter().filter(|event| event.seq > last) {
        if sender.send(Ok(message(event))).await.is_err() {
            return;
        }
    }
    last = kept.last().map_or(last, |event| event.seq);
    let mut signal = state.signal.clone();
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            () = sender.closed() => return,
            () = signal.reached(Phase::Stopping) => return,
        };
        let item = match next {
            Ok(event) if event.seq <= last => continue,
            Ok(event) => {
                last = event.seq;
                message(&event)
            }
            Err(RecvError::Lagged(missed)) => sse::Event::default().event("missed").data(missed.to_string()),
            Err(RecvError::Closed) => return,
        };
        if sender.send(Ok(item)).await.is_err() {
            return;
        }
    }
}

fn message(event: &events::Event) -> sse::Event {
    let data = serde_json::to_string(&row(event)).unwrap_or_default();
    sse::Event::default().id(event.seq.to_string()).event(event.kind.as_str()).data(data)
}

fn row(event: &events::Event) -> Event {
    Event {
        seq: event.seq,
        at_unix_ms: event.at_unix_ms,
        generation: event.generation,
        kind: event.kind.as_str().to_owned(),
        service: event.service.as_ref().map(ToString::to_string),
        instance: event.instance.as_ref().map(ToString::to_string),
        message: event.message.clone(),
    }
}
