//! What stands before the traffic of a connection: read without taking a further octet of it, by parsers that know no
//! socket.

pub mod detect;
pub mod hello;
pub mod postgres;
pub mod proxy;
mod read;

pub use read::{Peeked, peek, take};
