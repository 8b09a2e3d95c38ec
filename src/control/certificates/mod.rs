//! Certificates that Weir obtains itself: from an ACME authority and from its own.
//!
//! [`spawn`] starts the keeper, one task that owns the book of names: what is held, what is wanted, what failed. It asks an
//! [`Issuer`] for each name, one order at a time, stores what comes and puts it into the listeners' certificate sets, which
//! closes no connection. `schedule.rs` and `entry.rs` decide and are pure; `keeper.rs` does. Invariants: a failed order takes
//! nothing away; what is served was written to the store; a name waits after a failure, also across a restart. Next on the
//! path: `control/acme`, `authority.rs`.

mod authority;
mod entry;
mod gauges;
mod handle;
mod held;
mod issuer;
mod keeper;
mod schedule;

pub use gauges::CertificateGauges;
pub use handle::{Handle, Listed, Shelf};
pub use issuer::{IssueError, Issuer, Made, Order, RenewalId};
pub use keeper::{Parts, spawn};
pub use schedule::Window;
