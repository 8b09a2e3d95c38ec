//! Keeps the wanted number of replicas running: desired × observed → plan → execute.
//!
//! `plan.rs` decides, as a pure function of what is wanted, what is seen and the time. `restarts.rs` remembers exits and
//! says when the next start is due. `service.rs` is what is known of one service, its rollout included. `reconcile.rs` is the one task that owns
//! it all, `handle.rs` has the [`Handle`] that others talk to; `execute.rs` carries single actions out. The scheduler reads
//! definitions from the registry and writes instances to it; it never touches the backend table. `adopt.rs` decides what
//! becomes of replicas that an earlier Weir left.
//!
//! Invariants: a replica that serves is stopped only when enough others serve, or when fewer are wanted; a stop is
//! withdraw → acknowledge → drain → signal → kill after the grace period; one task decides, so two decisions never cross.

mod adopt;
mod execute;
mod handle;
mod plan;
mod reconcile;
mod restarts;
mod service;
mod tell;

#[cfg(test)]
mod tests;

pub use adopt::{Inheritance, Kept, Orphan, inherit, known, registrations};
pub use handle::{Handle, MAX_REPLICAS, Parts, Resume, Rollouts, SchedulerError, ServiceStatus, spawn};
pub use plan::{Action, Desired, Phase, Plan, Replica, Start, Stop, plan};
pub use restarts::{Ending, Next, Restarts};
