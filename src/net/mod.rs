//! Sockets: how they are bound, who holds an address that is taken, and how the keeper lends them.

mod binder;
mod datagram;
mod door;
mod link;
mod listener;
pub mod message;
pub mod preface;
mod route;
mod stream;
pub mod tls;
mod unix;

pub use binder::{Binder, Bound, Kind, UnixFile, Wanted, or_free};
pub use datagram::bind_datagrams;
pub use door::Door;
pub use link::{Link, Order};
pub use listener::{BindError, bind, bind_more};
pub use route::{RouteError, Routed, add_local_route, remove_local_route};
pub use stream::{Layer, Stream, Unserved};
pub use unix::{SocketFile, UnixError, bind_unix};
