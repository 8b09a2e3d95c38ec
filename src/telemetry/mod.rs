//! What the product says about itself: log, metrics.

mod options;

pub use options::{Format, LogOptions};
