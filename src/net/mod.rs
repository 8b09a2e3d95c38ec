//! Sockets: how they are bound and who holds an address that is taken.

mod datagram;
mod listener;

pub use datagram::bind_datagrams;
pub use listener::{BindError, bind, bind_more};
