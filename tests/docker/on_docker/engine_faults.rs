//! What goes wrong with the engine: it is absent, stuck, restarted; and Weir itself is killed.

use crate::engine::Engine;
use crate::support;
use crate::support::process::Weir;
use crate::world::{SETTLED, containers, get, ids, logged, preface, service, start};
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_the_rest_is_served_and_containers_follow() {
    let mut engine = Engine::absent();
    let processes = "[[service]]\nname = \"web\"\n[service.run]\n\
                     command = [\"${WEIR}\", \"whoami\", \"--listen\", \"127.0.0.1:${PORT}\"]\n\n";
    let weir = Weir::start("absent", &format!("{}{processes}{}", preface(&engine), service("late", 1, ""))).await;
    weir.settled("web", 1, SETTLED).await;
    assert_eq!(get(&weir).await.0, 200);
    logged(&weir, "the Docker Engine is away").await;
    engine.up();
    engine.import(crate::engine::IMAGE, &[]);
    support::eventually("a container", SETTLED * 2, || async {
        (weir.ready_instances("late").await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_engine_stops_no_traffic_and_is_told_of() {
    let engine = Engine::start();
    let weir = start(&engine, "stuck", 2).await;
    let before = containers(&weir.ready_instances("web").await);
    engine.signal("STOP");
    assert_eq!(weir.cli(&["scale", "web", "3"]).await.code, 0);
    logged(&weir, "the Docker Engine is stuck").await;
    support::eventually("the status tells it", SETTLED, || async {
        let told = weir.cli(&["status"]).await.out;
        (told.contains("docker") && told.contains("stuck (no answer in 2s)")).then_some(())
    })
    .await;
    for _ in 0..50 {
        assert_eq!(get(&weir).await.0, 200);
    }
    assert_eq!(containers(&weir.ready_instances("web").await), before);
    engine.signal("CONT");
    let running = weir.settled("web", 3, SETTLED).await;
    assert!(before.iter().all(|id| containers(&running).contains(id)), "nothing was replaced");
    support::eventually("no stray", SETTLED, || async { (engine.ids() == containers(&running)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_engine_loses_its_containers_and_they_are_replaced() {
    let mut engine = Engine::start();
    let weir = start(&engine, "restart-off", 3).await;
    let before = containers(&weir.ready_instances("web").await);
    engine.down();
    engine.up();
    let up = Instant::now();
    let running = support::eventually("three others", SETTLED, || async {
        let running = weir.ready_instances("web").await;
        (running.len() == 3 && containers(&running).iter().all(|id| !before.contains(id))).then_some(running)
    })
    .await;
    println!("live restore off: three new replicas serve {:?} after the engine answers", up.elapsed());
    assert_eq!(get(&weir).await.0, 200);
    support::eventually("no stray", SETTLED, || async { (engine.ids() == containers(&running)).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_restores_live_containers_is_not_noticed() {
    let mut engine = Engine::with(true);
    let weir = start(&engine, "restart-on", 3).await;
    let before = containers(&weir.ready_instances("web").await);
    engine.down();
    for _ in 0..20 {
        assert_eq!(get(&weir).await.0, 200);
    }
    // While it is down: a short absence need not be noticed at all.
    logged(&weir, "the Docker Engine is away").await;
    engine.up();
    assert_eq!(weir.cli(&["scale", "web", "4"]).await.code, 0);
    let running = weir.settled("web", 4, SETTLED).await;
    assert!(before.iter().all(|id| containers(&running).contains(id)), "nothing was replaced");
    // An end is noticed as before.
    let victim = running[0]["id"].as_str().unwrap();
    engine.docker(&["kill", victim]);
    weir.settled_without(victim, "web", 4, SETTLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_weir_and_the_next_one_takes_them_up() {
    let engine = Engine::start();
    let mut weir = start(&engine, "adoption", 3).await;
    let before = (ids(&weir.ready_instances("web").await), engine.ids());
    for _ in 0..3 {
        weir.kill();
        weir.child.wait().await.unwrap();
        weir.respawn();
        weir.ready().await;
        // The first table has them: nobody is refused.
        assert_eq!(get(&weir).await.0, 200);
        assert_eq!(ids(&weir.settled("web", 3, SETTLED).await), before.0);
        assert_eq!(engine.ids(), before.1, "the same containers, no other");
    }
    // What ends while nobody looks is replaced; what nobody knows is removed.
    weir.kill();
    weir.child.wait().await.unwrap();
    engine.docker(&["kill", &before.0[0]]);
    let owner = engine.inspect(&before.0[1], "{{index .Config.Labels \"weir.owner\"}}");
    let labels = [format!("weir.owner={owner}"), "weir.instance=web-zzzzzz".to_owned()];
    engine.docker(&[
        "run",
        "-d",
        "--name",
        "web-zzzzzz",
        "--label",
        &labels[0],
        "--label",
        &labels[1],
        crate::engine::IMAGE,
    ]);
    weir.respawn();
    weir.ready().await;
    let running = weir.settled_without(&before.0[0], "web", 3, SETTLED).await;
    assert!(ids(&running).contains(&before.0[1]) && ids(&running).contains(&before.0[2]));
    support::eventually("no stray", SETTLED, || async { (engine.containers() == ids(&running)).then_some(()) }).await;
}
