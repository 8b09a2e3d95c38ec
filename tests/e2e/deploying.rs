//! Deploys under load: those that work, those that do not and are rolled back, rollback by hand. No request fails.

use crate::support::process::{Finished, Weir};
use crate::web::{FULL, SETTLED, SHORT, Scale, World, beside, loaded};
use serde_json::json;

/// Runs and never listens.
const DEAF: &str = "sleep 1000";
/// Ends at once and says why.
const ENDS: &str = "sh -c 'echo no database >&2; exit 3'";

fn good_command(journal: &str) -> String {
    format!("${{WEIR}} whoami --listen 127.0.0.1:${{PORT}} --journal {journal}")
}

async fn deploy(weir: &Weir, arguments: &[&str]) -> Finished {
    weir.cli(&[&["deploy", "web", "--wait", "--timeout", "3m"], arguments].concat()).await
}

/// Asserts that a deploy was rolled back, that the cause is named, and that what worked serves.
async fn is_rolled_back(weir: &Weir, finished: &Finished, cause: &[&str]) {
    assert_eq!(finished.code, 7, "{finished:?}\n{}", weir.log());
    for part in [&["is rolled back"], cause].concat() {
        assert!(finished.err.contains(part), "{part:?} is not in {finished:?}");
    }
    weir.settled("web", 3, SETTLED).await;
}

