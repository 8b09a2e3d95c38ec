#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! The table between Weirs, as users run them: several binaries, real sockets, real replicas.
//!
//! The short forms run in every run; the counts of the promises are `#[ignore]`d and run by `tests/run --long`.

#[path = "../support/mod.rs"]
mod support;

mod chain;
mod circle;
mod crowd;
mod fleet;
mod load;
mod refusals;
mod restarts;
mod scene;
mod secrets;
mod sidecar;
mod slow;
mod sources;
mod upgrade;
mod world;
mod zero;
