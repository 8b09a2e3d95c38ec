//! What runs beside this Weir, told to the Weirs that it follows: registered with a lease while it answers, drained at the end.
//!
//! The id is made from the service, the address and this Weir's name, so that a restart renews what it registered before. One
//! task for each at each place: whichever of them others use the table of, it is there.

use crate::clock;
use crate::control::feed::link::{Link, LinkError};
use crate::control::{AnnounceOptions, PlaceOptions};
use crate::model::InstanceId;
use bytes::Bytes;
use http::{Method, StatusCode};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

/// Lease of a registration.
const LEASE: Duration = Duration::from_secs(5);
/// Between two checks, and two renewals; a third of the lease.
const CHECK: Duration = Duration::from_millis(1600);
/// The same while it does not answer or is not registered yet.
const FAST: Duration = Duration::from_millis(200);
/// A check takes at most so long.
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// Failed checks in a row after which it is deregistered.
const FALL: u32 = 2;

/// The announcements of this Weir.
#[derive(Debug)]
pub struct Announcing {
    /// The time to drain in milliseconds, once the end is near.
    end: watch::Sender<Option<u64>>,
    tasks: JoinSet<()>,
}

impl Announcing {
    /// Starts one task for each at each place; `name` is what this Weir is called.
    pub fn start(list: &[AnnounceOptions], places: &[PlaceOptions], name: &str) -> Self {
        let (end, _) = watch::channel(None);
        let mut tasks = JoinSet::new();
        for one in list {
            let place = format!("{name} {} {}", one.service, one.address);
            let id = InstanceId::random(&one.service, xxh3_64(place.as_bytes()));
            for place in places {
                let announcer = Announcer { id: id.clone(), options: one.clone(), place: place.clone(), link: None };
                tasks.spawn(announcer.run(end.subscribe()));
            }
        }
        Self { end, tasks }
    }

    /// Deregisters everything and waits until nobody uses it any more, at most `drain`; called again, at most that from then on.
    pub async fn withdraw(&mut self, drain: Duration) {
        let drain_ms = u64::try_from(drain.as_millis()).unwrap_or(u64::MAX);
        self.end.send_replace(Some(drain_ms));
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(drain + CHECK_LIMIT * 3, all).await.is_err() {
            tracing::warn!("the other Weir did not say in time that nothing is used any more");
        }
    }
}

/// One announcement at one place.
struct Announcer {
    id: InstanceId,
    options: AnnounceOptions,
    place: PlaceOptions,
    link: Option<Link>,
}

impl Announcer {
    async fn run(mut self, mut end: watch::Receiver<Option<u64>>) {
        let (mut registered, mut failures, mut told) = (false, 0, String::new());
        loop {
            let healthy = answers(&self.options).await;
            failures = if healthy { 0 } else { failures + 1 };
            let outcome = match (registered, healthy) {
                (false, true) => self.register().await.map(|()| registered = true),
                (true, _) if failures >= FALL => self.deregister(0).await.map(|()| registered = false),
                (true, _) => self.renew().await.map(|known| registered = known),
                (false, false) => Ok(()),
            };
            let state = match &outcome {
                Ok(()) if registered => "registered".to_owned(),
                Ok(()) => format!("{} does not answer", self.options.address),
                Err(error) => error.to_string(),
            };
            if outcome.is_err() {
                self.link = None;
            }
            if state != told {
                let (id, service, at) = (&self.id, &self.options.service, &self.place.address);
                if outcome.is_err() {
                    tracing::warn!(instance = %id, %service, at, "not registered: {state}");
                } else {
                    tracing::info!(instance = %id, %service, at, "{state}");
                }
                told = state;
            }
            let pause = if registered && failures == 0 { CHECK } else { FAST };
            tokio::select! {
                () = sleep(pause) => {}
                () = ending(&mut end) => break,
            }
        }
        if registered {
            self.leave(&mut end).await;
        }
    }

