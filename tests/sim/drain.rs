//! Withdrawal with workers that serve, lag and answer names: when it says drained, nobody uses the endpoint.

use crate::world::{SECOND, World, http_check, spec, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use weir::clock;
use weir::control::withdraw::{DrainOutcome, drained};
use weir::model::InstanceId;
use weir::rng::Rng;
use weir::table::Table;

/// A worker that picks in one step with its load, serves for a while, and refreshes when woken, after a lag.
async fn worker(table: Table, number: u64, last_use: Arc<AtomicU64>, victim: InstanceId) {
    let mut reader = table.reader(&format!("worker-{number}"));
    let mut rng = Rng::from_seed(number);
    loop {
        let picked = {
            let snapshot = reader.load();
            let service = snapshot.services.iter().next().unwrap();
            let candidates: Vec<usize> = service.candidates(clock::now_ms()).collect();
            let index = candidates[rng.below(candidates.len())];
            (service.endpoints[index].id.clone(), service.candidates[index].stats.begin())
        };
        tokio::time::sleep(Duration::from_millis(rng.below(300) as u64)).await;
        if picked.0 == victim {
            last_use.store(clock::now_ms(), Ordering::SeqCst);
        }
        drop(picked);
        let acknowledger = reader.acknowledger().clone();
        let _ = tokio::time::timeout(Duration::from_millis(50), acknowledger.woken()).await;
        tokio::time::sleep(Duration::from_millis(rng.below(20) as u64)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn drained_means_that_no_worker_uses_it_any_more() {
    let mut world = World::new(1);
    world.registry.define(spec("web", Some(http_check()))).await.unwrap();
    world.start("web", 1).await;
    for round in 0..40u16 {
        let port = 100 + round;
        let victim = world.start("web", port).await;
        until(SECOND, async || world.usable("web").contains(&port)).await;
        let last_use = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> =
            (0..4).map(|n| tokio::spawn(worker(world.table.clone(), n, last_use.clone(), victim.clone()))).collect();
        tokio::time::sleep(SECOND).await;
        let withdrawn = world.registry.withdraw(&victim, "scaled down").await.unwrap();
        assert_eq!(world.usable("web"), [1], "out of the table when the call returns");
        let outcome = drained(&world.table, &withdrawn, 30 * SECOND, &world.events, &victim).await;
        let done_ms = clock::now_ms();
        assert_eq!(outcome, DrainOutcome::Drained);
        assert_eq!(withdrawn.stats.in_flight(), 0);
        world.registry.gone(&victim, "stopped").await.unwrap();
        world.gone.insert(victim);
        tokio::time::sleep(2 * SECOND).await;
        assert!(last_use.load(Ordering::SeqCst) > 0, "the victim was used at all");
        assert!(last_use.load(Ordering::SeqCst) <= done_ms, "used after it was drained");
        for worker in workers {
            worker.abort();
        }
        world.check().await;
    }
}
