//! What must survive: one redb file, committed and fsync'd before anything that it records is answered or acted on.
//!
//! [`Store`] is the handle: [`Store::open`] reads everything there is into [`Contents`], [`Store::commit`] writes a set of
//! [`Change`]s whole or not at all, on a thread of its own, because redb blocks. Commits that wait are written in one
//! transaction. `records.rs` has what is kept, `file.rs` the file and its versions, `writer.rs` the thread. Nobody reads
//! from the store while Weir runs: each part keeps its own picture and writes through. Next on the path:
//! `control/deployments`.

mod check;
mod error;
mod file;
mod records;
mod stats;
mod writer;

pub use check::{Report, check};
pub use error::{OpenError, StoreError};
pub use records::{
    AccountRecord, AddressRecord, CertificateRecord, FailureRecord, OrderRecord, Origin, RootRecord, Secret,
};
pub use records::{ChangeSource, Contents, Head, Outcome, RegistrationRecord, ReplicaRecord, Revision, WorkloadRecord};
pub use stats::StoreStatus;
pub use writer::{Change, Store};
