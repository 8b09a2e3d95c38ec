//! Resident memory of processes, and how many descriptors this one may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io;

/// Returns the resident memory of processes in KiB; pages that they share count for each.
pub(crate) fn resident_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// Returns the memory of processes in KiB, pages that several map divided among those (Pss of `smaps_rollup`).
pub(crate) fn proportional_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| -> Option<u64> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// Lets this process, and what it starts, open as many descriptors as it may, at most `wanted`; returns how many.
pub(crate) fn raise_descriptors(wanted: u64) -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)).max(limit.current.unwrap_or(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit })?;
    Ok(current)
}
