//! Data plane: names.

mod options;

pub use options::Options;
