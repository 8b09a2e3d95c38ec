//! Who exists: services, their instances, and where each instance stands in its life.
//!
//! One task owns all of it. Everybody else holds a [`Handle`]: a command goes through a bounded mailbox to the actor,
//! `State::apply` turns it into effects without I/O, and `control::publisher` makes them visible. Invariants: one writer;
//! a mutation is answered after the publish that carries it; an instance moves only down its list of states, but for an
//! undone drain and a revived lease; what came over the API is in the store before it is answered (`durable.rs`); instances of a service keep the order of their registration. Next on the path:
//! `publisher.rs`.

mod actor;
mod admission;
mod command;
mod contribute;
mod durable;
mod effects;
mod entry;
mod handle;
mod routes;
mod state;
mod timers;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use command::{Adopted, Clash, Contribution, Registration, RegistryError, TakenIn};
pub use handle::{Handle, Listing, Withdrawn};

pub(crate) use actor::{Actor, Answer, Step, Waiter, channel};
pub(crate) use admission::gate_port;
pub(crate) use command::{Command, Done, Draft, Effects, NO_LONGER_LISTED};
pub(crate) use state::{Rules, State};
