//! Weir: one binary that deploys, names, balances, heals and scales containers, and never drops a request while doing so.
//!
//! Two planes and one meeting point. The data plane (`proxy`, `dns`) moves bytes; the control plane (`control`) decides;
//! they meet only at the published snapshot of `table`. `ARCHITECTURE.md` has the walks through the code.
//!
//! - Leaves: [`clock`], [`rng`], [`lifecycle`], [`telemetry`], [`sys`].
//! - Vocabulary and pure cores: [`model`], [`spec`], [`http1`], [`http2`], [`dnswire`], [`balance`], [`table`].
//! - Sockets: [`net`]. Data plane: [`proxy`], [`dns`]. Control plane: [`control`].
//! - Surfaces: [`config`], [`admin`], [`cli`]. Composition: [`app`].

// What unit tests share with others calls the crate by its name.
#[cfg(test)]
extern crate self as weir;

pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod dns;
pub mod dnswire;
pub mod http1;
pub mod http2;
pub mod lifecycle;
pub mod model;
pub mod net;
pub mod proxy;
pub mod rng;
pub mod spec;
pub mod sys;
pub mod table;
pub mod telemetry;
