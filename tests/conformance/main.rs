#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
//! One test per clause of the protocols that Weir speaks, against the real server on a free port.

#[path = "../support/mod.rs"]
mod support;

mod dns;
mod dns_malformed;
mod forward;
mod resolve;
mod rfc1035;
mod rfc2308;
mod rfc2782;
mod rfc5001;
mod rfc6891;
mod rfc7766;
mod rfc7873;
mod rfc8482;
mod rfc9110;
mod rfc9112;
mod weir_dns;
