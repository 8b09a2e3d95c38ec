//! One rollout: a changed way to run a service replaces what runs, or fails and says why.
//!
//! Pure: what is seen and the time come in, a decision comes out. `judge.rs` is the state machine of one rollout: it counts
//! replicas that have proved themselves, watches the deadline, and ends in success or in a [`Cause`]. `targets.rs` says how
//! many replicas of the wanted revision, of the stable one and of others there are to be. The scheduler runs it for each
//! service and publishes its [`Progress`]; `control/deployments` decides what follows a failure.
//!
//! Invariants: replicas that serve are never fewer than are wanted because of a rollout, unless its strategy is stop-first;
//! a rollout that has succeeded stays so.

mod judge;
mod targets;

pub use judge::{Cause, Phase, Progress, Rollout, View};
pub use targets::{Counts, Targets, held, targets};
