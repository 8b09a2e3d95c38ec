//! Control plane: what decides.

mod options;

pub use options::Options;
