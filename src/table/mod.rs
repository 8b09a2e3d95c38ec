//! The backend table: where the two planes meet.
//!
//! One immutable [`Snapshot`] with a rising generation, swapped whole. Control builds the next one with [`build()`] and
//! publishes it through the only [`Publisher`]; each worker reads through its own [`Reader`], which acknowledges the
//! generation it has. Proxy, DNS and API choose endpoints by the same [`Service::candidates`]. Invariant: nothing in a
//! published snapshot changes but the counters that hang off it.

mod build;
mod cell;
pub mod certificates;
#[cfg(test)]
pub(crate) mod fixture;
mod front;
pub mod names;
mod reach;
mod records;
mod route;
mod shards;
mod snapshot;
#[cfg(test)]
mod tests;
mod told;
mod wake;

pub use build::{Change, Changes, ServiceChange, build};
pub use cell::{Acknowledger, AcknowledgerStatus, Publisher, Reader, Table, channel};
pub use front::Front;
pub use reach::{Lead, Whereabouts};
pub use records::Records;
pub use route::{Route, Routes};
pub use snapshot::{Endpoint, Service, Services, Snapshot};
pub use told::Told;
pub use wake::Wake;
