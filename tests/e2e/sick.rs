//! Replicas that do not work: what the user sees, and that everything else goes on working.

use crate::support::eventually;
use crate::support::http::get;
use crate::support::process::Weir;
use crate::web::{SETTLED, beside, services};
use std::fs;
use std::time::Duration;

/// Longest wait for what takes a few seconds of back-off.
const LIMIT: Duration = Duration::from_secs(60);

/// A service `sick` beside `web`; `/sick` is routed to it.
fn with_sick(command: &str, health: &str) -> String {
    format!(
        "{}[[route]]\nname = \"sick\"\npath = \"/sick\"\nservice = \"sick\"\n\n[[service]]\nname = \"sick\"\nreplicas = 1\n
[service.run]\ncommand = {command}\nreplace_after = \"6s\"\n
[service.health]\ntype = \"http\"\npath = \"{health}\"\ninterval = \"1s\"\n\n",
        services(1, "/dev/null")
    )
}

/// Waits until `weir events` has a line with all of `parts`; returns it.
async fn event(weir: &Weir, parts: &[&str]) -> String {
    eventually(&format!("an event with {parts:?}"), LIMIT, || async {
        let shown = weir.cli(&["events"]).await;
        let line = shown.out.lines().find(|line| parts.iter().all(|part| line.contains(part)));
        line.map(str::to_owned)
    })
    .await
}

/// The service beside the sick one answers, and the sick one is answered for with a reason.
async fn the_rest_works(weir: &Weir) {
    weir.settled("web", 1, SETTLED).await;
    assert!(get(weir.http, "/").await.text().contains("Service: web"));
    let refused = get(weir.http, "/sick").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.field("weir-reason").is_some(), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_exits_at_once_is_quarantined_and_says_why() {
    let _beside = beside().await;
    let weir = Weir::start("exits", &with_sick(r#"["sh", "-c", "echo no database >&2; exit 3"]"#, "/health")).await;
    let line = event(&weir, &["replica_exited", "sick", "exited with status 3"]).await;
    let id = line.split_whitespace().find(|word| word.starts_with("sick-")).unwrap().to_owned();
    let logs = weir.cli(&["logs", &id]).await;
    assert!(logs.code == 0 && logs.out.contains("no database"), "{logs:?}");
    event(&weir, &["replica_exited", "starts again in 1s"]).await;
    event(&weir, &["replica_quarantined", "exited with status 3", "next try in 60s"]).await;
    let shown = weir.cli(&["services"]).await.out;
    assert!(shown.lines().any(|line| line.contains("sick") && line.contains("quarantined")), "{shown}");
    the_rest_works(&weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_exist_is_named() {
    let _beside = beside().await;
    let weir = Weir::start("missing", &with_sick(r#"["/no/such/program"]"#, "/health")).await;
    event(&weir, &["failed to start: cannot run /no/such/program: no such file"]).await;
    event(&weir, &["replica_quarantined", "/no/such/program"]).await;
    the_rest_works(&weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_never_passes_its_check_gets_no_traffic_and_is_replaced() {
    let _beside = beside().await;
    let whoami = r#"["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}"]"#;
    let weir = Weir::start("unhealthy", &with_sick(whoami, "/status/500")).await;
    eventually("`weir ps` says why", LIMIT, || async {
        let shown = weir.cli(&["ps"]).await.out;
        shown.lines().any(|line| line.contains("sick-") && line.contains("/status/500: 500")).then_some(())
    })
    .await;
    the_rest_works(&weir).await;
    event(&weir, &["instance_gone", "sick-", "replaced: it did not serve for too long"]).await;
    let starts = weir.cli(&["events"]).await.out;
    assert!(starts.lines().filter(|line| line.contains("replica_starting") && line.contains("sick-")).count() >= 2);
    the_rest_works(&weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_replica_outlives_a_killed_weir() {
    let _beside = beside().await;
    let mut weir = Weir::start("killed", &services(3, "/dev/null")).await;
    let ready = weir.settled("web", 3, SETTLED).await;
    let pids: Vec<u64> = ready.iter().map(|instance| instance["pid"].as_u64().unwrap()).collect();
    let runs =
        |pid: &&u64| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|text| text.contains("whoami"));
    assert_eq!(pids.iter().filter(runs).count(), 3);
    weir.kill();
    weir.child.wait().await.unwrap();
    eventually("no replica runs", LIMIT, || async { (pids.iter().filter(runs).count() == 0).then_some(()) }).await;
}
