#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! Weir on real containers: each test has a Docker Engine of its own, which goes with it.
//!
//! Needs root, `dockerd`, `docker`, `docker-compose` and a C compiler; `tests/run` installs them. Images are made FROM
//! nothing: the static Weir, built once for all tests (`image.rs`), and a small program for what Weir does not do.

#[path = "../support/mod.rs"]
mod support;

mod engine;
mod image;
/// Named so that `--skip on_docker::` leaves out exactly these.
mod on_docker {
    mod address;
    mod capture;
    mod compose;
    mod engine_faults;
    mod faults;
    mod health;
    mod kills;
    mod life;
    mod limits;
    mod names;
    mod promises;
}
mod world;
