//! How fast everybody knows: from the exit of a replica to proxy and DNS without it, in the same generation.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::{Weir, kill};
use crate::web::{SETTLED, alone, services};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// What one kill showed.
struct Seen {
    table: Duration,
    dns: Duration,
    replaced: Duration,
}

/// A connection to the admin API that is kept, so that polling is cheap.
struct Poll {
    raw: Raw,
}

impl Poll {
    async fn get(&mut self, path: &str) -> Value {
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        serde_json::from_slice(&self.raw.exchange(text).await.body).unwrap()
    }
}

/// Asks for the SRV records; returns whether some label in the answer is the instance's id.
async fn names(socket: &UdpSocket, instance: &str) -> bool {
    let mut query = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["_http", "_tcp", "web", "default", "weir", "internal"] {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.extend([0, 0, 33, 0, 1]);
    socket.send(&query).await.unwrap();
    let mut answer = [0u8; 4096];
    let n = support::within("a DNS answer", Duration::from_secs(5), socket.recv(&mut answer)).await.unwrap();
    let label = [&[instance.len() as u8], instance.as_bytes()].concat();
    memchr::memmem::find(&answer[..n], &label).is_some()
}

/// Kills a process and returns when it was first seen dead.
async fn kill_and_see(pid: u32) -> Instant {
    let watcher = tokio::task::spawn_blocking(move || {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Reaped, or a zombie: what follows the name in parentheses is the state.
            if stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z')) {
                return Instant::now();
            }
            std::thread::yield_now();
        }
    });
    kill(pid, "KILL").await;
    watcher.await.unwrap()
}

async fn one_kill(weir: &Weir) -> Seen {
    let ready = weir.settled("web", 3, SETTLED).await;
    let (id, pid) = (ready[0]["id"].as_str().unwrap().to_owned(), ready[0]["pid"].as_u64().unwrap() as u32);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(weir.dns).await.unwrap();
    // The registry's list may be a publish ahead of the table.
    support::eventually("DNS names it", Duration::from_secs(5), || async { names(&socket, &id).await.then_some(()) })
        .await;
    let mut poll = Poll { raw: Raw::connect(weir.admin).await.unwrap() };
    let dead = kill_and_see(pid).await;

    let (mut table, mut dns, mut generation) = (None, None, 0);
    while table.is_none() || dns.is_none() {
        if dns.is_none() && !names(&socket, &id).await {
            dns = Some(dead.elapsed());
        }
        if table.is_none() {
            let endpoints = poll.get("/v1/endpoints").await;
            let gone = endpoints["endpoints"].as_array().unwrap().iter().all(|e| e["id"] != id.as_str());
            generation = endpoints["generation"].as_u64().unwrap();
            let state = poll.get("/v1/table").await;
            let everybody = state["acknowledgers"].as_array().unwrap().iter();
            let known = everybody.clone().all(|a| a["generation"].as_u64().unwrap() >= generation || a["idle"] == true);
            if gone && known {
                table = Some(dead.elapsed());
            }
        }
        assert!(dead.elapsed() < Duration::from_secs(10), "nobody noticed\n{}", weir.log());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Asked after both: whoever is not idle has at least the generation without the replica.
    assert!(!names(&socket, &id).await);
    let state = poll.get("/v1/table").await;
    assert!(state["generation"].as_u64().unwrap() >= generation);
    weir.settled_without(&id, "web", 3, SETTLED).await;
    Seen { table: table.unwrap(), dns: dns.unwrap(), replaced: dead.elapsed() }
}

async fn reaction(kills: usize) -> (Duration, Duration) {
    let _alone = alone().await;
    let weir = Weir::start("reaction", &services(3, "/dev/null")).await;
    let mut all = Vec::new();
    for _ in 0..kills {
        all.push(one_kill(&weir).await);
    }
    let sorted = |f: fn(&Seen) -> Duration| {
        let mut times: Vec<Duration> = all.iter().map(f).collect();
        times.sort_unstable();
        times
    };
    let (table, dns, replaced) = (sorted(|s| s.table), sorted(|s| s.dns), sorted(|s| s.replaced));
    let both = sorted(|s| s.table.max(s.dns));
    for (what, times) in [("proxy", &table), ("DNS", &dns), ("both", &both), ("replacement ready", &replaced)] {
        let (median, max) = (support::quantile(times, 0.5), support::quantile(times, 1.0));
        println!("{kills} kills, from exit: {what}: median {median:?}, max {max:?}");
    }
    (support::quantile(&both, 0.5), support::quantile(&both, 1.0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_and_dns_leave_a_dead_replica_out_at_once() {
    let (_, max) = reaction(2).await;
    // An unoptimised build beside other tests: the promise itself is checked in release.
    assert!(max < Duration::from_secs(2), "{max:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 kills; run by tests/run --long"]
async fn proxy_and_dns_leave_dead_replicas_out_within_the_promise() {
    let (median, max) = reaction(20).await;
    assert!(median <= Duration::from_millis(20) && max <= Duration::from_millis(100), "{median:?} {max:?}");
}
