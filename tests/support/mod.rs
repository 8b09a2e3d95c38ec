#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "shared by test crates that each use a part; tests may panic, print and read the clock"
)]
//! What tests share: backends that misbehave on request, a raw HTTP client, open-loop traffic, a client that resolves by
//! DNS, and Weir as a process.
//!
//! Each test crate includes it with `#[path = "../support/mod.rs"] mod support;`.

pub mod backend;
pub mod direct;
pub mod example;
pub mod family;
pub mod http;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod secure;
pub mod space;
pub mod table;
pub mod traffic;
pub mod turns;

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// Polls `condition` each 5 ms until it gives a value; panics with `what` after `limit`.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Awaits `future`; panics with `what` after `limit`.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}

/// Returns the value below which a share `q` of the sorted values lies.
pub fn quantile<T: Copy + Default + Debug>(sorted: &[T], q: f64) -> T {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * q).round() as usize).copied().unwrap_or_default()
}
