#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests; they print their figures and read the clock"
)]
//! What survives: Weir is killed, ended, started again; its store is refused, full, read-only; replicas run on.

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod changes;
mod disk;
mod kill;
mod node;
mod registrations;
mod startup;
