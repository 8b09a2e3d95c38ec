//! Sockets: how they are bound and who holds an address that is taken.

mod listener;

pub use listener::{BindError, bind};
