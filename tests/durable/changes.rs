//! Changes that are asked for at random, and what must be true after any kill: a model of what was acknowledged.

use crate::node::{Node, service, web};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir::rng::Rng;

/// Backends that register themselves.
pub(crate) const EXTERNAL_BACKENDS: usize = 6;

/// Replicas of `web` in the file.
const IN_FILE: usize = 3;

/// A value that is known, or one of two: a change was cut off.
#[derive(Debug, Clone, PartialEq)]
struct Known<T> {
    is: T,
    or: Option<T>,
}

impl<T: PartialEq + Clone> Known<T> {
    fn new(is: T) -> Self {
        Self { is, or: None }
    }

    fn allows(&self, seen: &T) -> bool {
        self.is == *seen || self.or.as_ref() == Some(seen)
    }
}

/// What becomes of a registration.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Registered {
    No,
    Yes,
    Drained,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ended {
    Done,
    Refused,
    CutOff,
}

/// The model.
pub(crate) struct Changes {
    ports: Vec<u16>,
    registered: Vec<Known<Registered>>,
    web: Known<usize>,
    /// Replicas of the unrelated service in the file.
    side: usize,
    /// Acknowledged deploys of `web`: the revision, and what it set.
    deployed: BTreeMap<u64, String>,
    /// Deploys that were asked for.
    deploys: usize,
    counts: BTreeMap<&'static str, usize>,
    unknown: usize,
    cut_off: bool,
    /// Instances that were changed since the last start.
    touched: BTreeSet<String>,
}

impl Changes {
    pub(crate) async fn new(backends: usize) -> Self {
        let mut ports = Vec::new();
        for _ in 0..backends {
            ports.push(backend().await);
        }
        let registered = vec![Known::new(Registered::No); backends];
        let (web, counts) = (Known::new(IN_FILE), BTreeMap::new());
        Self {
            ports,
            registered,
            web,
            side: 1,
            deployed: BTreeMap::new(),
            deploys: 0,
            counts,
            unknown: 0,
            cut_off: false,
            touched: BTreeSet::new(),
        }
    }

    /// The configuration's services now.
    pub(crate) fn file(&self) -> String {
        let external =
            "[[service]]\nname = \"ext\"\n\n[service.health]\ntype = \"http\"\npath = \"/\"\ninterval = \"500ms\"\n\n";
        format!("{}{}{external}", web(IN_FILE), service("side", self.side))
    }

