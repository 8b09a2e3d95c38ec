//! A full or read-only disk: writes are refused with a reason, nothing acknowledged is lost, traffic goes on.

use crate::node::{LIMIT, Node, web};
use crate::support::eventually;
use serde_json::json;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of its own, gone at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let disk = Self(path.to_owned());
        disk.run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        disk
    }

    fn run(&self, command: &[&str]) {
        let status = Command::new(command[0]).args(&command[1..]).arg(&self.0).status().unwrap();
        assert!(status.success(), "{command:?} {}: these tests mount a tmpfs, which needs root", self.0.display());
    }

    /// Takes all room but this many octets.
    fn fill(&self) {
        let mut file = fs::File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0; 1]).is_ok() {}
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

/// A Weir whose state is on a disk of its own; bound in this order, the processes are ended before their disk goes.
fn on_disk(name: &str, services: &str, size: &str) -> (Disk, Node) {
    let node = Node::new(name, "keep", services);
    (Disk::mount(&node.state, size), node)
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn registration(number: usize) -> serde_json::Value {
    json!({"id": format!("ext-{number}"), "service": "ext", "address": "127.0.0.1", "ports": [9], "lease": "1h"})
}

const EXTERNAL: &str = "[[service]]\nname = \"ext\"\n\n";

/// Registers until one is refused; returns how many were acknowledged, and the refusal.
async fn register_until_refused(node: &Node, first: usize) -> (usize, serde_json::Value) {
    for number in first..first + 20_000 {
        match node.api("POST", "/v1/instances", Some(registration(number))).await {
            (201, _) => {}
            (507, problem) => return (number, problem),
            other => panic!("{other:?}\n{}", node.log()),
        }
    }
    panic!("never refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_recovers() {
    let (disk, mut node) = on_disk("full", &format!("{EXTERNAL}{}", web(2)), "8m");
    node.start().await;
    let before = node.settled("web", 2).await;
    // A file that is opened again gives back what it had set aside; so the disk is filled and the store written in turns.
    let (mut acknowledged, mut refused) = (0, 0);
    for _ in 0..5 {
        disk.fill();
        let (number, problem) = register_until_refused(&node, acknowledged).await;
        (acknowledged, refused) = (number, refused + 1);
        assert_eq!((&problem["code"], &problem["status"]), (&json!("store_full"), &json!(507)));
        assert!(problem["detail"].as_str().unwrap().contains("disk of the store is full"), "{problem}");
        assert!(!node.instances().await.contains_key(&format!("ext-{number}")), "what was refused was not done");
        assert_eq!(node.get().await, 200, "traffic goes on");
    }
    println!("acknowledged on the full disk: {acknowledged}, refused: {refused}");

    // A replica that dies is replaced all the same.
    let (victim, pid) = before.iter().next().unwrap();
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let after = eventually("a replacement", LIMIT, || async {
        let after = node.settled("web", 2).await;
        (!after.contains_key(victim)).then_some(after)
    })
    .await;
    disk.clear();
    eventually("the store is written again", LIMIT, || async {
        let (_, status) = node.api("GET", "/v1/status", None).await;
        (status["store"]["state"] == "ok" && status["store"]["unsaved"] == 0).then_some(())
    })
    .await;
    let status = node.cli(&["status"]).await;
    assert!(status.out.contains(": ok; ") && status.out.contains("weir.redb ("), "{status:?}");
    assert_eq!(node.api("POST", "/v1/instances", Some(registration(acknowledged))).await.0, 201);
    let metrics = node.metrics().await;
    for name in
        ["weir_store_failures_total{reason=\"full\"}", "weir_store_commit_seconds_count", "weir_store_file_bytes"]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }

    node.kill().await;
    node.start().await;
    let all = node.instances().await;
    let there = (0..=acknowledged).filter(|number| all.contains_key(&format!("ext-{number}"))).count();
    assert_eq!(there, acknowledged + 1, "every acknowledged registration is there");
    assert_eq!(node.settled("web", 2).await, after);
    assert_eq!(node.replicas(), after, "also what was started while the disk was full is adopted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_on_a_full_disk_is_refused_and_those_before_are_kept() {
    let (disk, mut node) = on_disk("full-deploy", &web(1), "8m");
    node.start().await;
    node.settled("web", 1).await;
    let mut accepted = 0;
    let refused = loop {
        if accepted >= 3 {
            disk.fill();
        }
        let release = format!("RELEASE={accepted}");
        let finished = node.cli(&["deploy", "web", "--env", &release]).await;
        match finished.code {
            0 => accepted += 1,
            _ => break finished,
        }
        assert!(accepted < 1000, "never refused");
    };
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("disk of the store is full; nothing was changed"), "{refused:?}");
    assert_eq!(node.get().await, 200, "traffic goes on");
    let wanted = |history: &serde_json::Value| {
        let all = history["revisions"].as_array().unwrap();
        let wanted = all.iter().find(|one| one["wanted"] == true).unwrap();
        (wanted["revision"].as_u64().unwrap(), wanted["definition"]["run"]["env"]["RELEASE"].clone())
    };
    let (_, before) = node.api("GET", "/v1/services/web/revisions", None).await;
    let last = if accepted == 0 { serde_json::Value::Null } else { json!((accepted - 1).to_string()) };
    assert_eq!(wanted(&before), (accepted + 1, last), "the refused one is not wanted");
    println!("deploys accepted until the disk was full: {accepted}");
    node.kill().await;
    node.start().await;
    let (_, after) = node.api("GET", "/v1/services/web/revisions", None).await;
    assert_eq!(wanted(&after), wanted(&before), "every accepted deploy is there");
    disk.clear();
    eventually("it is taken again", LIMIT, || async {
        (node.cli(&["deploy", "web", "--env", "RELEASE=last"]).await.code == 0).then_some(())
    })
    .await;
    let (_, last) = node.api("GET", "/v1/services/web/revisions", None).await;
    assert_eq!(wanted(&last).1, "last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_on_a_full_disk_serves() {
    let (disk, mut node) = on_disk("full-start", &format!("{EXTERNAL}{}", web(2)), "8m");
    node.start().await;
    let before = node.settled("web", 2).await;
    disk.fill();
    let (acknowledged, _) = register_until_refused(&node, 0).await;
    node.kill().await;
    node.start().await;
    assert_eq!(node.settled("web", 2).await, before);
    assert_eq!(node.get().await, 200);
    let all = node.instances().await;
    assert!((0..acknowledged).all(|number| all.contains_key(&format!("ext-{number}"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_read_only_disk_is_refused_at_the_start_by_name() {
    let (disk, mut node) = on_disk("read-only", &web(1), "16m");
    node.start().await;
    node.settled("web", 1).await;
    assert_eq!(node.cli(&["scale", "web", "0"]).await.code, 0);
    eventually("nothing runs", LIMIT, || async { node.members().is_empty().then_some(()) }).await;
    node.kill().await;
    // What has just ended may still be closing its log.
    eventually("nothing on the disk is open for writing", LIMIT, || async {
        let mut remount = Command::new("mount");
        remount.args(["-o", "remount,ro"]).arg(&disk.0).stderr(Stdio::null());
        remount.status().unwrap().success().then_some(())
    })
    .await;
    let refused = node.second().await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("weir.redb") && refused.err.contains("Read-only file system"), "{refused:?}");
}

/// Forbids writing to a file, also by who has it open, until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(path: PathBuf) -> Self {
        let status = Command::new("chattr").arg("+i").arg(&path).status().unwrap();
        assert!(status.success(), "chattr +i {}: needs root and a file system with immutable files", path.display());
        Self(path)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_becomes_read_only_refuses_writes_and_recovers() {
    let mut node = Node::new("frozen", "keep", &format!("{EXTERNAL}{}", web(1)));
    node.start().await;
    let before = node.settled("web", 1).await;
    node.noted(1).await;
    assert_eq!(node.api("POST", "/v1/instances", Some(registration(0))).await.0, 201);
    let frozen = Frozen::new(node.state.join("weir.redb"));
    let (status, problem) = node.api("POST", "/v1/instances", Some(registration(1))).await;
    assert_eq!((status, problem["code"].as_str()), (507, Some("store_failed")), "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("cannot be written") && detail.contains("not permitted"), "{problem}");
    assert_eq!(node.get().await, 200, "traffic goes on");
    drop(frozen);
    eventually("it is written again", LIMIT, || async {
        (node.api("POST", "/v1/instances", Some(registration(1))).await.0 == 201).then_some(())
    })
    .await;
    node.kill().await;
    node.start().await;
    let all = node.instances().await;
    assert!(all.contains_key("ext-0") && all.contains_key("ext-1"));
    assert_eq!(node.settled("web", 1).await, before);
}
