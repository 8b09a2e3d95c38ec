//! Replicas outlive Weir, or follow it, as `workloads_on_exit` says.

use crate::node::{LIMIT, Node, is_alive, service, web};
use crate::support::eventually;
use std::fs;
use std::process::Command;

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kill_9_the_same_replicas_serve_from_the_first_connection_on() {
    let mut node = Node::new("adopt", "keep", &web(3));
    node.start().await;
    let before = node.settled("web", 3).await;
    assert_eq!(node.replicas(), before);
    node.noted(3).await;
    for _ in 0..3 {
        node.kill().await;
        assert_eq!(node.replicas(), before, "replicas run on without Weir");
        node.spawn();
        // The first connection that is accepted finds them all.
        assert_eq!(node.first_answer().await, 200, "{}", node.log());
        node.ready().await;
        let listed = node.instances().await;
        assert!(listed.values().all(|one| one["state"] == "ready"), "{listed:?}");
        assert_eq!(node.settled("web", 3).await, before);
    }
    assert_eq!(node.replicas(), before, "no duplicate, no orphan");

    // An adopted replica that ends is seen and replaced; one that is stopped ends with all that it started.
    let (victim, pid) = before.iter().next().unwrap();
    kill(*pid);
    let after = eventually("a replacement", LIMIT, || async {
        let after = node.settled("web", 3).await;
        (!after.contains_key(victim)).then_some(after)
    })
    .await;
    assert_eq!(node.replicas(), after);
    assert_eq!(node.cli(&["scale", "web", "1"]).await.code, 0);
    assert_eq!(node.settled("web", 1).await.len(), 1);
    eventually("the others have ended", LIMIT, || async { (node.replicas().len() == 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_leaves_replicas_running_where_they_are_kept_and_ends_them_where_not() {
    let mut node = Node::new("keep", "keep", &web(2));
    node.start().await;
    let before = node.settled("web", 2).await;
    assert_eq!(node.terminate().await, 0, "{}", node.log());
    assert_eq!(node.replicas(), before);
    node.start().await;
    assert_eq!(node.settled("web", 2).await, before);
    assert_eq!(node.replicas(), before);

    let mut node = Node::new("stop", "stop", &web(2));
    node.start().await;
    node.settled("web", 2).await;
    assert_eq!(node.terminate().await, 0, "{}", node.log());
    assert!(node.members().is_empty());
    node.start().await;
    node.settled("web", 2).await;
    node.kill().await;
    eventually("the kernel killed them", LIMIT, || async { node.members().is_empty().then_some(()) }).await;
    node.start().await;
    let after = node.settled("web", 2).await;
    assert_eq!(node.replicas(), after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wants_any_more_is_stopped_and_what_died_meanwhile_is_replaced() {
    let both = format!("{}{}", web(2), service("old", 2));
    let mut node = Node::new("orphans", "keep", &both);
    node.start().await;
    node.settled("old", 2).await;
    let web_before = node.settled("web", 2).await;
    node.kill().await;
    let dead = web_before.keys().next().unwrap();
    kill(web_before[dead]);
    node.configure(&web(2));
    node.start().await;
    eventually("the orphans have ended", LIMIT, || async {
        // A replacement that is just being started has no leader yet.
        node.leaders()?.keys().all(|id| id.starts_with("web-")).then_some(())
    })
    .await;
    let after = node.settled("web", 2).await;
    assert!(!after.contains_key(dead) && after.keys().any(|id| web_before.contains_key(id)), "{after:?}");
    assert_eq!(node.replicas(), after);
    // And nothing of it comes back.
    node.kill().await;
    node.start().await;
    assert_eq!(node.settled("web", 2).await, after);
    assert_eq!(node.replicas(), after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_replica_is_stopped_with_everything_that_it_started() {
    let services = "[[service]]\nname = \"tree\"\nreplicas = 1\n
[service.run]\ncommand = [\"sh\", \"-c\", \"sleep 600 & exec \\\"$0\\\" whoami --listen 127.0.0.1:${PORT}\", \"${WEIR}\"]\nstop_grace = \"2s\"\n";
    let mut node = Node::new("tree", "keep", services);
    node.start().await;
    node.settled("tree", 1).await;
    let members = node.members();
    let pids = members.values().next().unwrap().clone();
    assert_eq!(pids.len(), 2, "{members:?}");
    node.kill().await;
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    node.start().await;
    assert_eq!(node.members(), members);
    assert_eq!(node.cli(&["scale", "tree", "0"]).await.code, 0);
    eventually("all of it ended", LIMIT, || async { node.members().is_empty().then_some(()) }).await;

    // The leader dies while Weir is away: what it started goes at the next start.
    assert_eq!(node.cli(&["scale", "tree", "1"]).await.code, 0);
    let leader = node.settled("tree", 1).await.into_values().next().unwrap();
    let old = node.members().into_keys().next().unwrap();
    node.kill().await;
    kill(leader);
    node.start().await;
    eventually("a new one", LIMIT, || async {
        let members = node.members();
        (!members.contains_key(&old) && members.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_adopted_replicas_go_on_in_the_same_files() {
    let services = "[[service]]\nname = \"talk\"\nreplicas = 1\n
[service.run]\ncommand = [\"sh\", \"-c\", \"n=0; (while :; do n=$((n+1)); echo line $n; sleep 0.02; done) & exec \\\"$0\\\" whoami --listen 127.0.0.1:${PORT}\", \"${WEIR}\"]\nstop_grace = \"1s\"\n";
    let mut node = Node::new("talk", "keep", services);
    node.start().await;
    let id = node.settled("talk", 1).await.into_keys().next().unwrap();
    node.kill().await;
    let file = node.state.join(format!("logs/{id}.stdout.log"));
    let lines = || fs::read_to_string(&file).unwrap().lines().count();
    let then = lines();
    eventually("it writes on without Weir", LIMIT, || async { (lines() > then + 5).then_some(()) }).await;
    node.start().await;
    let then = lines();
    eventually("it writes on with the next Weir", LIMIT, || async { (lines() > then + 5).then_some(()) }).await;
    let shown = node.cli(&["logs", &id]).await;
    let numbers: Vec<u32> = shown.out.lines().filter_map(|line| line.rsplit_once("line ")?.1.parse().ok()).collect();
    assert!(numbers.len() > 10 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}