async fn deploys_fail_no_request(scale: Scale, good: usize, bad: usize) {
    let _loaded = loaded().await;
    let world = World::start("deploying", scale).await;
    for release in 1..=good {
        let before = world.weir.settled("web", 3, SETTLED).await;
        let finished = deploy(&world.weir, &["--env", &format!("RELEASE={release}")]).await;
        assert_eq!(finished.code, 0, "{finished:?}\n{}", world.weir.log());
        assert!(finished.out.contains("serves"), "{finished:?}");
        let after = world.weir.settled("web", 3, SETTLED).await;
        assert!(before.iter().all(|old| after.iter().all(|new| new["id"] != old["id"])), "all were replaced");
        world.passes(scale.between() / 2).await;
    }
    for attempt in 1..=bad {
        let before = world.weir.settled("web", 3, SETTLED).await;
        let bad = format!("BAD={attempt}");
        let finished = deploy(&world.weir, &["--command", DEAF, "--env", &bad]).await;
        is_rolled_back(&world.weir, &finished, &["never got healthy", "its last check: connect"]).await;
        let after = world.weir.settled("web", 3, SETTLED).await;
        let ids = |all: &[serde_json::Value]| all.iter().map(|one| one["id"].to_string()).collect::<Vec<_>>();
        assert_eq!(ids(&before), ids(&after), "what worked was not touched");
        world.passes(scale.between() / 2).await;
    }
    let finished = deploy(&world.weir, &["--command", ENDS]).await;
    is_rolled_back(&world.weir, &finished, &["exited with status 3", "no database"]).await;
    let finished = deploy(&world.weir, &["--command", "/no/such/program"]).await;
    is_rolled_back(&world.weir, &finished, &["cannot start", "/no/such/program"]).await;
    let finished = world.weir.cli(&["rollback", "web", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let finished = world.weir.cli(&["scale", "web", "5", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let finished = world.weir.cli(&["scale", "web", "auto", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    let (victim, _) = world.victim(scale.in_flight).await;
    assert_eq!(world.weir.cli(&["drain", &victim]).await.code, 0);
    world.weir.settled_without(&victim, "web", 3, SETTLED).await;
    let history = world.weir.cli(&["history", "web", "-o", "json"]).await;
    let history: serde_json::Value = serde_json::from_str(&history.out).unwrap();
    let all = history["revisions"].as_array().unwrap();
    let rolled_back = all.iter().filter(|revision| revision["outcome"] == "rolled_back").count();
    assert_eq!(rolled_back, bad + 2, "{all:?}");
    world.fill(scale).await;
    let what = format!("{good} good and {} bad deploys, a rollback, scale, drain", bad + 2);
    world.stop(&what).await.none_failed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploys_good_and_bad_fail_no_request() {
    deploys_fail_no_request(SHORT, 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 good and 10 bad deploys within 400,000 requests; run by tests/run --long"]
async fn twenty_good_and_ten_bad_deploys_fail_no_request() {
    deploys_fail_no_request(Scale { requests: 400_000, events: 30, ..FULL }, 20, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_deploys_say_what_is_wrong_and_change_nothing() {
    let _beside = beside().await;
    let weir = Weir::start("wrong-deploys", &crate::web::services(1, "/dev/null")).await;
    let before = weir.settled("web", 1, SETTLED).await;
    let file =
        weir.folder.write("twice.toml", "[[service]]\nname = \"web\"\nretries = 99\nrun = { command = [\"x\"] }\n");
    let file = file.display().to_string();
    for (arguments, code, says) in [
        (&["deploy", "nobody", "--env", "A=1"][..], 3, "there is no service nobody"),
        (&["deploy", "web"], 2, "nothing to change"),
        (&["deploy", "web", "--env", "A"], 2, "write NAME=VALUE"),
        (&["deploy", "web", "--env", "PORT=1"], 2, "PORT is set by Weir"),
        (&["deploy", "web", "--env", "A=1", "--if-revision", "9"], 4, "is at revision 1, not at 9"),
        (&["deploy", "web", "--command", "sh -c 'x"], 2, "a quote that does not end"),
        (&["deploy", "-f", &file], 2, "retries: is 99"),
        (&["deploy", "-f", "/no/such/file.toml"], 2, "/no/such/file.toml"),
        (&["rollback", "web"], 4, "no earlier revision that worked"),
        (&["rollback", "web", "7"], 3, "no revision 7"),
        (&["rollback", "nobody"], 3, "there is no service nobody"),
        (&["history", "nobody"], 3, "there is no service nobody"),
    ] {
        let finished = weir.cli(arguments).await;
        assert_eq!(finished.code, code, "{arguments:?}: {finished:?}");
        assert!(finished.err.contains(says), "{arguments:?}: {says:?} is not in {finished:?}");
    }
    assert_eq!(weir.settled("web", 1, SETTLED).await[0]["id"], before[0]["id"]);
    let (_, rollout) = weir.api("GET", "/v1/services/web/rollout", None).await;
    assert_eq!(rollout["revision"], 1, "{rollout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_of_a_file_are_taken_up_all_or_none() {
    let _beside = beside().await;
    let weir = Weir::start("deploy-file", &crate::web::services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let web = json!({"name": "web", "run": {"command": ["sleep", "9"]}, "port": [{"name": "other"}]});
    let fresh = json!({"name": "fresh", "run": {"command": ["sleep", "9"]}});
    let (status, problem) = weir.api("POST", "/v1/deploy", Some(json!({"services": [fresh, web]}))).await;
    assert_eq!((status, &problem["code"]), (409, &"port_in_use".into()), "{problem}");
    assert_eq!(weir.api("GET", "/v1/services/fresh", None).await.0, 404, "none was taken up");
    let text = crate::web::service("fresh", 2, "/dev/null");
    let file = weir.folder.write("fresh.toml", &text).display().to_string();
    let finished = weir.cli(&["deploy", "-f", &file, "--wait", "--timeout", "2m"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", weir.log());
    weir.settled("fresh", 2, SETTLED).await;
    // The configuration file never had it, so its reload does not end it.
    assert_eq!(weir.cli(&["reload"]).await.code, 0);
    weir.settled("fresh", 2, SETTLED).await;
    let again = weir.cli(&["deploy", "-f", &file, "--wait"]).await;
    assert!(again.code == 0 && again.out.contains("revision 1 is wanted already"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_deploy_wins_and_a_restart_keeps_what_counts() {
    let _beside = beside().await;
    let journal = "/dev/null";
    let mut weir = Weir::start("newest", &crate::web::services(2, journal)).await;
    weir.settled("web", 2, SETTLED).await;
    // Two at once: whoever came first hears that it is superseded.
    let first = deploy(&weir, &["--command", DEAF]);
    let second = async {
        crate::support::eventually("the first is on its way", SETTLED, || async {
            let (_, rollout) = weir.api("GET", "/v1/services/web/rollout", None).await;
            (rollout["revision"] == 2).then_some(())
        })
        .await;
        deploy(&weir, &["--command", &good_command(journal), "--env", "RELEASE=3"]).await
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.code, 4, "{first:?}");
    assert!(first.err.contains("superseded by revision 3"), "{first:?}");
    assert_eq!(second.code, 0, "{second:?}\n{}", weir.log());
    assert_eq!(weir.cli(&["scale", "web", "3", "--wait"]).await.code, 0);
    // Not written in the file, and there all the same after a restart: the deployed definition and the number by hand.
    crate::support::process::kill(weir.pid(), "TERM").await;
    weir.child.wait().await.unwrap();
    weir.respawn();
    weir.ready().await;
    weir.settled("web", 3, SETTLED).await;
    let (_, rollout) = weir.api("GET", "/v1/services/web/rollout", None).await;
    assert_eq!((&rollout["revision"], &rollout["phase"]), (&3.into(), &"completed".into()), "{rollout}");
    let (_, service) = weir.api("GET", "/v1/services/web", None).await;
    assert_eq!((&service["pinned"], &service["revision"]), (&true.into(), &3.into()), "{service}");
    assert_eq!(weir.cli(&["scale", "web", "auto", "--wait"]).await.code, 0);
    weir.settled("web", 2, SETTLED).await;
}
