//! Data plane: names.

mod answer;
mod authority;
mod handler;
mod options;

pub use answer::Scratch;
pub use authority::Authority;
pub use handler::{Reply, Transport, View, answer};
pub use options::Options;
