//! What is left of a process group when its leader has ended.

use crate::control::runtime::procfs::{self, Stat};
use crate::sys::process::{self, Signal};
use std::time::{Duration, Instant};

/// Time between looks at whether a stopped process's group is empty.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until the group of an ended child is empty, then kills the rest: children that a shell left to finish.
pub(super) async fn end(leader: u32, end_by: Instant) {
    let empty = async {
        while process::group_exists(leader) {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    if tokio::time::timeout_at(end_by.into(), empty).await.is_err() {
        // The last member may have ended this moment.
        let _ = process::signal_group(leader, Signal::Kill);
    }
}

/// As [`end`] for the session of an adopted process, whose number may be another's by now; without `end_by` at once.
pub(super) async fn end_adopted(leader: Stat, end_by: Option<Instant>) {
    if let Some(end_by) = end_by {
        let empty = async {
            while !members(leader).is_empty() {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        if tokio::time::timeout_at(end_by.into(), empty).await.is_ok() {
            return;
        }
    }
    for member in members(leader) {
        kill(&member);
    }
}

/// Kills one process, unless its number is another's by now.
pub(super) fn kill(stat: &Stat) {
    let Ok(handle) = process::open_handle(stat.pid) else { return };
    // Asked after the handle was opened: the handle is of this very process.
    if procfs::stat(stat.pid).is_some_and(|now| now.start_ticks == stat.start_ticks) {
        // It may have ended this moment.
        let _ = process::kill_by_handle(handle);
    }
}

/// Returns who lives in the session of an ended leader.
fn members(leader: Stat) -> Vec<Stat> {
    if procfs::stat(leader.pid).is_some_and(|now| now.start_ticks != leader.start_ticks) {
        // The number was given away, which the kernel does only once the session is empty.
        return Vec::new();
    }
    let mut all = procfs::scan_stats();
    all.retain(|stat| stat.session == leader.pid && stat.pid != leader.pid);
    all
}
