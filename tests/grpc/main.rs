#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! gRPC through the proxy: HTTP/2 on both sides, calls of every kind, deadlines, cancellations, replicas that come and go.

#[path = "../support/mod.rs"]
mod support;

#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "what only the tests of TLS use")]
mod authority;
mod calls;
mod endpoint;
mod peer;
mod peers;
mod tls;
mod tonic;
mod upstream;
