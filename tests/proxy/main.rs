#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! The HTTP/1.1 proxy from outside: exact bytes in at the listener, exact bytes out at the endpoint, and back.
//!
//! Weir runs as a process in front of backends that do what a script says.

#[path = "../support/mod.rs"]
mod support;

mod broken;
mod endpoints;
mod forwarding;
mod held;
mod limits;
mod proxied;
mod refusals;
mod tcp;
mod uploads;
mod workers;

use std::net::SocketAddr;
use support::backend::{Backend, Script};
use support::process::Weir;

/// Weir in front of endpoints, one worker, with more configuration appended.
pub(crate) async fn front(name: &str, endpoints: &[SocketAddr], service: &str, more: &str) -> Weir {
    let mut toml = format!(
        "[[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\npolicy = \"round-robin\"\n{service}\n"
    );
    for endpoint in endpoints {
        toml += &format!("\n[[service.endpoint]]\naddress = \"{endpoint}\"\n");
    }
    toml += more;
    let weir = Weir::start(name, &toml).await;
    weir.settled("app", endpoints.len(), std::time::Duration::from_secs(20)).await;
    weir
}

/// Weir in front of one backend that follows a script.
pub(crate) async fn one(name: &str, script: Script) -> (Weir, Backend) {
    let backend = Backend::start(script).await;
    let weir = front(name, &[backend.address], "", "").await;
    (weir, backend)
}
