//! Data plane: streams and requests.

mod options;

pub use options::{Limits, Options, Timeouts};
