//! Streams while the table changes around them, and what becomes of them when their endpoint is drained.

use crate::support::process::{Weir, free_address};
use crate::support::{self, eventually};
use crate::{WAIT, metric};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use weir::rng::Rng;

/// What a drained endpoint's streams have left.
const DRAIN: Duration = Duration::from_secs(4);
/// What ends late on a busy machine, and an unoptimised build with thousands of resets.
const LATE: Duration = Duration::from_secs(20);
/// Octets of one piece.
const PIECE: usize = 96;

/// Takes all descriptors that this machine gives, also for the processes that are started; returns how many streams one Weir has
/// room for, two descriptors each.
fn room() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.map_or(usize::MAX, |most| (most as usize).saturating_sub(1000) / 2)
}

/// An endpoint as [`echo`], `A`, with descriptors of its own.
const ECHO: &str = "
import asyncio
async def serve(reader, writer):
    try:
        writer.write(b'A')
        while octets := await reader.read(512):
            writer.write(octets)
    except OSError:
        pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
";

async fn echo_apart() -> (Child, SocketAddr) {
    let mut python = Command::new("/usr/bin/python3");
    let mut child = python.args(["-c", ECHO]).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).await.unwrap();
    (child, SocketAddr::from(([127, 0, 0, 1], line.trim().parse().unwrap())))
}

/// An endpoint that says first who it is, and then what it is told.
async fn echo(name: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut piece = [0; 512];
                let mut said = stream.write_all(&[name]).await;
                while said.is_ok() {
                    match stream.read(&mut piece).await {
                        Ok(read @ 1..) => said = stream.write_all(&piece[..read]).await,
                        _ => break,
                    }
                }
            });
        }
    });
    address
}

/// A client's stream, and how many pieces went through it.
struct Held {
    stream: TcpStream,
    pieces: u64,
    seed: u64,
}

impl Held {
    /// Connects and hears who answers.
    async fn connect(to: SocketAddr, seed: u64) -> (Self, u8) {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let name = stream.read_u8().await.unwrap();
        (Self { stream, pieces: 0, seed }, name)
    }

