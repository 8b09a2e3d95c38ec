//! A service that has no replica while nobody uses it: what comes meanwhile is held, over HTTP/1.1, HTTP/2 and TCP, and
//! starts one; nothing of it fails.

use crate::support::http::{Raw, get};
use crate::support::process::{Weir, free_address};
use crate::support::{eventually, within};
use crate::web::{SETTLED, alone, beside};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// No answer takes longer: a replica starts in a fraction of it.
const LIMIT: Duration = Duration::from_secs(20);
/// Clients of each protocol in a burst.
const BURST: usize = 40;

/// Weir with `web`, run by `command`, that begins with so many replicas, and a TCP listener before it.
async fn start(name: &str, (command, replicas): (&str, u32), scale: &str, queue: usize) -> (Weir, SocketAddr) {
    let raw = free_address();
    let services = format!(
        "[[listener]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\nservice = \"web\"\n
[[route]]\nname = \"web\"\nservice = \"web\"\n
[[service]]\nname = \"web\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n
[service.run]\ncommand = {command}\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n
[service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"10s\"\n
[service.scale]\nmin = 0\nmax = 3\n{scale}
[service.limits]\nconcurrency = 8\nqueue = {queue}\n"
    );
    (Weir::start(name, &services).await, raw)
}

const WHOAMI: &str = r#"["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}", "--delay", "20ms"]"#;
/// Runs, and never listens.
const DEAF: &str = r#"["sleep", "600"]"#;

async fn state(weir: &Weir) -> Value {
    weir.api("GET", "/v1/services/web/scale", None).await.1
}

/// Waits until no replica is wanted and none runs.
async fn asleep(weir: &Weir) {
    eventually("no replica", SETTLED, || async {
        let none = weir.instances().await.iter().all(|instance| instance["state"] == "gone");
        (state(weir).await["replicas"] == 0 && none).then_some(())
    })
    .await;
}

/// Waits until so many wait in the queue.
async fn waiting(weir: &Weir, count: u64) {
    eventually(&format!("{count} waiting"), LIMIT, || async {
        let explained = weir.api("GET", "/v1/explain?method=GET&url=http://web/", None).await.1;
        (explained["waiting"].as_u64() == Some(count)).then_some(())
    })
    .await;
}

/// The sum of a metric's values.
async fn metric(weir: &Weir, name: &str) -> u64 {
    let text = get(weir.admin, "/metrics").await.text();
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Why the number of replicas was changed, oldest first.
async fn changes(weir: &Weir) -> Vec<(u64, u64, String)> {
    let body = weir.api("GET", "/v1/events?follow=false", None).await.1;
    let events = body["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "scaled");
    events
        .filter_map(|event| {
            let words: Vec<&str> = event["message"].as_str()?.split([' ', ':']).collect();
            let because = words.iter().position(|word| *word == "by").and_then(|at| words.get(at + 1));
            Some((words.get(3)?.parse().ok()?, words.get(5)?.parse().ok()?, (*because?).to_owned()))
        })
        .collect()
}

async fn http1(target: SocketAddr) -> u16 {
    get(target, "/").await.status
}

/// A request over HTTP/2 by prior knowledge: `GET http://web/`, everything from HPACK's static table but the host.
async fn http2(target: SocketAddr) -> u16 {
    let mut stream = TcpStream::connect(target).await.unwrap();
    let head = [&[0x82, 0x86, 0x84, 0x41, 3][..], b"web"].concat();
    let frame = |kind: u8, flags: u8, id: u8, body: &[u8]| {
        [&[0, 0, body.len() as u8, kind, flags, 0, 0, 0, id][..], body].concat()
    };
    let sent = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &frame(1, 5, 1, &head)].concat();
    stream.write_all(&sent).await.unwrap();
    let answer = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut body = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
            stream.read_exact(&mut body).await.unwrap();
            if head[3] == 1 {
                // `:status: 200` is number 8 of the static table; the size of the dynamic one may come before.
                let fields = body.iter().position(|octet| octet & 0xe0 != 0x20).map(|at| &body[at..]);
                return if fields.is_some_and(|fields| fields.starts_with(&[0x88])) { 200 } else { 0 };
            }
        }
    };
    within("an answer over HTTP/2", LIMIT, answer).await
}

