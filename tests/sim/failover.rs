//! Checks over time: the gate, falling, rising, failing open, and how often a backend is asked.

use crate::world::{Backend, SECOND, World, http_check, registration, spec, until};
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir::control::Options;
use weir::control::events::EventKind;
use weir::model::{InstanceState, Source, Verdict};

async fn world() -> World {
    let world = World::new(1);
    world.registry.define(spec("web", Some(http_check()))).await.unwrap();
    world.registry.define(spec("raw", None)).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_ready_with_its_first_passed_check() {
    let world = world().await;
    let id = world.start("web", 1).await;
    assert_eq!(world.state(&id).await, Some(InstanceState::Starting));
    assert!(world.usable("web").is_empty());
    let took = until(SECOND, async || world.usable("web") == [1]).await;
    assert!(took <= Duration::from_millis(60), "{took:?}");
    assert_eq!(world.registry.instance(&id).await.unwrap().verdict, Verdict::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_starting_replica_is_asked_with_growing_pauses_until_it_listens() {
    let world = world().await;
    let id = world.start("web", 1).await;
    world.network.set(1, Backend::Down);
    tokio::time::sleep(5 * SECOND).await;
    let probed = world.network.probed(1);
    let pauses: Vec<u64> = probed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, expected) in pauses.iter().zip([50, 100, 200, 400, 800, 1000, 1000]) {
        assert!(pause.abs_diff(expected) <= expected / 10 + 1, "{pauses:?}");
    }
    assert_eq!(world.registry.instance(&id).await.unwrap().verdict, Verdict::Unknown, "slow, not ill");
    world.network.set(1, Backend::Up);
    let took = until(2 * SECOND, async || world.usable("web") == [1]).await;
    assert!(took <= Duration::from_millis(1101), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_never_passes_is_called_unhealthy_and_says_why() {
    let world = world().await;
    let id = world.start("web", 1).await;
    world.network.set(1, Backend::Down);
    tokio::time::sleep(20 * SECOND).await;
    let instance = world.registry.instance(&id).await.unwrap();
    assert_eq!((instance.state, instance.verdict), (InstanceState::Starting, Verdict::Unhealthy));
    assert_eq!(&*instance.reason, "connect: connection refused");
    assert_eq!(world.health.of(&id).len(), 1);
    assert!(world.usable("web").is_empty(), "failing open never uses what never passed");
}

#[tokio::test(start_paused = true)]
async fn a_failing_replica_falls_after_three_checks_and_rises_after_two() {
    let world = world().await;
    let (id, _) = (world.start("web", 1).await, world.start("web", 2).await);
    until(SECOND, async || world.usable("web") == [1, 2]).await;
    tokio::time::sleep(60 * SECOND).await;
    world.network.set(1, Backend::Silent);
    let took = until(20 * SECOND, async || world.usable("web") == [2]).await;
    // One interval, two fast ones, three timeouts.
    assert!(took <= Duration::from_millis(5500 + 2 * 1100 + 3 * 2000 + 1), "{took:?}");
    let instance = world.registry.instance(&id).await.unwrap();
    assert_eq!((instance.verdict, &*instance.reason), (Verdict::Unhealthy, "no answer in 2s"));
    world.network.set(1, Backend::Up);
    until(20 * SECOND, async || world.usable("web") == [1, 2]).await;
    let reasons: Vec<String> = world.health.of(&id).into_iter().map(|record| record.reason).collect();
    assert_eq!(reasons, ["GET /health: 200", "no answer in 2s", "GET /health: 200"]);
    let kinds: Vec<EventKind> = world.events.recent().iter().map(|event| event.kind).collect();
    assert!(kinds.ends_with(&[EventKind::InstanceUnhealthy, EventKind::InstanceHealthy]), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn one_lost_check_changes_nothing() {
    let world = world().await;
    world.start("web", 1).await;
    until(SECOND, async || world.usable("web") == [1]).await;
    let before = world.table.load().generation;
    world.network.set(1, Backend::Down);
    let asked = world.network.probed(1).len();
    until(10 * SECOND, async || world.network.probed(1).len() > asked).await;
    world.network.set(1, Backend::Up);
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(world.table.load().generation, before);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_down_all_are_used() {
    let world = world().await;
    for port in 1..=3 {
        world.start("web", port).await;
    }
    until(SECOND, async || world.usable("web").len() == 3).await;
    for port in 1..=3 {
        world.network.set(port, Backend::Down);
    }
    until(20 * SECOND, async || world.service("web").fails_open(weir::clock::now_ms())).await;
    assert_eq!(world.usable("web"), [1, 2, 3]);
    world.network.set(2, Backend::Up);
    until(20 * SECOND, async || world.usable("web") == [2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_settled_replica_is_asked_each_interval_within_its_jitter() {
    let world = world().await;
    for port in 1..=50 {
        world.start("web", port).await;
    }
    tokio::time::sleep(600 * SECOND).await;
    for port in 1..=50 {
        let probed = world.network.probed(port);
        assert!((110..=134).contains(&probed.len()), "{} probes in 600 s", probed.len());
        let pauses = probed.windows(2).skip(1).map(|pair| pair[1] - pair[0]);
        assert!(pauses.into_iter().all(|pause| (4500..=5501).contains(&pause)));
    }
    let probes = world.network.probes.lock().unwrap();
    let late: Vec<u64> = probes.iter().map(|(_, at_ms)| *at_ms).skip(probes.len() - 50).collect();
    assert!(late[49] - late[0] > 2500, "the checks of many instances spread over the interval");
}

#[tokio::test(start_paused = true)]
async fn checks_in_flight_are_bounded_and_none_is_forgotten() {
    let options = Options { max_probes: 16, ..Options::default() };
    let world = World::with(1, options);
    world.registry.define(spec("web", Some(http_check()))).await.unwrap();
    for port in 1..=500 {
        world.start("web", port).await;
        world.network.set(port, Backend::Slow(Duration::from_millis(100)));
    }
    until(10 * SECOND, async || world.usable("web").len() == 500).await;
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(world.network.most_in_flight.load(Ordering::SeqCst), 16);
    assert_eq!(world.usable("web").len(), 500);
}

#[tokio::test(start_paused = true)]
async fn a_draining_or_gone_instance_is_not_asked() {
    let world = world().await;
    let (drained, gone) = (world.start("web", 1).await, world.start("web", 2).await);
    until(SECOND, async || world.usable("web") == [1, 2]).await;
    world.registry.withdraw(&drained, "drain").await.unwrap();
    world.registry.gone(&gone, "exit 1").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let asked = (world.network.probed(1).len(), world.network.probed(2).len());
    tokio::time::sleep(50 * SECOND).await;
    assert_eq!((world.network.probed(1).len(), world.network.probed(2).len()), asked);
    assert_eq!(world.health.of(&gone).len(), 1, "while it is listed, people can see why");
    world.registry.restore(&drained).await.unwrap();
    assert_eq!(world.usable("web"), [1]);
    until(SECOND, async || world.network.probed(1).len() > asked.0).await;
    tokio::time::sleep(11 * SECOND).await;
    assert!(world.health.of(&gone).is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_check_one_connection_opens_the_gate_and_nothing_follows() {
    let world = world().await;
    let id = world.start("raw", 1).await;
    until(SECOND, async || world.usable("raw") == [1]).await;
    world.network.set(1, Backend::Down);
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!((world.network.probed(1).len(), world.usable("raw")), (1, vec![1]));
    assert_eq!(world.registry.instance(&id).await.unwrap().verdict, Verdict::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_changed_check_applies_to_running_instances() {
    let world = world().await;
    world.start("raw", 1).await;
    until(SECOND, async || world.usable("raw") == [1]).await;
    world.registry.define(spec("raw", Some(http_check()))).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert!(world.network.probed(1).len() > 10);
    world.registry.define(spec("raw", None)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let asked = world.network.probed(1).len();
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!((world.network.probed(1).len(), world.usable("raw")), (asked, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn a_registered_endpoint_is_checked_at_once() {
    let world = world().await;
    for source in [Source::File, Source::Api] {
        let port = if source == Source::File { 1 } else { 2 };
        world.network.set(port, Backend::Up);
        world.registry.register(registration("web", port, source)).await.unwrap();
        let took = until(SECOND, async || world.usable("web").contains(&port)).await;
        assert!(took <= Duration::from_millis(6), "{took:?}: at once, but for the publish interval");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_is_started_again_and_harms_no_other() {
    let world = world().await;
    let (broken, fine) = (world.start("web", 1).await, world.start("web", 2).await);
    world.network.set(1, Backend::Broken);
    until(SECOND, async || world.usable("web") == [2]).await;
    tokio::time::sleep(SECOND).await;
    assert!((2..50).contains(&world.network.probed(1).len()), "again, but not in a busy loop");
    world.network.set(1, Backend::Up);
    until(SECOND, async || world.usable("web") == [1, 2]).await;
    world.network.set(1, Backend::Broken);
    let asked = world.network.probed(1).len();
    tokio::time::sleep(20 * SECOND).await;
    assert!((2..500).contains(&(world.network.probed(1).len() - asked)), "nor when it was ready");
    for id in [broken, fine] {
        assert_eq!(world.state(&id).await, Some(InstanceState::Ready));
    }
}
