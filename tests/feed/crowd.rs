//! Many followers at one address: a thousand of them, and what lies beyond the bounds. Whoever operates gets in all the same.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::world::{SETTLED, table};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// As many as may follow at a time.
const FOLLOWERS: usize = 1024;

/// A follower by hand: its stream, and the connection that it acknowledges on.
struct Hand {
    name: String,
    stream: Raw,
    says: Raw,
}

impl Hand {
    async fn follow(origin: &Weir, number: usize) -> Result<Self, String> {
        let name = format!("hand-{number}");
        let mut stream = Raw::connect(origin.admin).await.map_err(|error| error.to_string())?;
        let path = format!("/v1/table?watch&name={name}&process=p&session=s&heartbeat_ms=10000");
        stream.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let mut hand =
            Self { name, stream, says: Raw::connect(origin.admin).await.map_err(|error| error.to_string())? };
        let said = hand.reads("\"hello\"").await;
        if said.starts_with("HTTP/1.1 200") { Ok(hand) } else { Err(said) }
    }

    /// Reads the stream until it says something, or ends.
    async fn reads(&mut self, what: &str) -> String {
        let mut said = String::new();
        let mut piece = [0; 4096];
        while !said.contains(what) && !said.contains("\"detail\"") {
            let read = support::within("the feed", SETTLED, self.stream.stream.read(&mut piece)).await.unwrap();
            assert!(read > 0, "{said}");
            said.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        said
    }

    async fn acknowledges(&mut self, generation: u64) -> u16 {
        let body = json!({ "name": self.name, "session": "s", "generation": generation }).to_string();
        let length = body.len();
        let head = "POST /v1/table/acknowledge HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        self.says.send(&format!("{head}Content-Length: {length}\r\n\r\n{body}")).await;
        self.says.answer().await.status
    }
}

fn resident_kib(weir: &Weir) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", weir.serving())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Ends a request by hand; returns status and detail.
async fn refused(mut raw: Raw, path: &str) -> (u16, String) {
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let answer = raw.answer().await;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.status, body["detail"].as_str().unwrap_or_default().to_owned())
}

