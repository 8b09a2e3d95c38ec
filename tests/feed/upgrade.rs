//! A follower that is upgraded: what its old process still uses is not forgotten.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::world::{SETTLED, deploy, has, service, subscriber, table};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_process_of_an_upgraded_follower_still_uses_is_waited_for() {
    let origin = Weir::start("up-origin", &service(1)).await;
    origin.settled("web", 1, SETTLED).await;
    let source = format!("[source.weir]\nfrom = \"{}\"\nname = \"up-edge\"\n", origin.admin);
    let edge = Weir::start_keeping("up-edge", &source).await;
    has(&edge, 1).await;
    let before = origin.ready_instances("web").await[0]["id"].as_str().unwrap().to_owned();
    // In flight at the old process for longer than everything that follows.
    let (http, begin) = (edge.http, Instant::now());
    let held = tokio::spawn(async move {
        let mut raw = Raw::connect(http).await.unwrap();
        raw.send("GET /delay/9000 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        raw.try_answer(false).await.map(|answer| answer.status).ok()
    });
    support::eventually("it is in flight", SETTLED, || async {
        let (_, found) = edge.api("GET", "/v1/endpoints", None).await;
        found["endpoints"].as_array()?.iter().any(|one| one["in_flight"] == 1).then_some(())
    })
    .await;
    let finished = edge.cli(&["upgrade"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", edge.log());
    subscriber(&origin, "up-edge", "leaving").await;
    subscriber(&origin, "up-edge", "following").await;
    // The endpoint that it uses is withdrawn now, and must stay until the request has its answer.
    let deployed = deploy(&origin, 1);
    let watched = async {
        support::eventually("the old process says that it uses it", SETTLED, || async {
            let row = subscriber(&origin, "up-edge", "leaving").await;
            (row["uses"] == 1).then_some(())
        })
        .await;
        let there = origin.instances().await.iter().any(|one| one["id"] == *before && one["state"] == "draining");
        assert!(there, "the replica waits for it");
    };
    let (said, ()) = tokio::join!(deployed, watched);
    println!("{} after {:?}", said.trim(), begin.elapsed());
    assert_eq!(held.await.unwrap(), Some(200), "{}", edge.log());
    support::eventually("the old process has left, and the replica is gone", SETTLED, || async {
        let rows = table(&origin).await["subscribers"].as_array().map_or(0, Vec::len);
        let gone = !origin.instances().await.iter().any(|one| one["id"] == *before && one["state"] != "gone");
        (rows == 1 && gone).then_some(())
    })
    .await;
    assert!(begin.elapsed() >= Duration::from_secs(9));
}
