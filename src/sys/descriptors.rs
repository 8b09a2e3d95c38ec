//! How many descriptors this process may have: the soft limit that it was started with is for programs that use select(2).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::sync::OnceLock;

/// More than this nobody needs; where the hard limit is "unlimited" the kernel has one of its own.
const MOST: u64 = 1 << 20;

/// The soft limit before it was raised.
static FOUND: OnceLock<u64> = OnceLock::new();

/// Raises the soft limit of this process to the hard one, at most a million.
///
/// # Errors
/// The errno of setrlimit(2).
pub fn raise() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    let Some(found) = limit.current.filter(|current| *current < most) else { return Ok(()) };
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit })?;
    // Whoever is second finds it raised.
    let _ = FOUND.set(found);
    Ok(())
}

/// Returns the soft limit that was found, for programs that are started; `None`: it was not raised.
pub fn found() -> Option<u64> {
    FOUND.get().copied()
}

/// Lowers the soft limit of this process again.
///
/// # Errors
/// The errno of setrlimit(2).
pub fn lower(to: u64) -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let to = limit.current.map_or(to, |current| current.min(to));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(to), ..limit })?)
}
