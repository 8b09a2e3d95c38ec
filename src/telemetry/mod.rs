//! What the product says about itself: log, access log, metrics.
//!
//! Workers write to shards of their own with plain stores; only the exposition sums them. No secrets: neither log ever
//! holds a header value but the host and the request id.

mod access;
mod cuts;
mod exposition;
pub mod families;
mod handshakes;
mod log;
mod metrics;
mod options;
mod shard;

pub use access::{AccessLog, AccessRecord};
pub use cuts::{CutCounts, Cuts};
pub use handshakes::Handshakes;
pub use log::{init, set_level};
pub use metrics::Metrics;
pub use options::{Format, LogOptions};
pub use shard::{Counter, ServiceCounters, ServiceTotals, Shard, Turns};
