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
use support::backend::{Backend, Script};
use support::process::{Folder, Weir, free_address};

/// Longest wait for anything that is not about time.
pub(crate) const WAIT: Duration = Duration::from_secs(20);

/// A Weir with a TLS listener `https` in front of one backend.
pub(crate) struct World {
    pub(crate) weir: Weir,
    pub(crate) https: std::net::SocketAddr,
    pub(crate) backend: Backend,
}

impl World {
    /// Starts it; `tls` is what stands in `[listener.tls]`, `more` whatever else.
    pub(crate) async fn start(name: &str, script: Script, tls: &str, more: &str) -> Self {
        let backend = Backend::start(script).await;
        let https = free_address();
        let toml = format!(
            "[[listener]]\nname = \"https\"\naddress = \"{https}\"\n[listener.tls]\n{tls}\n\n\
             [[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\n\
             [[service.endpoint]]\naddress = \"{}\"\n{more}\n",
            backend.address
        );
        let weir = Weir::start(name, &toml).await;
        weir.settled("app", 1, WAIT).await;
        Self { weir, https, backend }
    }

    /// Returns the value of a metric line; 0 where it is not there.
    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let answer = support::http::get(self.weir.admin, "/metrics").await;
        let text = answer.text();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0").to_owned();
        value.parse::<f64>().unwrap() as u64
    }
}

/// A folder for certificates.
pub(crate) fn folder(name: &str) -> Folder {
    Folder::new(name)
}
