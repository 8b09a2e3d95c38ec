//! To come.

pub mod whoami;
