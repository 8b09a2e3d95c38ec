//! Whose definition of a service counts: numbered revisions, from the configuration file and from people, kept in the store.
//!
//! Every change makes a revision with its source. The file contributes one only when a service's section differs from what
//! it last contributed, so that an unchanged file never undoes a deploy and an edited one does. A number of replicas set by
//! hand stands beside the definition: it survives restarts and deploys, and goes when the file changes `replicas` or
//! `scale`. A service that the file owns ends when the file no longer has it.
//!
//! `book.rs` decides, purely: it turns a request into a `Draft`, the changes of the store with what follows from them.
//! `actor.rs` is the single writer: it commits a draft, takes it into the book, and only then tells the registry; it hears
//! how rollouts end and rolls back. `handle.rs` has the [`Handle`] that others talk to.
//!
//! Invariants: what is answered is in the store; what the store refuses has changed nothing; a rollback is a revision of its
//! own, and one that was made by a failure is never rolled back itself.

mod actor;
mod book;
mod error;
mod handle;
mod patch;
mod status;

#[cfg(test)]
mod tests;

pub use actor::{Deployments, Parts};
pub use error::DeployError;
pub use handle::{Accepted, Handle};
pub use patch::Patch;
pub use status::{RevisionStatus, RolloutPhase, RolloutStatus, SectionChange};
