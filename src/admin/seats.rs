//! Places of connections at a door: some for whoever asks, and more for Weirs that follow, so that these lock nobody out.
//!
//! A connection comes in with a common place, and moves to one of the followers with its first request that followers make,
//! after the guard has admitted that. Who finds no place waits for [`PATIENCE`] and is refused with what to raise; no more
//! wait at a time than there are common places.

use crate::admin::Problem;
use crate::clock;
use axum::http::{Method, StatusCode, Uri};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// So long a connection waits for a place.
const PATIENCE: Duration = Duration::from_secs(1);
/// A refusal is logged at most this often, in milliseconds.
const LOG_PAUSE_MS: u64 = 10_000;

/// The places of one door; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Seats(Arc<All>);

#[derive(Debug)]
struct All {
    waiting: Arc<Semaphore>,
    common: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    /// How many of both there are.
    counts: (usize, usize),
    /// When a lack of each was logged last.
    logged_ms: [AtomicU64; 2],
}

impl Seats {
    /// Makes so many common places, and so many for followers.
    pub(super) fn new(common: usize, followers: usize) -> Self {
        let some = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(All {
            waiting: some(common),
            common: some(common),
            followers: some(followers),
            counts: (common, followers),
            logged_ms: Default::default(),
        }))
    }

    /// Waits until one more connection may be accepted; `None` never comes.
    pub(super) async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.0.waiting.clone().acquire_owned().await.ok()
    }

    /// Takes a common place for an accepted connection.
    ///
    /// # Errors
    /// What to answer when there is none in time.
    pub(super) async fn take(&self) -> Result<Seat, Problem> {
        match tokio::time::timeout(PATIENCE, self.0.common.clone().acquire_owned()).await {
            Ok(Ok(place)) => {
                let place = Mutex::new(Place { place, is_follower: false });
                Ok(Seat(Arc::new(Taken { place, all: self.clone(), cut: Arc::default() })))
            }
            _ => {
                let what = format!(
                    "{} connections are open at this address, as many as `admin.limits.connections` allows; close some, or raise it",
                    self.0.counts.0
                );
                Err(refusal("too_many_connections", what, &self.0.logged_ms[0]))
            }
        }
    }
}

/// Returns what to answer, and logs it when that was not done a moment ago.
fn refusal(code: &'static str, what: String, logged: &AtomicU64) -> Problem {
    let (now_ms, logged_ms) = (clock::now_ms(), logged.load(Ordering::Relaxed));
    if logged_ms == 0 || now_ms.saturating_sub(logged_ms) > LOG_PAUSE_MS {
        logged.store(now_ms, Ordering::Relaxed);
        tracing::warn!(code, "a connection to the admin API was refused: {what}");
    }
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, what)
}

/// The place of one connection until its end; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    place: Mutex<Place>,
    all: Seats,
    cut: Arc<Notify>,
}

#[derive(Debug)]
struct Place {
    #[expect(dead_code, reason = "it counts until it is dropped")]
    place: OwnedSemaphorePermit,
    is_follower: bool,
}

impl Seat {
    /// Moves to a follower's place, if the request is one that followers make.
    ///
    /// # Errors
    /// What to answer when there is none.
    pub(super) fn suits(&self, method: &Method, uri: &Uri) -> Result<(), Problem> {
        let mut place = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_follower || !is_followers(method, uri) {
            return Ok(());
        }
        let all = &self.0.all.0;
        let Ok(free) = all.followers.clone().try_acquire_owned() else {
            let what = format!(
                "{} connections of Weirs that follow are open at this address, as many as `admin.limits.followers` allows; \
                 raise it, or follow a Weir that follows",
                all.counts.1
            );
            return Err(refusal("too_many_followers", what, &all.logged_ms[1]));
        };
        *place = Place { place: free, is_follower: true };
        Ok(())
    }

    /// Returns what ends the connection at once when it is told.
    pub(super) fn cut(&self) -> Arc<Notify> {
        self.0.cut.clone()
    }
}

/// Returns whether a request is one that followers make: of streams with a name, of acknowledgements, of announcements.
fn is_followers(method: &Method, uri: &Uri) -> bool {
    let keys = || uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    match (method.as_str(), uri.path()) {
        ("GET", "/v1/table") => keys().any(|key| key == "watch") && keys().any(|key| key == "name"),
        ("POST", "/v1/table/acknowledge" | "/v1/table/leave" | "/v1/instances") => true,
        ("POST", path) => path.starts_with("/v1/instances/") && path.ends_with("/renew"),
        ("DELETE", path) => path.strip_prefix("/v1/instances/").is_some_and(|id| !id.contains('/')),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Seats, is_followers};
    use axum::http::Method;

    #[test]
    fn streams_acknowledgements_and_announcements_are_of_followers() {
        let of = |method: Method, uri: &str| is_followers(&method, &uri.parse().unwrap());
        for uri in ["/v1/table/acknowledge", "/v1/table/leave", "/v1/instances", "/v1/instances/web-1/renew"] {
            assert!(of(Method::POST, uri), "{uri}");
        }
        assert!(of(Method::GET, "/v1/table?watch&name=edge&session=1"));
        assert!(of(Method::DELETE, "/v1/instances/web-1?drain_ms=30000"));
        for uri in ["/v1/table", "/v1/table?watch", "/v1/table?name=edge", "/v1/instances", "/v1/events?follow=true"] {
            assert!(!of(Method::GET, uri), "{uri}");
        }
        assert!(!of(Method::DELETE, "/v1/instances/web-1/drain") && !of(Method::POST, "/v1/services/web/scale"));
    }

    #[tokio::test(start_paused = true)]
    async fn followers_leave_common_places_to_others_until_theirs_are_taken() {
        let seats = Seats::new(2, 3);
        let ask = |seat: &super::Seat| seat.suits(&Method::POST, &"/v1/table/acknowledge".parse().unwrap());
        let mut followers = Vec::new();
        for _ in 0..3 {
            let seat = seats.take().await.unwrap();
            ask(&seat).unwrap();
            ask(&seat).unwrap();
            followers.push(seat);
        }
        let others = [seats.take().await.unwrap(), seats.take().await.unwrap()];
        let refused = seats.take().await.unwrap_err();
        assert!(refused.status == 503 && refused.detail.contains("admin.limits.connections"), "{refused:?}");
        let refused = ask(&others[0]).unwrap_err();
        assert!(refused.status == 503 && refused.detail.contains("admin.limits.followers"), "{refused:?}");
        drop(followers.pop());
        ask(&others[0]).unwrap();
        drop(seats.take().await.unwrap());
    }
}
