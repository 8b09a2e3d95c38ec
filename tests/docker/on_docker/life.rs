//! The plain life of containers: started, reached, read, scaled, stopped, removed.

use crate::engine::Engine;
use crate::support;
use crate::support::process::{WEIR, Weir};
use crate::world::{SETTLED, containers, get, ids, odd, preface, service, start};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_run_as_containers_are_served_scaled_and_removed() {
    let engine = Engine::start();
    let weir = start(&engine, "life", 2).await;
    let running = weir.ready_instances("web").await;
    assert_eq!(engine.containers(), ids(&running), "containers have the names of instances");
    assert_eq!(engine.ids(), containers(&running));
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (status, instance) = get(&weir).await;
        assert_eq!(status, 200);
        answered.insert(instance);
    }
    assert_eq!(answered.into_iter().collect::<Vec<_>>(), ids(&running));

    let one = &ids(&running)[0];
    // The engine writes a container's output down on its own time.
    support::eventually("its output", SETTLED, || async {
        let logs = weir.cli(&["logs", one]).await;
        logs.out.contains("listening on 0.0.0.0:8080").then_some(())
    })
    .await;
    assert_eq!(engine.inspect(one, "{{index .Config.Labels \"weir.service\"}}"), "web");

    for replicas in [4, 1] {
        assert_eq!(weir.cli(&["scale", "web", &replicas.to_string()]).await.code, 0);
        let running = weir.settled("web", replicas, SETTLED).await;
        support::eventually("as many containers", SETTLED, || async {
            (engine.containers() == ids(&running)).then_some(())
        })
        .await;
    }
    assert_eq!(weir.cli(&["scale", "web", "0"]).await.code, 0);
    support::eventually("no container", SETTLED, || async { engine.containers().is_empty().then_some(()) }).await;
    // What the replica wrote outlives its container.
    let logs = weir.cli(&["logs", one]).await;
    assert!(logs.out.contains("listening on"), "{logs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_and_stop_with_the_container() {
    let engine = Engine::start();
    let weir = start(&engine, "logs", 1).await;
    let id = ids(&weir.ready_instances("web").await).remove(0);
    let mut follow = tokio::process::Command::new(WEIR);
    follow.args(["--addr", &weir.admin.to_string(), "logs", "--follow", &id]).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let first = support::within("a line of the log", SETTLED, lines.next_line()).await.unwrap();
    assert!(first.as_ref().is_some_and(|line| line.contains("listening on")), "{first:?}");
    assert_eq!(weir.cli(&["scale", "web", "0"]).await.code, 0);
    let ended = support::within("the end of the log", SETTLED, follow.wait()).await.unwrap();
    assert!(ended.success(), "{ended:?}");
}

/// What is still to be copied from the engine when the replica is gone is awaited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_followed_to_its_last_line() {
    const LINES: usize = 20_000;
    let engine = Engine::start();
    let said = format!("CMD [\"tell\", \"{LINES}\"]");
    engine.import("teller:1", &["ENTRYPOINT [\"/tool\"]", &said]);
    let teller = odd("teller", "teller:1", "stop_grace = \"30s\"");
    let weir = Weir::start("teller", &format!("{}{}{teller}", preface(&engine), service("web", 1, ""))).await;
    let id = support::eventually("the teller waits", SETTLED, || async {
        let id = ids(&weir.instances().await).into_iter().find(|id| id.starts_with("teller"))?;
        weir.cli(&["logs", &id]).await.out.contains("waiting").then_some(id)
    })
    .await;
    let follow = ["--addr", &weir.admin.to_string(), "logs", "--follow", &id].map(str::to_owned);
    let follow = tokio::spawn(async move { support::process::weir(&follow.each_ref().map(String::as_str)).await });
    assert_eq!(weir.cli(&["scale", "teller", "0"]).await.code, 0);
    let followed = support::within("the end of the log", SETTLED, follow).await.unwrap();
    assert_eq!(followed.code, 0, "{}", followed.err);
    assert_eq!(followed.out.lines().last(), Some(format!("line {LINES}").as_str()));
    let tail = weir.cli(&["logs", "--tail", "1", &id]).await;
    assert_eq!(tail.out, format!("line {LINES}\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_minds_no_signal_is_killed_after_its_grace() {
    let engine = Engine::start();
    let deaf = odd("deaf", "deaf:1", "stop_grace = \"1s\"");
    engine.import("deaf:1", &["ENTRYPOINT [\"/tool\"]", "CMD [\"deaf\"]"]);
    let weir = Weir::start("deaf", &format!("{}{}{deaf}", preface(&engine), service("web", 1, ""))).await;
    support::eventually("two containers", SETTLED, || async { (engine.ids().len() == 2).then_some(()) }).await;
    assert_eq!(weir.cli(&["scale", "deaf", "0"]).await.code, 0);
    support::eventually("one container", SETTLED, || async { (engine.containers().len() == 1).then_some(()) }).await;
}
