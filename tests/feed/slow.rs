//! Followers that take little, and that come back: what is kept for them is bounded, and they end where everybody is.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::world::{SETTLED, subscriber, subscription, table};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Reads lines of a stream, whatever the framing is: each line of the feed is one value.
struct Lines {
    raw: Raw,
    octets: Vec<u8>,
    count: usize,
}

impl Lines {
    fn new(raw: Raw) -> Self {
        Self { raw, octets: Vec::new(), count: 0 }
    }

    /// Returns the next value.
    async fn next(&mut self) -> Value {
        loop {
            while let Some(end) = self.octets.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.octets.drain(..=end).collect();
                self.count += line.len();
                if let Ok(value @ Value::Object(_)) = serde_json::from_slice(&line) {
                    return value;
                }
            }
            let mut piece = vec![0; 64 * 1024];
            let read = support::within("more of the feed", SETTLED, self.raw.stream.read(&mut piece)).await.unwrap();
            assert!(read > 0, "the stream ended");
            self.octets.extend_from_slice(&piece[..read]);
        }
    }

    /// Reads one update; returns its first line, and the services that it holds.
    async fn update(&mut self) -> (Value, Vec<String>) {
        let mut services = Vec::new();
        let mut begin = Value::Null;
        loop {
            let value = self.next().await;
            if value["begin"].is_object() {
                begin = value["begin"].clone();
            } else if let Some(name) = value["service"]["definition"]["name"].as_str() {
                services.push(name.to_owned());
            } else if value["end"].is_object() {
                return (begin, services);
            }
        }
    }
}

/// Subscribes by hand, and reads the hello; returns the epoch too.
async fn from(origin: &Weir, name: &str, from: Option<(u64, &str)>) -> (Lines, String) {
    let mut path = format!("/v1/table?watch&name={name}&session=s&heartbeat_ms=10000");
    if let Some((generation, epoch)) = from {
        path.push_str(&format!("&from={generation}&epoch={epoch}"));
    }
    let mut raw = Raw::connect(origin.admin).await.unwrap();
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let mut lines = Lines::new(raw);
    let hello = lines.next().await;
    let epoch = hello["hello"]["epoch"].as_str().expect("the first line says who speaks").to_owned();
    (lines, epoch)
}

/// Two services without replicas that instances are registered at.
const SERVICES: &str = "[[service]]\nname = \"busy\"\n\n[[service]]\nname = \"calm\"\n";

/// Returns a port that takes connections.
async fn endpoint() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    port
}

/// Registers an instance with some kilobytes of words, and waits until it is in the table.
async fn register(origin: &Weir, number: usize, port: u16) {
    let before = generation(origin).await;
    let meta: serde_json::Map<String, Value> =
        (0..16).map(|at| (format!("word-{at}"), Value::from("x".repeat(200)))).collect();
    let body = json!({
        "id": format!("one-{number}"), "service": "busy", "address": "127.0.0.1", "ports": [port],
        "lease": "600s", "meta": meta,
    });
    let (status, answer) = origin.api("POST", "/v1/instances", Some(body)).await;
    assert!(matches!(status, 200 | 201), "{status} {answer}");
    support::eventually("it is ready", SETTLED, || async { (generation(origin).await > before).then_some(()) }).await;
}

async fn generation(origin: &Weir) -> u64 {
    table(origin).await["generation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_gets_what_changed_and_everything_when_that_is_not_remembered() {
    let origin = Weir::start("back-origin", SERVICES).await;
    let (mut lines, epoch) = from(&origin, "back", None).await;
    let (begin, services) = lines.update().await;
    assert!(begin["after"].is_null() && services == ["busy", "calm"], "{begin} {services:?}");
    let had = begin["generation"].as_u64().unwrap();
    drop(lines);
    register(&origin, 0, endpoint().await).await;
    let (mut lines, same) = from(&origin, "back", Some((had, &epoch))).await;
    assert_eq!(same, epoch);
    let (begin, services) = lines.update().await;
    assert!(begin["after"] == had && services == ["busy"], "only what changed: {begin} {services:?}");
    // Another epoch, or a generation that nobody remembers: everything.
    for (generation, epoch) in [(had, "0123456789abcdef"), (had + 1_000_000, epoch.as_str())] {
        let (mut lines, _) = from(&origin, "back", Some((generation, epoch))).await;
        let (begin, services) = lines.update().await;
        assert!(begin["after"].is_null() && services == ["busy", "calm"], "{begin} {services:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_one_that_takes_nothing_no_more_is_kept_than_a_piece() {
    let origin = Weir::start("slow-origin", SERVICES).await;
    let mut lines = Lines::new(subscription(&origin, "slow", "s1").await);
    let first = generation(&origin).await;
    let port = endpoint().await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", origin.serving())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // Each change makes the service's line longer: told one by one that were some 40 MiB.
    for number in 0..40 {
        register(&origin, number, port).await;
    }
    let before = resident();
    for number in 40..160 {
        register(&origin, number, port).await;
    }
    let last = generation(&origin).await;
    let grown = resident().saturating_sub(before);
    let mut updates = 0;
    let reached = loop {
        let (begin, _) = lines.update().await;
        updates += 1;
        let reached = begin["generation"].as_u64().unwrap();
        if reached >= last {
            break reached;
        }
    };
    println!(
        "{} generations in {updates} updates, {} KiB, while {grown} KiB more were resident",
        reached - first,
        lines.count / 1024
    );
    assert!(reached - first >= 100, "{first} to {reached}");
    assert!(updates * 2 <= reached - first, "what came meanwhile is told together: {updates} updates");
    assert!(grown < 16 * 1024, "{grown} KiB");
    subscriber(&origin, "slow", "silent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_before_ends_when_a_follower_has_another() {
    let origin = Weir::start("again-origin", SERVICES).await;
    let mut before = subscription(&origin, "again", "s1").await;
    let _now = subscription(&origin, "again", "s2").await;
    // Else each that is cut off without a word would keep its place until the kernel finds out.
    before.rest().await;
    subscriber(&origin, "again", "following").await;
}
