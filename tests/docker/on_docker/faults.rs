//! What goes wrong with a container: what is said of it, and that nothing that worked stops.

use crate::engine::{Engine, IMAGE};
use crate::support;
use crate::support::process::Weir;
use crate::world::{SETTLED, get, ids, logged, odd, preface, service, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_ended_by_hand_is_replaced_however_it_was_done() {
    let engine = Engine::start();
    let weir = start(&engine, "by-hand", 3).await;
    for (words, reason) in [
        (&["kill"][..], "killed by signal 9"),
        (&["restart", "--time", "5"], ""),
        (&["rm", "-f"], "killed by signal 9"),
        (&["stop"], ""),
    ] {
        let victim = ids(&weir.ready_instances("web").await).remove(0);
        let _ = engine.try_docker(&[words, &[&victim]].concat());
        let running = weir.settled_without(&victim, "web", 3, SETTLED).await;
        support::eventually("only what is known", SETTLED, || async {
            (engine.containers() == ids(&running)).then_some(())
        })
        .await;
        let gone = weir.instances().await.into_iter().find(|one| one["id"] == victim.as_str()).unwrap();
        assert!(gone["reason"].as_str().unwrap().contains(reason), "docker {words:?}: {gone}");
        assert_eq!(get(&weir).await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn says_what_is_wrong_and_goes_on_with_the_rest() {
    let engine = Engine::start();
    engine.import("ends:1", &["ENTRYPOINT [\"/tool\"]", "CMD [\"exit\", \"5\"]"]);
    engine.import("hog:1", &["ENTRYPOINT [\"/tool\"]", "CMD [\"hog\"]"]);
    engine.import("deaf:1", &["ENTRYPOINT [\"/tool\"]", "CMD [\"deaf\"]"]);
    engine.import("broken:1", &["ENTRYPOINT [\"/nothing\"]"]);
    let services = [
        service("web", 1, ""),
        odd("missing", "nobody/has-this:7", ""),
        odd("ends", "ends:1", ""),
        odd("hog", "hog:1", "memory = \"16MiB\""),
        odd("deaf", "deaf:1", "stop_grace = \"0s\""),
        odd("broken", "broken:1", ""),
    ];
    let weir = Weir::start("faults", &format!("{}{}", preface(&engine), services.concat())).await;
    weir.settled("web", 1, SETTLED).await;
    for text in [
        "image nobody/has-this:7 is not here and cannot be pulled (",
        "build or load it on this machine, or make its registry reachable",
        "exited with status 5",
        "killed for using more memory than run.memory allows",
        "/nothing",
    ] {
        logged(&weir, text).await;
    }
    // The last words of a container that is gone.
    let ended = support::eventually("an instance of `ends`", SETTLED, || async {
        let log = weir.log();
        let line = log.lines().find(|line| line.contains("exited with status 5") && line.contains("instance="))?;
        Some(line.split("instance=").nth(1)?.split(' ').next()?.to_owned())
    })
    .await;
    support::eventually("its last words", SETTLED, || async {
        let logs = weir.cli(&["logs", &ended]).await;
        (logs.out.contains("going with 5") && logs.out.contains("something is wrong")).then_some(())
    })
    .await;
    assert!(weir.ready_instances("deaf").await.is_empty(), "nothing listens: never ready");
    assert_eq!(get(&weir).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_removed_is_made_again() {
    let engine = Engine::start();
    let weir = start(&engine, "network", 2).await;
    let before = ids(&weir.ready_instances("web").await);
    for id in &before {
        engine.docker(&["network", "disconnect", "-f", "weir-test", id]);
    }
    let _ = engine.try_docker(&["network", "rm", "weir-test"]);
    let running = support::eventually("two others", SETTLED, || async {
        let running = weir.ready_instances("web").await;
        let is_new = running.iter().all(|one| !before.contains(&one["id"].as_str().unwrap().to_owned()));
        (running.len() == 2 && is_new).then_some(running)
    })
    .await;
    assert_eq!(get(&weir).await.0, 200);
    for id in ids(&running) {
        assert_ne!(engine.inspect(&id, "{{(index .NetworkSettings.Networks \"weir-test\").IPAddress}}"), "");
    }
    assert!(weir.log().contains("cut off from its network"), "{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_definition_is_not_tried_over_and_over() {
    let engine = Engine::start();
    let text = format!("{}{}", preface(&engine), odd("web", IMAGE, "user = \"nobody-here\""));
    let weir = Weir::start("definition", &text).await;
    logged(&weir, "nobody-here").await;
    let log = weir.log();
    assert!(log.contains("quarantined"), "{log}");
    assert!(log.matches("replica_starting").count() <= 2, "{log}");
}
