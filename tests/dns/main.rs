#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! DNS as its users see it: a server or a whole Weir on a free port, asked by raw sockets and by programs of others.
//!
//! `server` is a server in this process with a table of its own, decoded by hickory; `support::process` is Weir as a process,
//! whose configuration a test extends by sections below `[dns]`; `tools` runs dig, kdig, drill, dnspython and curl.

#[path = "../conformance/dns.rs"]
#[allow(dead_code, reason = "shared; a part is for the conformance tests")]
mod server;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "shared by the parts; each uses some")]
mod tools;

mod addresses;
mod clients;
mod conformance;
mod consistency;
mod endpoints;
mod forwarding;
mod glibc;
mod malformed;
mod names;
mod querylog;
mod rate;
mod resolvers;
mod rfc8906;
mod secure;
