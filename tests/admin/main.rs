#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
//! The admin API over real sockets, and the command line against it.

mod changes;
mod cli;
mod client;
mod events;
mod explain;
#[path = "../support/family.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared; a part is used here")]
mod family;
mod fixture;
#[path = "../support/ports.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared; a part is used here")]
mod ports;
mod resources;
mod safety;
mod startup;
