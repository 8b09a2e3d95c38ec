//! Exhaustive tests of the pure core.

mod framing;
mod head;
mod rewrite;
