//! The table between Weirs: told to others ([`Outgoing`], [`Fleet`]) and taken from others ([`start`], [`Sources`]).
//!
//! One line is one value (`wire.rs`), an update counts when it is whole (`assembly.rs`). Who follows a table acknowledges it
//! as a worker does, so that an endpoint is stopped only when no Weir routes to it any more. A Weir that is cut off serves
//! the last table that it has.

mod announce;
mod assembly;
mod authorities;
mod carrying;
mod fleet;
mod gauges;
mod held;
mod import;
mod incoming;
mod kept;
mod lineage;
mod link;
mod load;
mod notices;
mod outgoing;
mod owner;
mod remembered;
mod source;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod wire;

pub use announce::Announcing;
pub use assembly::{MAX_LINE, Refusal};
pub use authorities::Authorities;
pub use carrying::CarriedLoad;
pub use fleet::{Fleet, FleetError, SILENCE, SubscriberStatus, Use};
pub use gauges::FeedGauges;
pub use incoming::{Parts, start};
pub use link::{Link, LinkError};
pub use load::{MAX_LOADS, Report, ServiceLoad};
pub use outgoing::{Admitted, Outgoing, Pieces, Subscription};
pub use status::{SourceStatus, Sources};
pub use table::{FedEndpoint, FedService, FedTable};
pub use wire::FORMAT;
