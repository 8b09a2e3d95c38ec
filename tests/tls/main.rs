#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests"
)]
//! TLS from outside: Weir as a process, certificates made for each test, and rustls, curl and openssl as clients.

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod authority;
mod client;
mod clients;
mod files;
mod serving;
mod sessions;
mod upstream;

use std::time::Duration;
use support::backend::Script;
use support::process::Folder;
pub(crate) use support::secure::World;

/// Longest wait for anything that is not about time.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

impl World {
    /// Starts it; `tls` is what stands in `[listener.tls]`, `more` whatever else.
    pub(crate) async fn start(name: &str, script: Script, tls: &str, more: &str) -> Self {
        let world = Self::around(name, script, ("", tls, more)).await;
        world.weir.settled("app", 1, WAIT).await;
        world
    }
}

/// A folder for certificates.
pub(crate) fn folder(name: &str) -> Folder {
    Folder::new(name)
}
