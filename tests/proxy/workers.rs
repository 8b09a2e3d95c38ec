//! Several workers: how connections and requests are spread over workers and endpoints.

use crate::support::backend::{Backend, answering};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns the connections open by worker, of the workers that have any.
fn open_by_worker(proxy: &Proxy) -> Vec<u64> {
    let text = proxy.metrics.encode();
    let lines = text.lines().filter(|line| line.starts_with("weir_worker_connections_open{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn the_busiest_of_8_workers_has_at_most_115_percent_of_the_mean_of_64_connections() {
    let backend = Backend::start(answering("ok")).await;
    for _ in 0..3 {
        let proxy = Setup::new(&[backend.address]).with(|s| s.options.workers = Some(8)).start();
        // A worker that has not begun yet cannot be given anything.
        let all = || proxy.table.acknowledgers().iter().filter(|one| one.name.starts_with("worker-")).count() == 8;
        eventually("eight workers", LIMIT, async || all().then_some(())).await;
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(Raw::connect(proxy.address).await.unwrap());
        }
        for raw in &mut clients {
            assert_eq!(raw.exchange(GET).await.text(), "ok");
        }
        let open = open_by_worker(&proxy);
        println!("connections by worker: {open:?}");
        assert_eq!(open.iter().sum::<u64>(), 64);
        let most = *open.iter().max().unwrap();
        assert!(most as f64 <= 1.15 * 64.0 / 8.0, "{open:?}");
        drop(clients);
        eventually("no connection", LIMIT, async || open_by_worker(&proxy).is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn a_drain_of_several_workers_serves_what_was_accepted() {
    let backend = Backend::start(answering("ok")).await;
    for _ in 0..10 {
        let proxy = Setup::new(&[backend.address]).with(|s| s.options.workers = Some(3)).start();
        let mut clients = Vec::new();
        for _ in 0..30 {
            let mut raw = Raw::connect(proxy.address).await.unwrap();
            raw.send(GET).await;
            clients.push(raw);
        }
        proxy.drain();
        for raw in &mut clients {
            assert_eq!(raw.answer().await.text(), "ok");
        }
        drop(clients);
        within("the end of the workers", LIMIT, proxy.ended()).await;
    }
}

#[tokio::test]
async fn round_robin_gives_each_endpoint_its_share_within_2_percent_whoever_serves() {
    let mut backends = Vec::new();
    for _ in 0..3 {
        backends.push(Backend::start(answering("ok")).await);
    }
    let endpoints: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let proxy = Setup::new(&endpoints).with(|s| s.options.workers = Some(4)).start();
    let mut tasks = Vec::new();
    for n in 0..12 {
        let address = proxy.address;
        tasks.push(tokio::spawn(async move {
            let mut raw = Raw::connect(address).await.unwrap();
            // Unequal numbers: no worker ends with a whole round.
            for _ in 0..40 + 5 * n {
                assert_eq!(raw.exchange(GET).await.text(), "ok");
            }
        }));
    }
    for task in tasks {
        within("the requests", LIMIT, task).await.unwrap();
    }
    let counts: Vec<usize> = backends.iter().map(|backend| backend.received_text().matches("GET ").count()).collect();
    let mean = counts.iter().sum::<usize>() as f64 / 3.0;
    println!("requests by endpoint: {counts:?}");
    assert!(counts.iter().all(|&count| (count as f64 - mean).abs() <= 0.02 * mean), "{counts:?}");
}

#[tokio::test]
async fn every_turn_of_a_worker_is_counted_by_its_length() {
    let backend = Backend::start(answering("ok")).await;
    let proxy = Setup::new(&[backend.address]).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..50 {
        assert_eq!(raw.exchange(GET).await.text(), "ok");
    }
    let text = proxy.metrics.encode();
    let turns = |line: &str| -> f64 {
        let line = text.lines().find(|l| l.starts_with(&format!("weir_worker_turn_seconds{line}"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (count, sum) = (turns("_count{"), turns("_sum{"));
    assert!(count >= 50.0, "{text}");
    assert!(sum > 0.0 && sum / count < 0.1, "{sum} s in {count} turns");
    assert!(turns("_bucket{worker=\"0\",le=\"0.1\"}") <= count && turns("_bucket{worker=\"0\",le=\"0.1\"}") >= 50.0);
}
