//! The HTTP API on its own port.

mod options;

pub use options::Options;
