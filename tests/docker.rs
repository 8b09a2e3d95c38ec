#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! The Docker runtime on a real Docker Engine: the `Runtime` trait fits containers as it fits processes.
//!
//! `DOCKER_HOST` names the engine's socket, else `/var/run/docker.sock`. The image is made on the spot from one static
//! program (gcc), so nothing is pulled.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use weir::control::runtime::docker::{Engine, Options};
use weir::control::runtime::{Exit, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started};
use weir::model::{InstanceId, NodeId, RunSpec, ServiceName, Workload};

const DEADLINE: Duration = Duration::from_secs(60);
const IMAGE: &str = "weir-spike:test";
/// `/replica exit N` ends with N; `/replica serve` answers each connection on $PORT with $WEIR_INSTANCE until SIGTERM, on
/// which it ends with 0; `/replica stubborn` ignores SIGTERM.
const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
int main(int count, char **words) {
    if (!strcmp(words[1], "exit")) return atoi(words[2]);
    if (!strcmp(words[1], "stubborn")) { signal(SIGTERM, SIG_IGN); for (;;) pause(); }
    signal(SIGTERM, end);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT"))) };
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16)) return 3;
    for (;;) {
        int client = accept(listener, 0, 0);
        const char *name = getenv("WEIR_INSTANCE");
        if (write(client, name, strlen(name)) < 0) return 4;
        close(client);
    }
}
"#;

fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "/var/run/docker.sock".to_owned());
    PathBuf::from(host.trim_start_matches("unix://"))
}

fn docker() -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", socket().display()));
    command
}

/// Compiles the program and imports it as the only file of an image.
fn make_image() {
    let folder = std::env::temp_dir().join(format!("weir-docker-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-static", "-O1", "-x", "c", "-", "-o"]).arg(folder.join("replica")).stdin(Stdio::piped());
    let mut gcc = gcc.spawn().expect("gcc is installed");
    gcc.stdin.take().unwrap().write_all(PROGRAM.as_bytes()).unwrap();
    assert!(gcc.wait().unwrap().success());
    let tar = Command::new("tar").arg("-C").arg(&folder).args(["-c", "replica"]).output().unwrap();
    let mut import = docker().args(["import", "-", IMAGE]).stdin(Stdio::piped()).spawn().expect("docker is installed");
    import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
    assert!(import.wait().unwrap().success());
    std::fs::remove_dir_all(&folder).unwrap();
}

fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

fn request(name: &str, words: &[&str]) -> StartRequest {
    StartRequest {
        id: id(name),
        service: ServiceName::parse("shop/web").unwrap(),
        run: RunSpec {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::new(),
            directory: None,
            stop_grace: Duration::from_secs(10),
            replace_after: Duration::from_secs(30),
        },
        ports: vec!["http".into(), "metrics".into()],
        revision: 7,
    }
}

async fn open() -> (Engine, broadcast::Receiver<RuntimeEvent>) {
    let node = NodeId::parse(&format!("spike-{}", std::process::id())).unwrap();
    let options = Options { socket: socket(), image: IMAGE.to_owned(), network: "bridge".to_owned(), node };
    let engine = Engine::open(options).await.unwrap();
    let events = engine.watch();
    (engine, events)
}

async fn next(events: &mut broadcast::Receiver<RuntimeEvent>) -> (String, Exit) {
    let RuntimeEvent::Exited { id, exit } = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    (id.to_string(), exit)
}

/// Asks a container who it is, until it listens.
fn ask(started: &Started) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match std::net::TcpStream::connect((started.address, started.ports[0])) {
            Ok(stream) => return std::io::read_to_string(stream).unwrap(),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker Engine; run with --features docker -- --ignored"]
async fn the_runtime_trait_fits_containers() {
    make_image();
    let (engine, mut events) = open().await;

    // Start, address, list, and a stop that the workload obeys.
    let started = engine.start(request("web-aaaaaa", &["/replica", "serve"])).await.unwrap();
    assert_eq!((started.ports.as_slice(), ask(&started)), (&[8000, 8001][..], "web-aaaaaa".to_owned()));
    assert!(matches!(started.workload, Workload::Container(_)));
    let twice = engine.start(request("web-aaaaaa", &["/replica", "serve"])).await;
    assert!(matches!(twice, Err(RuntimeError::Duplicate(_))), "{twice:?}");
    let listed = engine.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].service.as_str(), listed[0].revision, &listed[0].started), ("shop/web", 7, &started));
    assert_eq!(engine.stop(&id("web-aaaaaa"), Duration::from_secs(10)).await.unwrap(), Exit::Status(0));
    assert_eq!(next(&mut events).await, ("web-aaaaaa".to_owned(), Exit::Status(0)));
    assert!(engine.list().await.unwrap().is_empty());
    let again = engine.stop(&id("web-aaaaaa"), Duration::from_secs(1)).await;
    assert!(matches!(again, Err(RuntimeError::NotRunning(_))), "{again:?}");

    // A stop that it does not obey.
    engine.start(request("web-bbbbbb", &["/replica", "stubborn"])).await.unwrap();
    assert_eq!(engine.stop(&id("web-bbbbbb"), Duration::from_secs(1)).await.unwrap(), Exit::Signal(9));
    assert_eq!(next(&mut events).await, ("web-bbbbbb".to_owned(), Exit::Signal(9)));

    // Ends by itself, by a kill from outside, and a program that is not there.
    let early = engine.start(request("web-cccccc", &["/replica", "exit", "5"])).await;
    assert!(early.is_ok() || matches!(early, Err(RuntimeError::System { .. })), "{early:?}");
    if early.is_ok() {
        assert_eq!(next(&mut events).await, ("web-cccccc".to_owned(), Exit::Status(5)));
    }
    let started = engine.start(request("web-dddddd", &["/replica", "serve"])).await.unwrap();
    ask(&started);
    let killed = Instant::now();
    assert!(docker().args(["kill", "web-dddddd"]).stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(next(&mut events).await, ("web-dddddd".to_owned(), Exit::Signal(9)));
    println!("from docker kill to the event: {:?}", killed.elapsed());
    let missing = engine.start(request("web-eeeeee", &["/nothing"])).await;
    assert!(matches!(missing, Err(RuntimeError::Definition(_))), "{missing:?}");

    // What an earlier Weir left is removed; nothing is left behind.
    engine.start(request("web-ffffff", &["/replica", "serve"])).await.unwrap();
    drop(engine);
    let (engine, _events) = open().await;
    assert!(engine.list().await.unwrap().is_empty());
    let mine = format!("label=weir.node=spike-{}", std::process::id());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left =
            docker().args(["ps", "-a", "--filter", &mine, "--format", "{{.Names}} {{.Status}}"]).output().unwrap();
        if left.stdout.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&left.stdout));
    }
    assert!(docker().args(["rmi", IMAGE]).stdout(Stdio::null()).status().unwrap().success());
}
