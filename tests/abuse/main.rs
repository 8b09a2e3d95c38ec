#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests may panic and read the clock"
)]
//! Clients and endpoints that attack or misbehave, against the real data plane: what each row of the threat table asks.

#[path = "../support/mod.rs"]
mod support;

mod chunks;
mod cut;
mod descriptors;
mod drain;
mod hop_by_hop;
mod overdue;
mod partial;
mod paths;
mod queue;
mod response_side;
mod retry;
mod slow;
mod smuggling;
mod upgrade;
