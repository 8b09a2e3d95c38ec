//! What a process tree and what a CPU have run, in nanoseconds.
//!
//! The scheduler's run time per thread is exact when the thread sleeps, which it does after a drained stretch. The load
//! of a whole CPU comes from the CPU accounting control group where there is one, else from the ticks of `/proc/stat`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

/// Returns `pid` and all its descendants.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(child);
    }
    let mut found = Vec::new();
    let mut todo = vec![pid];
    while let Some(pid) = todo.pop() {
        found.push(pid);
        todo.extend(children.get(&pid).into_iter().flatten());
    }
    found
}

/// Returns the run time of all threads of the processes.
pub(crate) fn run_ns(pids: &[u32]) -> u64 {
    let mut total = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            total += text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    total
}

/// What threads of this process ran that have ended: they are in no list any more.
static ENDED_THREADS_NS: AtomicU64 = AtomicU64::new(0);

/// A thread that loads a peer says at its end what it ran.
#[allow(dead_code, reason = "not every bench has such threads")]
pub(crate) fn thread_ends() {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    ENDED_THREADS_NS.fetch_add(ns, Ordering::SeqCst);
}

/// Returns what this process ran, its ended threads and children included.
pub(crate) fn own_ns() -> u64 {
    run_ns(&[std::process::id()]) + ENDED_THREADS_NS.load(Ordering::SeqCst) + ended_children_ns()
}

/// Returns the CPU time of the children of this process that have ended, in steps of 10 ms.
fn ended_children_ns() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    [13, 14].iter().map(|&place| fields.get(place).copied().unwrap_or(0)).sum::<u64>() * 10_000_000
}

/// Returns what the kernel's threads for network work of a CPU have run: where much is in flight, splice(2) above all, the
/// kernel does a part of the traffic's work there and charges it to nobody else.
pub(crate) fn network_ns(cpu: usize) -> u64 {
    let name = format!("ksoftirqd/{cpu}");
    let is_named = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    // They are children of the kernel's second process.
    tree(2).into_iter().find(is_named).map_or(0, |pid| run_ns(&[pid]))
}

/// Returns what each CPU has run, stolen time included.
pub(crate) fn busy_ns() -> Vec<u64> {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let rows: Vec<Vec<u64>> = stat
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .map(|line| line.split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0)).collect())
        .collect();
    let tick = |row: &[u64], columns: &[usize]| -> u64 {
        columns.iter().map(|&c| row.get(c).copied().unwrap_or(0)).sum::<u64>() * 10_000_000
    };
    let exact = fs::read_to_string("/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu").unwrap_or_default();
    let exact: Vec<u64> = exact.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
    let all = |(cpu, row): (usize, &Vec<u64>)| {
        let run = exact.get(cpu).copied().unwrap_or_else(|| tick(row, &[0, 1, 2, 5, 6]));
        run + tick(row, &[7])
    };
    rows.iter().enumerate().map(all).collect()
}
