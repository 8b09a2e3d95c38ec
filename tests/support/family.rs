//! A Weir with all its processes: the keeper, the process that serves, replicas.

use std::fs;
use std::process::{Command, Stdio};

/// Returns the parent and the command of a process.
fn stat(pid: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = text.rsplit_once(')')?;
    let command = head.split_once('(')?.1.to_owned();
    Some((tail.split_whitespace().nth(1)?.parse().ok()?, command))
}

/// Returns the children of a process, oldest first.
pub fn children(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|(of, _)| of == parent))
        .collect();
    found.sort_unstable();
    found
}

/// Returns the processes that serve, of a keeper: its children that it told so.
pub fn serving(keeper: u32) -> Vec<u32> {
    let is_kept = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == b"--kept")
    };
    children(keeper).into_iter().filter(is_kept).collect()
}

/// Sends a signal; the process may have ended.
pub fn send(pid: u32, signal: &str) {
    assert!(pid > 1);
    let mut kill = Command::new("kill");
    let _ = kill.arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Kills a process of ours with everything below it: nothing can start anything meanwhile.
pub fn end(pid: u32) {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        send(pid, "STOP");
        all.extend(children(pid));
        next += 1;
    }
    for pid in all {
        send(pid, "KILL");
    }
}