/// A whole request over the TCP listener.
async fn tcp(target: SocketAddr) -> u16 {
    let mut stream = TcpStream::connect(target).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within("an answer over TCP", LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    if answer.starts_with(b"HTTP/1.1 200") { 200 } else { 0 }
}

/// Octets that come while nobody is there and after that somebody is, in pieces.
async fn tcp_in_pieces(target: SocketAddr, served: tokio::sync::oneshot::Receiver<()>) -> u16 {
    let mut raw = Raw::connect(target).await.unwrap();
    raw.send("GET /echo HTTP/1.1\r\nHost: w").await;
    served.await.unwrap();
    raw.exchange("eb\r\nConnection: close\r\n\r\n").await.status
}

/// A burst over every protocol; returns the statuses and how long the slowest took.
async fn burst(weir: &Weir, raw: SocketAddr) -> (Vec<u16>, Duration) {
    let begin = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..BURST {
        clients.spawn(http1(weir.http));
        clients.spawn(http2(weir.http));
        clients.spawn(tcp(raw));
    }
    let statuses = clients.join_all().await;
    (statuses, begin.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_service_has_no_replica_and_a_burst_is_held_and_answered() {
    let _beside = beside().await;
    let (weir, raw) = start("zero", (WHOAMI, 1), "zero_after = \"2s\"\nstabilization_window = \"1s\"\n", 1000).await;
    // It begins with one, which proves that it works.
    weir.settled("web", 1, SETTLED).await;
    for round in 1..=3 {
        asleep(&weir).await;
        let (told, served) = tokio::sync::oneshot::channel();
        let pieces = tokio::spawn(tcp_in_pieces(raw, served));
        let (statuses, took) = burst(&weir, raw).await;
        told.send(()).unwrap();
        assert_eq!(pieces.await.unwrap(), 200);
        assert_eq!(statuses.len(), 3 * BURST);
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}\n{}", weir.log());
        println!("round {round}: {} held and answered, 0 failed, the last after {took:?}", statuses.len() + 1);
        assert_eq!(metric(&weir, "weir_scale_wakes_total").await, round, "one order, whoever came meanwhile");
    }
    let held = metric(&weir, "weir_held_total").await;
    println!("{held} held in all");
    assert!(held >= 3 && held <= 3 * (3 * BURST as u64 + 1), "{held}");
    asleep(&weir).await;
    let changes = changes(&weir).await;
    println!("{changes:?}");
    assert_eq!(changes.iter().filter(|(from, _, because)| *from == 0 && because == "wake").count(), 3);
    assert_eq!(changes.iter().filter(|(_, to, because)| *to == 0 && because == "idle").count(), 4);
    let told = weir.cli(&["explain", "scale", "web"]).await;
    for part in
        ["web: 0 replicas wanted, 0 ready", "0 to 3 replicas", "held up to 30 s", "woken 3 times", "because of idle"]
    {
        assert!(told.out.contains(part), "{part} is not in\n{}", told.out);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_in_vain_is_refused_in_time_and_with_a_reason() {
    let _alone = alone().await;
    let (weir, raw) = start("zero-vain", (DEAF, 0), "wake_timeout = \"6s\"\n", 3).await;
    assert_eq!(state(&weir).await["replicas"], 0, "as written");
    let begin = Instant::now();
    let held = [tokio::spawn(get_held(weir.http)), tokio::spawn(get_held(weir.http))];
    waiting(&weir, 2).await;
    let stream = tokio::spawn(reset(raw));
    waiting(&weir, 3).await;
    // The queue is full: who comes now is refused at once.
    let (status, reason, retry) = get_held(weir.http).await;
    assert_eq!((status, reason.as_str(), retry.is_some()), (503, "queue_full", true));
    for held in held {
        let (status, reason, retry) = held.await.unwrap();
        assert_eq!((status, reason.as_str(), retry.is_some()), (503, "wake_timeout", true));
    }
    assert!(stream.await.unwrap(), "a stream is reset");
    let took = begin.elapsed();
    println!("two requests and a stream were held for {took:?}");
    assert!(took >= Duration::from_secs(6) && took < Duration::from_secs(20), "{took:?}");
    assert_eq!(metric(&weir, "weir_refused_total{reason=\"wake_timeout\"}").await, 3);

    // Who resets its connection waits no longer, and frees its place.
    let gone = Raw::connect(raw).await.unwrap();
    gone.stream.set_zero_linger().unwrap();
    eventually("the stream is held", LIMIT, || async { (metric(&weir, "weir_held_total").await == 5).then_some(()) })
        .await;
    drop(gone);
    eventually("the client has left", LIMIT, || async {
        (metric(&weir, "weir_refused_total{reason=\"client_gone\"}").await == 1).then_some(())
    })
    .await;
}

/// Returns whether a stream is ended by a reset, without an octet.
async fn reset(target: SocketAddr) -> bool {
    let read = async {
        // It may come before the connection is known to be there.
        let mut stream = TcpStream::connect(target).await?;
        stream.read(&mut [0; 1]).await
    };
    within("the end of a stream", LIMIT, read)
        .await
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

async fn get_held(target: SocketAddr) -> (u16, String, Option<String>) {
    let answer = get(target, "/").await;
    let field = |name: &str| answer.field(name).map(str::to_owned);
    (answer.status, field("weir-reason").unwrap_or_default(), field("retry-after"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zero_by_hand_is_off_until_it_is_given_back() {
    let _alone = alone().await;
    let (weir, raw) = start("zero-off", (WHOAMI, 1), "zero_after = \"1h\"\n", 100).await;
    weir.settled("web", 1, SETTLED).await;
    assert_eq!(http1(weir.http).await, 200);
    assert_eq!(weir.cli(&["scale", "web", "0"]).await.code, 0);
    asleep(&weir).await;
    let begin = Instant::now();
    let (status, reason, _) = get_held(weir.http).await;
    assert_eq!((status, reason.as_str()), (503, "service_off"));
    assert!(reset(raw).await, "a stream is reset");
    assert!(begin.elapsed() < Duration::from_secs(5), "nobody waits for what is off: {:?}", begin.elapsed());
    let told = weir.cli(&["explain", "scale", "web"]).await.out;
    assert!(told.contains("set by hand, so that it is off"), "{told}");
    let explained = weir.api("GET", "/v1/explain?method=GET&url=http://web/", None).await.1;
    assert_eq!(explained["outcome"], "service_off", "{explained}");
    assert_eq!(metric(&weir, "weir_scale_wakes_total").await, 0);

    assert_eq!(weir.cli(&["scale", "web", "auto"]).await.code, 0);
    let (status, reason, _) = get_held(weir.http).await;
    assert_eq!((status, reason.as_str()), (200, ""), "{}", weir.log());
    let stream = tokio::spawn(tcp(raw)).await;
    assert!(matches!(stream, Ok(200)), "{stream:?}\n{}", weir.log());
    assert_eq!(state(&weir).await["pinned"], false);
}
