//! Weir is killed with -9, keeper and all, at random instants while it is asked to change things under load.
//!
//! After each kill and start: every replica that ran runs on under the same number, none runs twice, none is left over; the
//! first connection that is accepted is served; everything that was acknowledged is there, and what was refused is not.

use crate::changes::{Changes, EXTERNAL_BACKENDS};
use crate::node::{LIMIT, Node, is_alive};
use crate::support::eventually;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use weir::rng::Rng;

/// What the rounds gave.
#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    adopted: usize,
    acknowledged: usize,
    unknown: usize,
    /// Kills while a replica was being started or stopped, by the processes seen.
    in_flight: usize,
    first_answer: Vec<Duration>,
}

/// Requests through the proxy, all the time.
struct Load {
    stop: Arc<AtomicBool>,
    up: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(node: &Node) -> Self {
        let (stop, up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let (passed, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let shared = (stop.clone(), up.clone(), passed.clone(), failed.clone());
        let address = node.http;
        let task = tokio::spawn(async move {
            let (stop, up, passed, failed) = shared;
            while !stop.load(Ordering::SeqCst) {
                let was_up = up.load(Ordering::SeqCst);
                let status = crate::node::get(address).await;
                // What a kill cuts off is the keeper's test; here it must not fail while Weir runs.
                match (status, was_up && up.load(Ordering::SeqCst)) {
                    (200, _) => drop(passed.fetch_add(1, Ordering::SeqCst)),
                    (status, true) => {
                        println!("a request failed while Weir ran: {status}");
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                    (_, false) => {}
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { stop, up, passed, failed, task }
    }

    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        (self.passed.load(Ordering::SeqCst), self.failed.load(Ordering::SeqCst))
    }
}

/// Kills Weir at a random instant of its changes, starts it again, and checks everything.
async fn round(node: &mut Node, changes: &mut Changes, rng: &mut Rng, load: &Load, tally: &mut Tally) {
    let served = node.instances().await;
    let delay = Duration::from_micros(rng.below(900_000) as u64);
    changes.make(node, rng, delay).await;
    load.up.store(false, Ordering::SeqCst);
    let before = node.kill().await;
    tally.kills += 1;
    tally.in_flight += usize::from(changes.is_uncertain());
    let begun = Instant::now();
    node.spawn();
    let first = node.first_answer().await;
    tally.first_answer.push(begun.elapsed());
    assert_eq!(first, 200, "the first connection that is accepted is served\n{}", node.log());
    node.ready().await;
    load.up.store(true, Ordering::SeqCst);

    // Everything that ran and still lives was taken up, under its own number.
    let listed = node.instances().await;
    let (_, feed) = node.api("GET", "/v1/events?follow=false", None).await;
    let adopted: Vec<&str> = feed["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["kind"] == "replica_adopted")
        .filter_map(|e| e["instance"].as_str())
        .collect();
    for (id, pid) in before.iter().filter(|(_, pid)| is_alive(**pid)) {
        assert!(adopted.contains(&id.as_str()), "{id} ({pid}) ran and was not adopted\n{}", node.log());
        if let Some(instance) = listed.get(id) {
            assert_eq!(instance["pid"], *pid, "{id}");
        }
    }
    assert!(adopted.iter().all(|id| before.contains_key(*id)), "{adopted:?} were adopted of {before:?}");
    tally.adopted += adopted.len();
    // Who served before the changes began serves, or is on its way out.
    for (id, instance) in served.iter().filter(|(id, _)| listed.contains_key(*id) && !changes.is_touched(id)) {
        let now = &listed[id]["state"];
        assert!(instance["state"] != "ready" || now == "ready" || now == "draining", "{id} is {now}\n{}", node.log());
    }
    changes.check(node, &listed).await;
    settle(node, changes).await;
}

/// Waits until Weir has what it wants, and nothing else runs.
async fn settle(node: &Node, changes: &Changes) {
    eventually("what is listed is what runs, and as many as are wanted", LIMIT, || async {
        let listed = node.instances().await;
        let ready = |service: &str| {
            let of = |one: &&serde_json::Value| one["service"] == service && one["state"] == "ready";
            listed.values().filter(of).count()
        };
        for service in ["web", "side"] {
            let wanted = changes.wanted(node, service).await?;
            if ready(service) != wanted {
                return None;
            }
        }
        let pids: BTreeMap<String, u32> = listed
            .iter()
            .filter_map(|(id, one)| Some((id.clone(), u32::try_from(one["pid"].as_u64()?).ok()?)))
            .collect();
        (node.leaders()? == pids).then_some(())
    })
    .await;
    // What serves is written down a moment later; the next kill is to find it.
    let serving = || async {
        let listed = node.instances().await;
        let count = |state: &str| listed.values().filter(|one| one["state"] == state).count() as u64;
        // Who is drained by hand served before, or did not.
        let noted = node.api("GET", "/v1/status", None).await.1["store"]["serving"].as_u64()?;
        (count("ready")..=count("ready") + count("draining")).contains(&noted).then_some(())
    };
    eventually("what serves is written down", LIMIT, serving).await;
}

async fn kills(count: usize) {
    let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_os().next_u64());
    println!("seed {seed} (WEIR_SEED repeats it)");
    let mut rng = Rng::from_seed(seed);
    let mut changes = Changes::new(EXTERNAL_BACKENDS).await;
    let mut node = Node::new("kills", "keep", &changes.file());
    node.start().await;
    settle(&node, &changes).await;
    let load = Load::start(&node);
    let mut tally = Tally::default();
    for number in 0..count {
        round(&mut node, &mut changes, &mut rng, &load, &mut tally).await;
        if number % 20 == 19 {
            println!("{} kills: {} changes acknowledged", number + 1, changes.acknowledged());
        }
    }
    (tally.acknowledged, tally.unknown) = (changes.acknowledged(), changes.unknown());
    let (passed, failed) = load.end().await;
    tally.first_answer.sort();
    let (median, most) = (tally.first_answer[tally.first_answer.len() / 2], tally.first_answer.last().unwrap());
    println!(
        "{} kills -9 ({} with a change under way): {} adoptions under the same number, 0 duplicates, 0 orphans; {} changes \
         acknowledged and present, {} cut off; from start to first answer median {median:?}, max {most:?}; {passed} requests \
         passed, {failed} failed while Weir ran; {}",
        tally.kills,
        tally.in_flight,
        tally.adopted,
        tally.acknowledged,
        tally.unknown,
        changes.by_kind(),
    );
    assert_eq!(failed, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_during_changes_lose_nothing() {
    kills(10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: the whole count of the promise; run by tests/run --long"]
async fn two_hundred_kills_during_changes_lose_nothing() {
    kills(200).await;
}
