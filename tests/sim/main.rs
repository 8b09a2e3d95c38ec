//! Simulation of the control plane under virtual time: hours in milliseconds, a printed seed, invariants after each step.
//!
//! `WEIR_SIM_SEED=<seed>` replays one run; `WEIR_SIM_RUNS=<n>` makes more of them. No socket, no process, no real wait:
//! backends are entries of `world::Network`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod autoscale;
mod drain;
mod failover;
mod leases;
mod random;
mod world;
