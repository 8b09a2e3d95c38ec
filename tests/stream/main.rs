#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]
//! Octets and datagrams from outside: Weir as a process, led by what TLS asks for, PostgreSQL's way into TLS, and flows.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared with the tests of TLS, which use all of it")]
#[path = "../tls/authority.rs"]
mod authority;
#[allow(dead_code, reason = "shared with the tests of TLS, which use all of it")]
#[path = "../tls/client.rs"]
mod client;

mod capture;
mod churn;
mod datagram;
mod example;
mod hostile;
mod names;
mod postgres;
mod rules;
mod sni;
mod space;
mod unwell;
mod zero;

use std::time::Duration;
use support::process::Weir;

/// Longest wait for anything that is not about time.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// Returns the value of a metric line; 0 where it is not there.
pub(crate) async fn metric(weir: &Weir, line: &str) -> u64 {
    let text = support::http::get(weir.admin, "/metrics").await.text();
    let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0").to_owned();
    value.parse::<f64>().unwrap() as u64
}

/// Waits until something was refused so often for a reason.
pub(crate) async fn refused(weir: &Weir, reason: &str, least: u64) {
    let line = format!("weir_refused_total{{reason=\"{reason}\"}}");
    support::eventually(&line, WAIT, async || (metric(weir, &line).await >= least).then_some(())).await;
}