    /// Asks for one change after another until the time is over; the last one may be cut off by what follows.
    pub(crate) async fn make(&mut self, node: &Node, rng: &mut Rng, time: Duration) {
        let deadline = Instant::now() + time;
        self.cut_off = false;
        self.touched.clear();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let change = self.one(node, rng, left);
            change.await;
        }
    }

    async fn one(&mut self, node: &Node, rng: &mut Rng, left: Duration) {
        let at = rng.below(self.ports.len());
        let id = format!("ext-{at}");
        let path = format!("/v1/instances/{id}");
        match (rng.below(9), self.registered[at].clone()) {
            (8, _) => self.deploy(node, left).await,
            (0 | 1, _) => {
                let wanted = 1 + rng.below(5);
                self.web.or = Some(wanted);
                let ended = ask(node, left, "POST", "/v1/services/web/scale", Some(json!({"replicas": wanted}))).await;
                self.note("scale", ended, |changes| &mut changes.web);
            }
            (2, _) => {
                self.side = 1 + rng.below(2);
                node.configure(&self.file());
                let ended = ask(node, left, "POST", "/v1/reload", None).await;
                // The file says it whether or not the answer came.
                *self.counts.entry("reload").or_default() += usize::from(ended == Ended::Done);
                self.cut_off |= ended == Ended::CutOff;
            }
            (_, Known { is: Registered::No, or: None }) => {
                self.touched.insert(id.clone());
                self.registered[at].or = Some(Registered::Yes);
                let body = json!({"id": id, "service": "ext", "address": "127.0.0.1", "ports": [self.ports[at]], "lease": "1h"});
                let ended = ask(node, left, "POST", "/v1/instances", Some(body)).await;
                self.note("register", ended, |changes| &mut changes.registered[at]);
            }
            (3 | 4, Known { is: Registered::Yes, or: None }) => {
                self.registered[at].or = Some(Registered::Drained);
                let ended = ask(node, left, "POST", &format!("{path}/drain"), None).await;
                self.note("drain", ended, |changes| &mut changes.registered[at]);
            }
            (3 | 4, Known { is: Registered::Drained, or: None }) => {
                self.registered[at].or = Some(Registered::Yes);
                let ended = ask(node, left, "DELETE", &format!("{path}/drain"), None).await;
                self.note("undo drain", ended, |changes| &mut changes.registered[at]);
            }
            (_, Known { or: None, .. }) => {
                self.registered[at].or = Some(Registered::No);
                let ended = ask(node, left, "DELETE", &path, None).await;
                self.note("deregister", ended, |changes| &mut changes.registered[at]);
            }
            _ => {}
        }
    }

    /// Changes the environment of `web`: a new revision, whose rollout goes on while other things change.
    async fn deploy(&mut self, node: &Node, left: Duration) {
        self.deploys += 1;
        let step = self.deploys.to_string();
        let request = node.api("POST", "/v1/services/web/deploy", Some(json!({"env": {"STEP": step}})));
        match tokio::time::timeout(left, request).await {
            Ok((200..=299, answer)) => {
                self.deployed.insert(answer["revision"].as_u64().unwrap(), step);
                *self.counts.entry("deploy").or_default() += 1;
            }
            Err(_) | Ok((0, _)) => {
                self.unknown += 1;
                self.cut_off = true;
            }
            Ok(other) => panic!("deploy: {other:?}"),
        }
    }

    fn note<T: Clone>(&mut self, kind: &'static str, ended: Ended, place: impl FnOnce(&mut Self) -> &mut Known<T>) {
        let known = place(self);
        match (ended, known.or.clone()) {
            (Ended::Done, Some(new)) => *known = Known { is: new, or: None },
            (Ended::Refused, _) => known.or = None,
            _ => {}
        }
        match ended {
            Ended::Done => *self.counts.entry(kind).or_default() += 1,
            Ended::Refused => {}
            Ended::CutOff => {
                self.unknown += 1;
                self.cut_off = true;
            }
        }
    }

    /// Checks that what was acknowledged is there; what was cut off is settled by what is seen.
    pub(crate) async fn check(&mut self, node: &Node, listed: &BTreeMap<String, Value>) {
        for (at, known) in self.registered.iter_mut().enumerate() {
            let seen = match listed.get(&format!("ext-{at}")) {
                None => Registered::No,
                Some(instance) if instance["state"] == "draining" => Registered::Drained,
                Some(_) => Registered::Yes,
            };
            assert!(known.allows(&seen), "ext-{at} is {seen:?}, not {known:?}\n{}", node.log());
            *known = Known::new(seen);
        }
        let wanted = wanted(node, "web").await.unwrap();
        assert!(self.web.allows(&wanted), "web wants {wanted}, not {:?}\n{}", self.web, node.log());
        self.web = Known::new(wanted);
        assert_eq!(wanted_of_file(node).await, self.side, "{}", node.log());
        let (status, list) = node.api("GET", "/v1/services/web/revisions", None).await;
        assert_eq!(status, 200, "{list}");
        let seen: BTreeMap<u64, &Value> = list["revisions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|revision| (revision["revision"].as_u64().unwrap(), &revision["definition"]["run"]["env"]["STEP"]))
            .collect();
        // 50 are kept; two of them, what is wanted and what worked, may be older than the rest.
        let oldest = if seen.len() < 50 { 0 } else { seen.keys().rev().nth(47).copied().unwrap_or_default() };
        for (revision, step) in self.deployed.range(oldest..) {
            assert_eq!(seen.get(revision), Some(&&json!(step)), "revision {revision}\n{}", node.log());
        }
    }

    /// The number that a service is to have.
    pub(crate) async fn wanted(&self, node: &Node, service: &str) -> Option<usize> {
        wanted(node, service).await
    }

    /// Whether an instance is another registration than at the last start.
    pub(crate) fn is_touched(&self, id: &str) -> bool {
        self.touched.contains(id)
    }

    pub(crate) fn is_uncertain(&self) -> bool {
        self.cut_off
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.counts.values().sum()
    }

    pub(crate) fn unknown(&self) -> usize {
        self.unknown
    }

    pub(crate) fn by_kind(&self) -> String {
        self.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    }
}

async fn wanted_of_file(node: &Node) -> usize {
    wanted(node, "side").await.unwrap()
}

async fn wanted(node: &Node, service: &str) -> Option<usize> {
    let (status, shown) = node.api("GET", &format!("/v1/services/{service}"), None).await;
    (status == 200).then(|| shown["replicas"].as_u64().unwrap() as usize)
}

/// Asks; gives up when the time is over, which leaves the outcome open: the kill comes now.
async fn ask(node: &Node, left: Duration, method: &str, path: &str, body: Option<Value>) -> Ended {
    match tokio::time::timeout(left, node.api(method, path, body)).await {
        Err(_) | Ok((0, _)) => Ended::CutOff,
        Ok((200..=299, _)) => Ended::Done,
        Ok((400..=499, answer)) => panic!("{method} {path}: {answer}"),
        Ok(_) => Ended::Refused,
    }
}

/// A backend that answers everything with 200; returns its port.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    port
}
