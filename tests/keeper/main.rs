#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! Sockets that outlive whoever serves from them: the keeper, crashes, live changes of listeners and workers.
//!
//! Scenarios with the counts of their promise are `#[ignore]`d and run by `tests/run --long`.

#[path = "../support/mod.rs"]
mod support;

mod crash;
mod last_good;
mod live;
mod moving;
mod renew;
mod upgrade;

use support::process::WEIR;
pub(crate) use support::turns::{alone, loaded};

/// Waits until so many more requests have passed.
pub(crate) async fn passes(traffic: &support::traffic::Traffic, more: u64) {
    let wanted = traffic.passed() + more;
    let limit = std::time::Duration::from_secs(60);
    support::eventually("requests pass", limit, || async { (traffic.passed() >= wanted).then_some(()) }).await;
}

/// A `weir whoami` on a free port; killed when dropped.
pub(crate) struct Whoami {
    pub(crate) address: std::net::SocketAddr,
    _child: tokio::process::Child,
}

impl Whoami {
    pub(crate) async fn start() -> Self {
        let address = support::process::free_address();
        let child = tokio::process::Command::new(WEIR)
            .args(["whoami", "--listen", &address.to_string()])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        support::eventually("whoami listens", std::time::Duration::from_secs(20), || async {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Self { address, _child: child }
    }
}
