//! The programs that know the kernel's rules, run one at a time.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use thiserror::Error;

/// Why a program did nothing.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// There is none of that name.
    #[error("{0} is not installed, or not to be found by PATH")]
    Missing(&'static str),
    /// The kernel does not let this user.
    #[error("{0}: {1}: run it as root, or with CAP_NET_ADMIN and, for iptables, CAP_NET_RAW")]
    Forbidden(String, String),
    /// It failed, and said why.
    #[error("{0}: {1}")]
    Said(String, String),
}

/// Runs a program with these words; returns what it prints.
pub(super) fn run(program: &'static str, words: &str, input: &str) -> Result<String, Failure> {
    let failure = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Failure::Missing(program),
        _ => Failure::Said(program.to_owned(), error.to_string()),
    };
    let mut command = Command::new(program);
    command.args(words.split(' ')).env("LC_ALL", "C");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failure)?;
    if let Some(mut to) = child.stdin.take() {
        // Who ends before it has read all of it says why.
        let _ = to.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().map_err(failure)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        let forbidden = ["Operation not permitted", "Permission denied", "you must be root"];
        let asked = format!("{program} {words}");
        return Err(match forbidden.iter().any(|text| said.contains(text)) {
            true => Failure::Forbidden(asked, said),
            false => Failure::Said(asked, said),
        });
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Adds a program with its words, and what it reads, to a script.
pub(super) fn script(text: &mut String, program: &str, words: &str, input: &str) {
    let _ = match input {
        "" => writeln!(text, "{program} {words}"),
        input => writeln!(text, "{program} {words} <<'EOF'\n{input}EOF"),
    };
}

/// Returns whether the kernel has IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Returns whether a device of this network namespace has IPv6, or one that comes will: where it is switched off, as in many
/// containers, nothing of it can be routed.
pub(super) fn uses_ipv6() -> bool {
    let Ok(devices) = std::fs::read_dir("/proc/sys/net/ipv6/conf") else { return false };
    let mut devices = devices.flatten().filter(|device| device.file_name() != OsStr::new("all"));
    devices.any(|device| std::fs::read_to_string(device.path().join("disable_ipv6")).is_ok_and(|off| off.trim() == "0"))
}