/// Drains the instance; it stays until the last of them has said that it knows.
async fn a_drain_waits_for_all(origin: &Weir, hands: Vec<Hand>) -> Vec<Hand> {
    let begin = Instant::now();
    let drain = origin.api("DELETE", "/v1/instances/one?drain_ms=30000", Some(json!({})));
    let mut all = JoinSet::new();
    for mut hand in hands {
        all.spawn(async move {
            hand.reads("\"draining\":true").await;
            hand
        });
    }
    let all_but_one = async {
        let (mut hands, generation) = (all.join_all().await, table(origin).await["generation"].as_u64().unwrap());
        let mut last = hands.pop().unwrap();
        for (number, hand) in hands.iter_mut().enumerate() {
            assert_eq!(hand.acknowledges(generation).await, 204);
            // It lives, and has not got so far.
            if number % 100 == 0 {
                assert_eq!(last.acknowledges(generation - 1).await, 204);
            }
        }
        assert!(origin.instances().await.iter().any(|one| one["state"] == "draining"), "one has not said it yet");
        assert_eq!(last.acknowledges(generation).await, 204);
        hands.push(last);
        hands
    };
    let ((status, _), hands) = tokio::join!(drain, all_but_one);
    println!("a drain that waits for all of them took {:?}", begin.elapsed());
    assert!(status == 204 && begin.elapsed() < Duration::from_secs(15), "{status} {:?}", begin.elapsed());
    hands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_follow_one_scheduler_whose_operator_gets_in() {
    let origin = Weir::start("crowd-origin", "[[service]]\nname = \"web\"\n").await;
    let before = resident_kib(&origin);
    let mut hands = Vec::new();
    let begin = Instant::now();
    for number in 0..FOLLOWERS {
        let mut hand = Hand::follow(&origin, number).await.unwrap();
        assert_eq!(hand.acknowledges(0).await, 204);
        hands.push(hand);
    }
    let grown = resident_kib(&origin).saturating_sub(before);
    println!(
        "{FOLLOWERS} followers with two connections each came in {:?}; {} KiB each",
        begin.elapsed(),
        grown as f64 / FOLLOWERS as f64
    );
    assert!(grown < 64 * FOLLOWERS as u64, "{grown} KiB");
    let Err(more) = Hand::follow(&origin, FOLLOWERS).await else { panic!("one too many") };
    assert!(more.starts_with("HTTP/1.1 503") && more.contains("1024 Weirs follow this table already"), "{more}");
    // The command line uses the same address.
    let status = origin.cli(&["status"]).await;
    assert!(status.code == 0 && status.out.contains("hand-1023"), "{status:?}");
    // All are told of a change, and it is known when all have it.
    let generation = table(&origin).await["generation"].as_u64().unwrap();
    let (endpoint, answers) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), "127.0.0.1");
    let port = endpoint.local_addr().unwrap().port();
    tokio::spawn(async move { while endpoint.accept().await.is_ok() {} });
    let body = json!({"id": "one", "service": "web", "address": answers, "ports": [port], "lease": "600s"});
    assert_eq!(origin.api("POST", "/v1/instances", Some(body)).await.0, 201);
    let begin = Instant::now();
    let mut all = JoinSet::new();
    for mut hand in hands {
        all.spawn(async move {
            hand.reads("\"one\"").await;
            assert_eq!(hand.acknowledges(generation + 1).await, 204);
            hand
        });
    }
    let hands = all.join_all().await;
    println!("all of them had and acknowledged a change after {:?}", begin.elapsed());
    let table = table(&origin).await;
    let of = |row: &&Value| row["generation"].as_u64() > Some(generation) && row["state"] == "following";
    assert_eq!(table["subscribers"].as_array().unwrap().iter().filter(of).count(), FOLLOWERS);
    let hands = a_drain_waits_for_all(&origin, hands).await;
    drop(hands);
    support::eventually("nothing is open any more", SETTLED, || async {
        let rows = crate::world::table(&origin).await["subscribers"].as_array().cloned().unwrap_or_default();
        rows.iter().all(|row| row["state"] == "cut_off" || row["state"] == "silent").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_the_bounds_it_is_said_at_once_what_to_raise() {
    let origin = Weir::start("bounds-origin", "[admin.limits]\nconnections = 4\nfollowers = 6\n").await;
    let mut hands = Vec::new();
    for number in 0..3 {
        let mut hand = Hand::follow(&origin, number).await.unwrap();
        assert_eq!(hand.acknowledges(0).await, 204);
        hands.push(hand);
    }
    let Err(more) = Hand::follow(&origin, 3).await else { panic!("one too many") };
    assert!(more.starts_with("HTTP/1.1 503") && more.contains("admin.limits.followers"), "{more}");
    assert_eq!(origin.cli(&["status"]).await.code, 0);
    // Connections that say nothing take what is left: whoever comes then is told, and followers are still heard.
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(origin.admin).await.unwrap());
    }
    let begin = Instant::now();
    let (status, detail) = support::eventually("who comes is refused", SETTLED, || async {
        let answer = refused(Raw::connect(origin.admin).await.unwrap(), "/v1/status").await;
        (answer.0 == 503).then_some(answer)
    })
    .await;
    assert!(status == 503 && detail.contains("admin.limits.connections"), "{detail}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(hands[0].acknowledges(0).await, 204);
    let failed = origin.cli(&["status"]).await;
    assert!(failed.code != 0 && failed.err.contains("admin.limits.connections"), "{failed:?}");
    assert!(origin.log().contains("admin.limits.connections"), "{}", origin.log());
    drop(idle);
    support::eventually("there is room again", SETTLED, || async {
        (origin.cli(&["status"]).await.code == 0).then_some(())
    })
    .await;
}
