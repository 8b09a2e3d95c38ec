//! Weir is killed with -9 at any instant while its containers are deployed and scaled: the next start has the same ones.

use crate::engine::Engine;
use crate::support;
use crate::support::process::Weir;
use crate::world::{SETTLED, containers, get, ids, preface, service};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use weir::rng::Rng;

/// Longest time from the change to the kill, milliseconds: a rollout of two replicas takes about three seconds.
const LONGEST_MS: usize = 2_500;

/// What is asked for before a kill.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Nothing,
    /// Another service comes or goes in the file.
    Reload,
    Scale(usize),
    Deploy(String),
}

/// What must be true: acknowledged values, and one that was asked for without an answer.
#[derive(Debug)]
struct Model {
    replicas: usize,
    step: Option<String>,
    beside: bool,
}

struct Round<'a> {
    engine: &'a Engine,
    weir: &'a mut Weir,
    model: &'a mut Model,
}

impl Round<'_> {
    fn configure(&self) {
        let more = if self.model.beside { "[[service]]\nname = \"beside\"\n" } else { "" };
        let file = self.weir.folder.0.join("weir.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let (kept, _) = text.split_once("# beside\n").unwrap();
        let part = self.weir.folder.write("weir.toml.part", &format!("{kept}# beside\n{more}"));
        std::fs::rename(part, file).unwrap();
    }

    /// Asks for the change; it is acknowledged when this returns.
    async fn ask(&mut self, change: &Change) {
        let (path, body) = match change {
            Change::Nothing => return,
            Change::Reload => {
                self.model.beside = !self.model.beside;
                self.configure();
                ("/v1/reload".to_owned(), Some(json!({})))
            }
            Change::Scale(replicas) => ("/v1/services/web/scale".to_owned(), Some(json!({ "replicas": replicas }))),
            Change::Deploy(step) => ("/v1/services/web/deploy".to_owned(), Some(json!({ "env": { "STEP": step } }))),
        };
        let (status, answer) = self.weir.api("POST", &path, body).await;
        assert!((200..300).contains(&status), "{change:?}: {status} {answer}\n{}", self.weir.log());
    }

    /// Changes, kills at the instant, starts again and compares.
    async fn run(&mut self, change: Change, kill_after: Duration) -> usize {
        let before: BTreeSet<String> = self.engine.ids().into_iter().collect();
        let mut acknowledged = false;
        let asked = tokio::time::timeout(kill_after, async {
            self.ask(&change).await;
            acknowledged = true;
            // The rest of the time it is being carried out.
            std::future::pending::<()>().await;
        });
        let _ = asked.await;
        self.weir.kill();
        self.weir.child.wait().await.unwrap();
        self.weir.respawn();
        self.weir.ready().await;
        assert_eq!(get(self.weir).await.0, 200, "the first table has who serves\n{}", self.weir.log());
        self.settle(&change, acknowledged).await;
        let after: BTreeSet<String> = self.engine.ids().into_iter().collect();
        let what = || format!("{change:?} {acknowledged}: {before:?} {after:?}\n{}", self.weir.log());
        match &change {
            Change::Nothing | Change::Reload => assert_eq!(before, after, "{}", what()),
            Change::Scale(_) => assert!(before.is_subset(&after) || after.is_subset(&before), "{}", what()),
            Change::Deploy(_) => {
                assert!(before == after || before.is_disjoint(&after), "{}", what());
                assert!(!acknowledged || before.is_disjoint(&after), "{}", what());
            }
        }
        before.intersection(&after).count()
    }

    /// Waits until what runs is what is wanted: of each replica one container, and none besides.
    async fn settle(&mut self, change: &Change, acknowledged: bool) {
        let (_, shown) = self.weir.api("GET", "/v1/services/web", None).await;
        let wanted = shown["replicas"].as_u64().unwrap() as usize;
        match change {
            Change::Scale(asked) => {
                assert!(wanted == *asked || (!acknowledged && wanted == self.model.replicas), "{wanted} {change:?}");
            }
            _ => assert_eq!(wanted, self.model.replicas, "{change:?}\n{}", self.weir.log()),
        }
        self.model.replicas = wanted;
        let steps = support::eventually("what is wanted runs, and nothing else", SETTLED, || async {
            let running = self.weir.settled("web", wanted, SETTLED).await;
            if self.engine.containers() != ids(&running) || self.engine.ids() != containers(&running) {
                return None;
            }
            let step = |id: &String| self.engine.try_docker(&["inspect", "--format", "{{json .Config.Env}}", id]);
            let steps: BTreeSet<Option<String>> = ids(&running)
                .iter()
                .map(|id| {
                    let env: Vec<String> = serde_json::from_str(&step(id).1).unwrap_or_default();
                    env.iter().find_map(|one| one.strip_prefix("STEP=")).map(str::to_owned)
                })
                .collect();
            let (_, list) = self.weir.api("GET", "/v1/services/web/revisions", None).await;
            let newest = list["revisions"].as_array()?.iter().max_by_key(|one| one["revision"].as_u64())?.clone();
            let newest: Option<String> = match &newest["definition"]["run"]["env"]["STEP"] {
                Value::String(step) => Some(step.clone()),
                _ => None,
            };
            (steps.len() == 1 && steps.contains(&newest)).then_some(newest)
        })
        .await;
        match change {
            Change::Deploy(asked) => assert!(
                steps.as_ref() == Some(asked) || (!acknowledged && steps == self.model.step),
                "{steps:?} {change:?}\n{}",
                self.weir.log()
            ),
            _ => assert_eq!(steps, self.model.step, "{change:?}\n{}", self.weir.log()),
        }
        self.model.step = steps;
    }
}

async fn kills(count: usize) {
    let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_os().next_u64());
    println!("seed {seed} (WEIR_SEED repeats it)");
    let mut rng = Rng::from_seed(seed);
    let engine = Engine::start();
    let text = format!("{}{}# beside\n", preface(&engine), service("web", 2, ""));
    let mut weir = Weir::start("kills", &text).await;
    weir.settled("web", 2, SETTLED).await;
    let mut model = Model { replicas: 2, step: None, beside: false };
    let (mut kept, mut kinds) = (0, [0; 4]);
    for number in 0..count {
        // Each kind comes up in any five.
        let kind = [3, 2, 0, 3, 1][number % 5];
        kinds[kind] += 1;
        let change = match kind {
            0 => Change::Nothing,
            1 => Change::Reload,
            2 => Change::Scale(1 + rng.below(3)),
            _ => Change::Deploy(number.to_string()),
        };
        let kill_after = Duration::from_millis(rng.below(LONGEST_MS) as u64);
        kept += Round { engine: &engine, weir: &mut weir, model: &mut model }.run(change, kill_after).await;
    }
    println!(
        "containers: {count} kills -9: {kept} containers kept under the same id, 0 twice, 0 left over; nothing, reload, scale, deploy: {kinds:?}"
    );
    assert!(kept > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_kills_during_changes_keep_the_containers() {
    kills(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 50 kills of Weir while its containers change; run by tests/run --long"]
async fn fifty_kills_during_changes_keep_the_containers() {
    kills(50).await;
}
