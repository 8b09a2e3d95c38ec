//! What `/proc` says of processes: who they are, when they started, whose they are.
//!
//! A process id is reused; with its start time and the boot it names one process for good. What Weir starts carries marks
//! in its environment, so that it is found again although Weir died before it could write down what it had started.

use crate::model::{InstanceId, ServiceName};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Marks a process with the store of the Weir that started it.
pub(super) const OWNER: &str = "WEIR_OWNER";
/// Marks a process with its instance.
pub(super) const INSTANCE: &str = "WEIR_INSTANCE";
/// Marks a process with its service.
pub(super) const SERVICE: &str = "WEIR_SERVICE";
/// Marks a process with its ports, in the order of the service's, separated by commas.
pub(super) const PORTS: &str = "WEIR_PORTS";

/// What tells a process from a later one with the same number: start in ticks since boot, and the boot.
pub type Birth = (u64, Arc<str>);

/// One process, from `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    /// It has ended and was not collected yet.
    pub(super) is_zombie: bool,
    pub(super) session: u32,
    /// Field 22: when it started, in clock ticks since boot.
    pub(super) start_ticks: u64,
}

/// The marks in a process's environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) instance: InstanceId,
    pub(super) service: ServiceName,
    pub(super) ports: Vec<u16>,
}

/// A process that lives, with its marks when it is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) stat: Stat,
    pub(super) marks: Option<Marks>,
}

/// Returns what tells a process apart, `None` when there is none or it has ended.
pub fn birth(pid: u32) -> Option<Birth> {
    let stat = stat(pid).filter(|stat| !stat.is_zombie)?;
    Some((stat.start_ticks, boot()))
}

/// Returns the id of this boot.
pub(super) fn boot() -> Arc<str> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// Returns a process by its number.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Returns every process that lives and that this user may see; those of `owner` with their marks.
///
/// Processes in other process namespaces (containers) are left out: they belong to whoever runs the containers.
pub(super) fn scan(owner: &str) -> Vec<Process> {
    let own_namespace = fs::read_link("/proc/self/ns/pid").ok();
    let processes = scan_stats().into_iter().filter_map(|stat| {
        let folder = Path::new("/proc").join(stat.pid.to_string());
        // Not readable: another user's, or it has ended.
        let environment = fs::read(folder.join("environ")).unwrap_or_default();
        let marks = parse_environment(&environment, owner);
        let is_here = || fs::read_link(folder.join("ns/pid")).ok() == own_namespace;
        (marks.is_none() || is_here()).then_some(Process { stat, marks })
    });
    processes.collect()
}

/// Returns every process that lives.
pub(super) fn scan_stats() -> Vec<Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(stat).filter(|stat| !stat.is_zombie).collect()
}

/// Reads a line of `/proc/PID/stat`; the name in it may hold blanks and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split(' ').next()?.parse().ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // Parent and group come before the session; fifteen others before the start.
    let session = fields.nth(2)?.parse().ok()?;
    let start_ticks = fields.nth(15)?.parse().ok()?;
    Some(Stat { pid, is_zombie: matches!(state, "Z" | "X" | "x"), session, start_ticks })
}

/// Reads an environment as in `/proc/PID/environ`; `None` when it is not marked as this owner's.
fn parse_environment(bytes: &[u8], owner: &str) -> Option<Marks> {
    let (mut is_ours, mut instance, mut service, mut ports) = (false, None, None, Vec::new());
    for variable in bytes.split(|byte| *byte == 0) {
        let Some((name, value)) = std::str::from_utf8(variable).ok().and_then(|text| text.split_once('=')) else {
            continue;
        };
        match name {
            OWNER => is_ours = value == owner,
            INSTANCE => instance = InstanceId::parse(value).ok(),
            SERVICE => service = ServiceName::parse(value).ok(),
            PORTS => ports = value.split(',').filter_map(|port| port.parse().ok()).collect(),
            _ => {}
        }
    }
    is_ours.then_some(Marks { instance: instance?, service: service?, ports })
}

#[cfg(test)]
mod tests {
    use super::{birth, boot, parse_environment, parse_stat, scan, stat};
    use std::process::Command;

    #[test]
    fn reads_a_stat_line_whatever_the_name() {
        let tail = "S 1 77 76 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9 9";
        for name in ["sh", "a b", "x) S 1 (y", ")"] {
            let read = parse_stat(&format!("78 ({name}) {tail}\n")).unwrap();
            assert_eq!((read.pid, read.is_zombie, read.session, read.start_ticks), (78, false, 76, 4242), "{name}");
        }
        assert!(parse_stat(&format!("78 (sh) {}", tail.replacen('S', "Z", 1))).unwrap().is_zombie);
        for broken in ["", "78", "78 (sh", "78 (sh) S 1", "x (sh) S 1 2 3"] {
            assert_eq!(parse_stat(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn only_the_owners_marks_count() {
        let environment =
            b"A=1\0WEIR_OWNER=0a\0WEIR_INSTANCE=web-aaaaaa\0WEIR_SERVICE=team/web\0WEIR_PORTS=1,2\0\xFF=\xFF\0";
        let marks = parse_environment(environment, "0a").unwrap();
        assert_eq!((marks.instance.as_str(), marks.service.name(), marks.ports), ("web-aaaaaa", "web", vec![1, 2]));
        assert_eq!(parse_environment(environment, "0b"), None);
        assert_eq!(parse_environment(b"WEIR_OWNER=0a\0WEIR_SERVICE=web", "0a"), None);
        assert_eq!(parse_environment(b"", ""), None);
    }

    #[test]
    fn finds_a_child_by_its_marks_and_tells_its_birth() {
        let owner = format!("owner-{}", std::process::id());
        let marks = [("WEIR_OWNER", owner.as_str()), ("WEIR_INSTANCE", "web-aaaaaa"), ("WEIR_SERVICE", "web")];
        let mut child = Command::new("sleep").arg("60").envs(marks).spawn().unwrap();
        let found: Vec<_> = scan(&owner).into_iter().filter(|process| process.marks.is_some()).collect();
        assert_eq!(found.iter().map(|process| process.stat.pid).collect::<Vec<_>>(), [child.id()]);
        assert_eq!(birth(child.id()), Some((found[0].stat.start_ticks, boot())));
        assert_eq!(found[0].stat, stat(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(birth(child.id()), None);
    }
}
