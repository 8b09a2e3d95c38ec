#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! Weir as a process among programs that others wrote: clients, servers behind it, proxies in front of it and behind it.
//!
//! `tests/run` installs them; what takes minutes, or comes from elsewhere than apt, is `#[ignore]`d and run by
//! `tests/run --long`.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "shared with the tests of TLS, which use all of it")]
#[path = "../tls/authority.rs"]
mod authority;
#[allow(dead_code, reason = "shared with the tests of HTTP/2, which use all of it")]
#[path = "../http2/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with the tests of HTTP/2, which use all of it")]
#[path = "../http2/tunnel.rs"]
mod tunnel;

#[path = "../../benches/edge/foreign.rs"]
mod foreign;
#[path = "../../benches/support/proxies/pypi.rs"]
mod pypi;

mod browser;
mod course;
mod fronts;
mod gateways;
mod loads;
mod program;
mod proxied;
mod python;
mod servers;
mod sockets;

/// What `foreign` knows of the bench that it is shared with.
mod peers {
    use std::net::SocketAddr;
    use std::path::Path;

    /// What a gateway is started with.
    pub(crate) struct Setting<'a> {
        pub(crate) endpoints: &'a [SocketAddr],
        pub(crate) certificate: &'a Path,
        pub(crate) key: &'a Path,
    }
}

/// Where `foreign` has what benches share.
mod proxies {
    pub(crate) use crate::pypi;
}
