//! Deploys that end otherwise than served or rolled back at once: paused, out of time, undone while watched.

use crate::support::eventually;
use crate::support::process::Weir;
use crate::support::traffic::{Kind, Plan, Traffic};
use crate::web::{SETTLED, beside, loaded, services};

/// Runs and never listens.
const DEAF: &str = "sleep 1000";

/// One replica; `rollout` goes into its section.
async fn start(name: &str, rollout: &str) -> Weir {
    let section = "progress_deadline = \"10s\"\n";
    let services = services(1, "/dev/null").replace(section, rollout);
    let weir = Weir::start(name, &services).await;
    weir.settled("web", 1, SETTLED).await;
    eventually("there is something to go back to", SETTLED, || async {
        let (_, rollout) = weir.api("GET", "/v1/services/web/rollout", None).await;
        (rollout["phase"] == "completed").then_some(())
    })
    .await;
    weir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_deploy_that_pauses_says_so_and_what_worked_serves() {
    let _loaded = loaded().await;
    let weir = start("pauses", "progress_deadline = \"3s\"\non_failure = \"pause\"\n").await;
    let before = weir.settled("web", 1, SETTLED).await;
    let traffic = Traffic::start(Plan { rate: 200.0, keepalive: 8, fresh: 4, ..Plan::new(weir.http) });
    let late = weir.cli(&["deploy", "web", "--command", DEAF, "--wait", "--timeout", "500ms"]).await;
    assert_eq!(late.code, 9, "it goes on: {late:?}");
    assert!(late.err.contains("still being rolled out; it goes on"), "{late:?}");
    let failed = weir.cli(&["deploy", "web", "--command", DEAF, "--env", "AGAIN=1", "--wait"]).await;
    assert_eq!(failed.code, 8, "it failed and is not rolled back: {failed:?}\n{}", weir.log());
    assert!(failed.err.contains("revision 3 failed: ") && failed.err.contains("never got healthy"), "{failed:?}");
    let (_, rollout) = weir.api("GET", "/v1/services/web/rollout", None).await;
    assert_eq!((&rollout["revision"], &rollout["phase"]), (&3.into(), &"failed".into()), "{rollout}");
    let ready = weir.ready_instances("web").await;
    assert_eq!(ready[0]["id"], before[0]["id"], "what worked is not touched");
    // By hand it goes back.
    let back = weir.cli(&["rollback", "web", "--wait"]).await;
    assert_eq!(back.code, 0, "{back:?}\n{}", weir.log());
    weir.settled("web", 1, SETTLED).await;
    let report = traffic.stop().await;
    println!("a deploy that pauses: {}", report.line());
    // How fast is another test's business.
    assert_eq!(report.failed(), report.of(Kind::Late), "{:?}\n{}", report.failures, weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_fails_while_it_is_watched_undoes_the_deploy() {
    let _beside = beside().await;
    let weir = start("watched", "progress_deadline = \"20s\"\nmonitor = \"5s\"\n").await;
    let command = "${WEIR} whoami --listen 127.0.0.1:${PORT} --crash-after 4s";
    let failed = weir.cli(&["deploy", "web", "--command", command, "--wait", "--timeout", "2m"]).await;
    assert_eq!(failed.code, 7, "{failed:?}\n{}", weir.log());
    assert!(failed.out.contains("all 1 replicas are replaced and watched"), "{failed:?}");
    assert!(failed.err.contains("is rolled back") && failed.err.contains("exited with status 1"), "{failed:?}");
    let (_, history) = weir.api("GET", "/v1/services/web/revisions", None).await;
    let outcomes: Vec<&str> =
        history["revisions"].as_array().unwrap().iter().map(|one| one["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes[1], "rolled_back", "{outcomes:?}");
}
