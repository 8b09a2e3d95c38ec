//! Choosing one endpoint: pure functions over candidates, counters and a worker's own state.
//!
//! Owns the policies, the shared [`EndpointStats`] with its [`InFlight`] guard, and passive ejection. Does not know
//! addresses, sockets or snapshots: `table` hands it a slice of [`Candidate`]s in the order of its endpoints. Invariant:
//! a pick allocates nothing and never returns an endpoint that was already tried.

mod candidate;
mod expected_delay;
mod others;
mod outlier;
mod picker;
mod rendezvous;
mod stats;

pub use candidate::{Candidate, usable};
pub use others::{Carried, Others, Present, Share};
pub use outlier::{Failure, observe};
pub use picker::{Local, Picker, Tried};
pub use rendezvous::rendezvous;
pub use stats::{Elsewhere, EndpointStats, InFlight, Marks, ServiceStats, StreamPlace};
