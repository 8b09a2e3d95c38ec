#![allow(dead_code, reason = "shared by programs that each use a part")]
//! What the comparisons with other programs share: options, load, processes, rounds, figures.
//!
//! Each of them includes it with `#[path = "../support/proxies/mod.rs"] mod proxies;`.

pub(crate) mod common;
pub(crate) mod cpu;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod message;
pub(crate) mod process;
pub(crate) mod pypi;
pub(crate) mod relay;
pub(crate) mod report;
pub(crate) mod rounds;
