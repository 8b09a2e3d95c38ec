#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! The whole product as a user runs it: the binary, real sockets, real processes.
//!
//! Each scenario comes twice: short, in every run, and with the counts of its promise, `#[ignore]`d and run one by one in
//! release by `tests/run --long`.

#[path = "../support/mod.rs"]
mod support;

mod autoscale;
mod deploying;
mod failover;
mod outcomes;
mod reaction;
mod reload;
mod removing;
mod scaling;
mod shutdown;
mod sick;
mod tunnels;
mod user;
mod web;
mod zero;