    /// Sends octets that no other stream and no other piece has, and compares what comes back.
    async fn exchange(&mut self) {
        let mut rng = Rng::from_seed(self.seed.wrapping_mul(1_000_003) ^ self.pieces);
        let sent: Vec<u8> = (0..PIECE / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        self.stream.write_all(&sent).await.unwrap_or_else(|error| panic!("stream {}: {error}", self.seed));
        let mut got = vec![0; PIECE];
        let read = self.stream.read_exact(&mut got).await;
        read.unwrap_or_else(|error| panic!("stream {} after {} pieces: {error}", self.seed, self.pieces));
        assert!(got == sent, "stream {}: other octets", self.seed);
        self.pieces += 1;
    }

    /// Waits for its end; returns when that was, and whether it was a reset.
    async fn end(mut self) -> (Instant, bool) {
        let read = self.stream.read(&mut [0; 1]).await;
        (Instant::now(), read.is_err())
    }
}

/// Changes the table once, and waits until it has changed.
async fn change(weir: &Weir, method: &str, path: &str, body: Option<serde_json::Value>) {
    let before = generation(weir).await;
    let (status, said) = weir.api(method, path, body).await;
    assert!((200..300).contains(&status), "{method} {path}: {status} {said}");
    eventually(&format!("another table after {method} {path}"), WAIT, async || {
        (generation(weir).await > before).then_some(())
    })
    .await;
}

async fn generation(weir: &Weir) -> u64 {
    weir.api("GET", "/v1/status", None).await.1["generation"].as_u64().unwrap()
}

fn instance(id: &str, service: &str, address: SocketAddr) -> Option<serde_json::Value> {
    Some(json!({"id": id, "service": service, "address": address.ip(), "ports": [address.port()], "lease": "1h"}))
}

/// A Weir with streams to one endpoint.
struct Scene {
    weir: Weir,
    to: SocketAddr,
    held: Vec<Arc<Mutex<Held>>>,
    _endpoint: Child,
}

impl Scene {
    async fn start(streams: usize) -> Self {
        let (weir, to) = start().await;
        let (_endpoint, address) = echo_apart().await;
        change(&weir, "POST", "/v1/instances", instance("a", "held", address)).await;
        let held = open(to, streams).await;
        exchange_all(&held).await;
        Self { weir, to, held, _endpoint }
    }
}

async fn start() -> (Weir, SocketAddr) {
    let address = free_address();
    let text = format!(
        "[[listener]]\nname = \"held\"\naddress = \"{address}\"\nprotocol = \"tcp\"\nservice = \"held\"\n
[[service]]\nname = \"held\"\npolicy = \"round-robin\"\ndrain_timeout = \"{}s\"\n
[[service]]\nname = \"other\"\n",
        DRAIN.as_secs()
    );
    (Weir::start("churn", &text).await, address)
}

/// Opens so many streams, some at a time, each to the endpoint `A`.
async fn open(to: SocketAddr, streams: usize) -> Vec<Arc<Mutex<Held>>> {
    let mut held = Vec::with_capacity(streams);
    while held.len() < streams {
        let mut some = JoinSet::new();
        for seed in held.len()..streams.min(held.len() + 64) {
            some.spawn(Held::connect(to, seed as u64));
        }
        for (stream, name) in some.join_all().await {
            assert_eq!(name, b'A');
            held.push(Arc::new(Mutex::new(stream)));
        }
    }
    held
}

async fn exchange_all(held: &[Arc<Mutex<Held>>]) {
    for some in held.chunks(64) {
        let mut tasks = JoinSet::new();
        for one in some {
            let one = one.clone();
            tasks.spawn(async move { one.lock().await.exchange().await });
        }
        tasks.join_all().await;
    }
}

/// Streams stay while everything around their endpoint changes, and octets move through them all the while.
async fn changed(weir: &Weir, held: &[Arc<Mutex<Held>>], changes: usize) {
    let is_over = Arc::new(AtomicBool::new(false));
    let (mine, until) = (held.to_vec(), is_over.clone());
    let traffic = tokio::spawn(async move {
        let mut pieces = 0u64;
        for one in mine.iter().cycle() {
            if until.load(Ordering::Relaxed) {
                break;
            }
            one.lock().await.exchange().await;
            pieces += 1;
        }
        pieces
    });
    // It passes its checks, or it would never be in a table.
    let more = echo(b'C').await;
    let before = generation(weir).await;
    for round in 0..changes / 2 {
        let service = if round % 2 == 0 { "held" } else { "other" };
        let id = format!("{service}-{round}");
        change(weir, "POST", "/v1/instances", instance(&id, service, more)).await;
        change(weir, "DELETE", &format!("/v1/instances/{id}"), Some(json!({}))).await;
    }
    let made = generation(weir).await - before;
    assert!(made >= changes as u64, "{made} tables");
    is_over.store(true, Ordering::Relaxed);
    let pieces = support::within("the traffic ends", WAIT, traffic).await.unwrap();
    exchange_all(held).await;
    println!("{} streams, {made} tables: {pieces} pieces meanwhile, 0 streams broken", held.len());
}

/// Their endpoint is drained: they go on, new ones go elsewhere, and at the deadline they are reset and counted.
async fn drained(weir: &Weir, to: SocketAddr, held: Vec<Arc<Mutex<Held>>>) {
    let count = held.len() as u64;
    change(weir, "POST", "/v1/instances", instance("b", "held", echo(b'B').await)).await;
    let begun = Instant::now();
    change(weir, "POST", "/v1/instances/a/drain", Some(json!({}))).await;
    let (mut fresh, name) = Held::connect(to, u64::MAX).await;
    assert_eq!(name, b'B');
    // What is open goes on until then.
    held[0].lock().await.exchange().await;
    assert!(begun.elapsed() < DRAIN, "this machine is too slow for the test");
    assert_eq!(metric(weir, "weir_streams_cut_total{service=\"held\"}").await, 0);
    let mut ends = JoinSet::new();
    for one in held {
        ends.spawn(Arc::into_inner(one).unwrap().into_inner().end());
    }
    let ends = support::within("the streams end", DRAIN + LATE, ends.join_all()).await;
    let (first, last) = (ends.iter().map(|end| end.0).min().unwrap(), ends.iter().map(|end| end.0).max().unwrap());
    assert!(ends.iter().all(|(_, is_reset)| *is_reset), "an orderly end would look like a whole answer");
    assert!(first - begun >= DRAIN, "before the deadline: {:?}", first - begun);
    println!(
        "{count} streams were reset {:?} to {:?} after the drain began, {DRAIN:?} allowed",
        first - begun,
        last - begun
    );
    let cut = async || (metric(weir, "weir_streams_cut_total{service=\"held\"}").await == count).then_some(());
    eventually("each is counted once", WAIT, cut).await;
    fresh.exchange().await;
    assert_eq!(metric(weir, "weir_streams_open{service=\"held\"}").await, 1);
}

/// So many streams at one time, through as few Weirs as this machine's limits allow.
async fn scene(streams: usize, changes: usize) {
    let weirs = streams.div_ceil(room());
    let mut scenes: Vec<Scene> = Vec::new();
    for _ in 0..weirs {
        scenes.push(Scene::start(streams / weirs).await);
    }
    println!("{} streams through {weirs} Weirs", streams / weirs * weirs);
    let mut each = JoinSet::new();
    for scene in scenes {
        each.spawn(async move {
            changed(&scene.weir, &scene.held, changes).await;
            scene
        });
    }
    let mut ends = JoinSet::new();
    for scene in each.join_all().await {
        ends.spawn(async move {
            let Scene { weir, to, held, _endpoint } = scene;
            drained(&weir, to, held).await;
        });
    }
    ends.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_changes_around_their_endpoint_and_end_with_its_drain() {
    scene(500, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 10,000 streams through 1,000 changes of the table; run by tests/run --long"]
async fn ten_thousand_streams_outlive_a_thousand_changes_around_their_endpoint() {
    scene(10_000, 1000).await;
}