    /// Deregisters after a drain, and keeps the lease meanwhile.
    async fn leave(&mut self, end: &mut watch::Receiver<Option<u64>>) {
        let mut renewing =
            Self { link: None, place: self.place.clone(), options: self.options.clone(), id: self.id.clone() };
        let renewals = async {
            loop {
                sleep(CHECK).await;
                // One that fails is made good by the next.
                let _ = renewing.renew().await;
            }
        };
        tokio::pin!(renewals);
        let outcome = loop {
            let drain_ms = end.borrow_and_update().unwrap_or_default();
            tokio::select! {
                outcome = self.deregister(drain_ms) => break outcome,
                () = &mut renewals => break Ok(()),
                // Another time to wait: it is asked for on another connection.
                Ok(()) = end.changed() => {}
            }
        };
        let (id, at) = (&self.id, &self.place.address);
        match outcome {
            Ok(()) => tracing::info!(instance = %id, at, "deregistered: nobody uses it any more"),
            Err(error) => tracing::warn!(instance = %id, at, %error, "failed to deregister; its lease ends by itself"),
        }
    }

    async fn register(&mut self) -> Result<(), LinkError> {
        let body = serde_json::json!({
            "id": self.id.as_str(),
            "service": self.options.service.as_str(),
            "address": self.options.address.ip(),
            "ports": [self.options.address.port()],
            "lease": format!("{}s", LEASE.as_secs()),
        });
        match self.send(Method::POST, "/v1/instances", body.to_string().into(), CHECK_LIMIT * 3).await {
            // An earlier start of this Weir registered it, or the place has it from another one that it follows.
            Err(LinkError::Answer { status: StatusCode::CONFLICT, .. }) => Ok(()),
            other => other,
        }
    }

    /// Returns whether it is still registered.
    async fn renew(&mut self) -> Result<bool, LinkError> {
        let path = format!("/v1/instances/{}/renew", self.id);
        match self.send(Method::POST, &path, Bytes::new(), CHECK_LIMIT * 3).await {
            Err(LinkError::Answer { status: StatusCode::NOT_FOUND, .. }) => Ok(false),
            // The place has it from another one, where its lease is renewed.
            Err(LinkError::Answer { status: StatusCode::BAD_REQUEST, .. }) => Ok(true),
            other => other.map(|()| true),
        }
    }

    async fn deregister(&mut self, drain_ms: u64) -> Result<(), LinkError> {
        let path = format!("/v1/instances/{}?drain_ms={drain_ms}", self.id);
        let limit = Duration::from_millis(drain_ms) + CHECK_LIMIT * 3;
        match self.send(Method::DELETE, &path, Bytes::new(), limit).await {
            Err(LinkError::Answer { status: StatusCode::NOT_FOUND | StatusCode::CONFLICT, .. }) => Ok(()),
            other => other,
        }
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes, limit: Duration) -> Result<(), LinkError> {
        let deadline_ms = clock::now_ms() + u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        loop {
            let kept = self.link.take();
            let was_kept = kept.is_some();
            let mut link = match kept {
                Some(link) => link,
                None => self.place.open().await?,
            };
            let left = Duration::from_millis(deadline_ms.saturating_sub(clock::now_ms()));
            match link.send_within(method.clone(), path, body.clone(), left).await {
                // The connection is good for the next one.
                Ok(_) => {
                    self.link = Some(link);
                    return Ok(());
                }
                Err(error @ LinkError::Answer { .. }) => {
                    self.link = Some(link);
                    return Err(error);
                }
                // It was closed meanwhile, by a restart or because it was idle: each of these may be sent twice.
                Err(LinkError::Unreachable(_)) if was_kept && clock::now_ms() < deadline_ms => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits until the end is near.
async fn ending(end: &mut watch::Receiver<Option<u64>>) {
    // Whoever could say so being gone is the same.
    let _ = end.wait_for(Option::is_some).await;
}

/// Returns whether what is announced answers: takes a connection, and where a path is named answers it with less than 400.
async fn answers(options: &AnnounceOptions) -> bool {
    let check = check(options.address, options.path.as_deref());
    matches!(timeout(CHECK_LIMIT, check).await, Ok(Ok(true)))
}

async fn check(address: SocketAddr, path: Option<&str>) -> std::io::Result<bool> {
    let mut socket = TcpStream::connect(address).await?;
    let Some(path) = path else { return Ok(true) };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: weir\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    // `HTTP/1.1 200` is all that matters.
    let mut head = [0; 12];
    socket.read_exact(&mut head).await?;
    Ok(head.starts_with(b"HTTP/1.") && matches!(head.get(9), Some(b'2' | b'3')))
}
