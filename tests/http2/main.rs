#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! HTTP/2 from outside: clients by prior knowledge in front of HTTP/1.1 endpoints, hostile frames, and HTTP/2 endpoints.

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod answers;
mod client;
mod frames;
mod messages;
mod real;
mod rfc7541;
mod rfc9113;
mod serving;
mod slow;
mod tunnel;
mod upstream;
mod upstream_websocket;
mod websocket;
