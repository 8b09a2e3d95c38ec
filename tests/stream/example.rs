//! The example of two network namespaces, as users run it.

use crate::support::example::sees_the_clients_own_address;
use crate::support::process::WEIR;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = "config/examples/namespaces";

/// What the example makes goes with this, however the test ends.
struct Example(PathBuf);

impl Example {
    fn run(&self, what: &str) -> String {
        let output = Command::new(SCRIPT).arg(what).env("WEIR", WEIR).env("WORK", &self.0).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{what}: {said}");
        said
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.0.exists() {
            let _ = Command::new(SCRIPT).arg("down").env("WORK", &self.0).status();
        }
    }
}

/// The names of network namespaces.
fn spaces() -> String {
    String::from_utf8(Command::new("ip").args(["netns", "list"]).output().unwrap().stdout).unwrap()
}

#[test]
fn two_namespaces_are_made_shown_and_removed_without_a_trace() {
    // Below what every user may enter: one of its Weirs has no privilege.
    let example = Example(Path::new("/tmp").join(format!("weir-example-{}", std::process::id())));
    assert!(!spaces().contains("weir-"), "left by a run that was killed: config/examples/namespaces down");
    example.run("up");
    let shown = example.run("show");
    sees_the_clients_own_address(&shown);
    for line in ["redirect to :15001", "tproxy ip to :15006"] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let work = example.0.clone();
    example.run("down");
    assert!(!spaces().contains("weir-") && !work.exists());
    let left = Command::new("pgrep").args(["-f", work.to_str().unwrap()]).output().unwrap();
    assert!(left.stdout.is_empty(), "processes: {}", String::from_utf8_lossy(&left.stdout));
}
