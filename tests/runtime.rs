#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! The process runtime with real processes, started through the real `weir exec` shim.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;
use weir::control::runtime::{
    Exit, Known, Options, Processes, Runtime, RuntimeError, RuntimeEvent, StartRequest, Started, birth,
};
use weir::model::{InstanceId, OnExit, RunSpec, ServiceName, Workload};

/// Longest wait for anything that takes milliseconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    runtime: Processes,
    events: broadcast::Receiver<RuntimeEvent>,
    folder: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self::with_ports(name, 20_000..=29_999)
    }

    fn with_ports(name: &str, port_range: std::ops::RangeInclusive<u16>) -> Self {
        let folder = std::env::temp_dir().join(format!("weir-runtime-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
        let options = Options { shim: weir.clone(), weir, ..Options::new(&folder, port_range) };
        let runtime = Processes::open(options).unwrap();
        let events = runtime.watch();
        Self { runtime, events, folder }
    }

    async fn start(&self, id: &str, command: &[&str]) -> Result<Started, RuntimeError> {
        self.runtime.start(request(id, command)).await
    }

    /// Waits for the next exit.
    async fn exit(&mut self) -> (String, Exit) {
        let event = tokio::time::timeout(DEADLINE, self.events.recv()).await.unwrap().unwrap();
        let RuntimeEvent::Exited { id, exit } = event;
        (id.to_string(), exit)
    }

    fn stdout(&self, id: &str) -> String {
        let paths = self.runtime.log_paths(&InstanceId::parse(id).unwrap());
        let stdout = paths.iter().find(|path| path.to_str().unwrap().ends_with("stdout.log"));
        stdout.map(|path| fs::read_to_string(path).unwrap()).unwrap_or_default()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn request(id: &str, command: &[&str]) -> StartRequest {
    StartRequest {
        id: InstanceId::parse(id).unwrap(),
        service: ServiceName::parse("web").unwrap(),
        run: RunSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env: BTreeMap::from([("GREETING".to_owned(), "hello ${INSTANCE}".to_owned())]),
            directory: None,
            stop_grace: Duration::from_secs(10),
            replace_after: Duration::from_secs(30),
            container: None,
        },
        ports: vec!["http".into()],
        revision: 3,
        fingerprint: 5,
        slot: 0,
    }
}

fn id(text: &str) -> InstanceId {
    InstanceId::parse(text).unwrap()
}

fn pid(started: &Started) -> u32 {
    match started.workload {
        Workload::Process(pid) => pid,
        Workload::Container(_) => panic!("a process was asked for"),
    }
}

/// Polls until `check` holds.
async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !check() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns true while the process exists and is no zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

#[tokio::test]
async fn runs_the_command_with_its_port_environment_and_session() {
    let mut bench = Bench::new("run");
    let script = "echo $PORT $PORT_HTTP $1 $WEIR_INSTANCE $WEIR_SERVICE; echo $GREETING; env | cut -d= -f1 | sort | tr '\\n' ' '; \
                  echo; ps -o pid=,pgid=,sid= -p $$; ls /proc/self/fd | tr '\\n' ' '; grep -i NoNewPrivs /proc/self/status; exit 7";
    let started = bench.start("web-aaaaaa", &["sh", "-c", script, "sh", "${PORT}"]).await.unwrap();
    assert_eq!(bench.runtime.list().await.unwrap()[0].revision, 3);
    assert_eq!(bench.exit().await, ("web-aaaaaa".to_owned(), Exit::Status(7)));
    assert!(bench.runtime.list().await.unwrap().is_empty());
    let out = bench.stdout("web-aaaaaa");
    let lines: Vec<&str> = out.lines().collect();
    let port = started.ports[0].to_string();
    assert_eq!(lines[0], format!("{port} {port} {port} web-aaaaaa web"));
    assert_eq!(lines[1], "hello web-aaaaaa");
    assert!(!lines[2].contains("CARGO"), "environment is an allow-list: {}", lines[2]);
    let numbers: Vec<u32> = lines[3].split_whitespace().map(|number| number.parse().unwrap()).collect();
    assert_eq!(numbers, [pid(&started); 3], "own process, group and session");
    assert!(
        lines[4].starts_with("0 1 2 3 \t") || lines[4].starts_with("0 1 2 3 No"),
        "no other descriptors: {}",
        lines[4]
    );
    assert!(lines[4].ends_with('1'), "{}", lines[4]);
}

#[tokio::test]
async fn tells_how_a_process_ended_within_milliseconds() {
    let mut bench = Bench::new("exit");
    let mut waits = Vec::new();
    for round in 0..20 {
        let name = format!("web-{round}");
        let started = bench.start(&name, &["sleep", "600"]).await.unwrap();
        until("the program replaced the shim", || {
            fs::read_to_string(format!("/proc/{}/comm", pid(&started))).is_ok_and(|comm| comm == "sleep\n")
        })
        .await;
        let killed = Instant::now();
        kill(pid(&started), "KILL");
        let sent = killed.elapsed();
        assert_eq!(bench.exit().await, (name, Exit::Signal(9)));
        waits.push(killed.elapsed().saturating_sub(sent));
    }
    waits.sort();
    println!("from kill to event: median {:?}, max {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_millis(20), "{waits:?}");
    assert_eq!(Exit::Signal(9).to_string(), "killed by signal 9");
    assert_eq!(Exit::Status(1).to_string(), "exited with status 1");
}

fn kill(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn stops_with_sigterm_and_kills_after_the_grace() {
    let mut bench = Bench::new("stop");
    let polite = ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"];
    bench.start("web-polite", &polite).await.unwrap();
    until("the trap is set", || bench.stdout("web-polite").contains("up")).await;
    let exit = bench.runtime.stop(&id("web-polite"), Duration::from_secs(10)).await.unwrap();
    assert_eq!((exit, bench.exit().await.1), (Exit::Status(0), Exit::Status(0)));
    assert!(bench.stdout("web-polite").contains("bye"));

    let stubborn = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.01; done"];
    bench.start("web-stubborn", &stubborn).await.unwrap();
    until("the trap is set", || bench.stdout("web-stubborn").contains("up")).await;
    let before = Instant::now();
    let exit = bench.runtime.stop(&id("web-stubborn"), Duration::from_millis(200)).await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert_eq!((exit, bench.exit().await.1), (Exit::Signal(9), Exit::Signal(9)));
    let again = bench.runtime.stop(&id("web-stubborn"), Duration::from_secs(1)).await;
    assert!(matches!(again, Err(RuntimeError::NotRunning(_))), "{again:?}");
}

#[tokio::test]
async fn stops_a_process_that_is_only_being_set_up() {
    let mut bench = Bench::new("early");
    for round in 0..10 {
        let name = format!("web-{round}");
        let started = bench.start(&name, &["sleep", "600"]).await.unwrap();
        bench.runtime.stop(&id(&name), Duration::from_secs(10)).await.unwrap();
        assert_eq!(bench.exit().await, (name, Exit::Signal(15)));
        assert!(!is_alive(pid(&started)));
    }
}

#[tokio::test]
async fn the_whole_group_ends_with_its_leader() {
    let mut bench = Bench::new("group");
    let script = "sleep 600 & echo child $!; wait";
    let child = |bench: &Bench, name: &str| -> Option<u32> {
        bench.stdout(name).lines().find_map(|line| line.strip_prefix("child ")?.parse().ok())
    };
    let started = bench.start("web-killed", &["sh", "-c", script]).await.unwrap();
    until("the child runs", || child(&bench, "web-killed").is_some()).await;
    kill(pid(&started), "KILL");
    bench.exit().await;
    let orphan = child(&bench, "web-killed").unwrap();
    until("the child of a killed leader ended", || !is_alive(orphan)).await;

    bench.start("web-stopped", &["sh", "-c", script]).await.unwrap();
    until("the child runs", || child(&bench, "web-stopped").is_some()).await;
    bench.runtime.stop(&id("web-stopped"), Duration::from_secs(10)).await.unwrap();
    assert!(!is_alive(child(&bench, "web-stopped").unwrap()));

    // The leader ends at once on SIGTERM, its child needs the grace to finish what it does.
    let finishing =
        "sh -c 'trap \"sleep 0.2; echo finished; exit 0\" TERM; echo up; while :; do sleep 0.01; done' & wait";
    bench.start("web-finish", &["sh", "-c", finishing]).await.unwrap();
    until("the child runs", || bench.stdout("web-finish").contains("up")).await;
    bench.runtime.stop(&id("web-finish"), Duration::from_secs(10)).await.unwrap();
    assert!(bench.stdout("web-finish").contains("finished"));
}

#[tokio::test]
async fn processes_end_with_the_runtime() {
    let bench = Bench::new("drop");
    let script = "trap '' TERM; sleep 600 & echo child $!; while :; do sleep 0.01; done";
    let leader = pid(&bench.start("web-aaaaaa", &["sh", "-c", script]).await.unwrap());
    let child = || bench.stdout("web-aaaaaa").lines().find_map(|line| line.strip_prefix("child ")?.parse::<u32>().ok());
    until("it runs", || child().is_some()).await;
    let child = child().unwrap();
    drop(bench);
    until("the group was killed", || !is_alive(leader) && !is_alive(child)).await;
}

/// A runtime whose processes outlive it, on the folder of another.
fn heir(folder: &Path) -> Processes {
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let options = Options::new(folder, 20_000..=29_999);
    let owner = format!("owner of {}", folder.display());
    Processes::open(Options { shim: weir.clone(), weir, owner, on_exit: OnExit::Keep, ..options }).unwrap()
}

fn known(name: &str, started: Option<&Started>) -> Known {
    Known {
        id: id(name),
        service: ServiceName::parse("web").unwrap(),
        revision: 3,
        fingerprint: 9,
        slot: 1,
        started: started.cloned(),
        birth: started.and_then(|started| birth(pid(started))),
    }
}

#[tokio::test]
async fn another_runtime_takes_up_what_runs_recorded_or_only_intended_and_tells_of_strangers() {
    let bench = Bench::new("adopt");
    let first = heir(&bench.folder);
    let mut started = Vec::new();
    for name in ["web-recorded", "web-intended", "web-stranger"] {
        started.push(first.start(request(name, &["sh", "-c", "sleep 600 & wait"])).await.unwrap());
    }
    // What has not become its program yet has no environment to be known by; the kernel shows the program a moment before
    // its environment.
    let program = |one: &Started| fs::read_link(format!("/proc/{}/exe", pid(one))).unwrap();
    let environment = |one: &Started| fs::read(format!("/proc/{}/environ", pid(one))).unwrap();
    let is_known =
        |one: &Started| environment(one).split(|octet| *octet == 0).any(|v| v.starts_with(b"WEIR_INSTANCE="));
    let weir = fs::canonicalize(env!("CARGO_BIN_EXE_weir")).unwrap();
    until("all run their program", || started.iter().all(|one| program(one) != weir && is_known(one))).await;
    drop(first);
    let second = heir(&bench.folder);
    let records = [
        known("web-recorded", Some(&started[0])),
        known("web-intended", None),
        Known { birth: Some((1, "another boot".into())), ..known("web-gone", Some(&started[0])) },
        known("web-never", None),
    ];
    let found = second.adopt(&records).await.unwrap();
    let seen: Vec<_> = found.iter().map(|one| (one.id.as_str(), one.slot, &one.started)).collect();
    let expected =
        [("web-intended", 1, &started[1]), ("web-recorded", 1, &started[0]), ("web-stranger", 0, &started[2])];
    assert_eq!(seen, expected);
    assert_eq!(second.list().await.unwrap(), found);

    let mut events = second.watch();
    kill(pid(&started[0]), "KILL");
    let exited = tokio::time::timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
    assert_eq!(exited, RuntimeEvent::Exited { id: id("web-recorded"), exit: Exit::Unknown });
    for name in ["web-intended", "web-stranger"] {
        second.stop(&id(name), Duration::from_secs(10)).await.unwrap();
    }
    assert!(started.iter().all(|one| !is_alive(pid(one))));
    assert!(second.list().await.unwrap().is_empty());
}

#[test]
fn the_shim_refuses_to_run_when_its_parent_is_gone() {
    let mut shim = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
    let output = shim.args(["exec", "--parent", "1", "--", "echo", "ran"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed to set up the process"));
}

#[tokio::test]
async fn refuses_what_cannot_run_and_gives_the_ports_back() {
    let bench = Bench::with_ports("refuse", 29_100..=29_103);
    for _ in 0..10 {
        let error = bench.start("web-aaaaaa", &["/no/such/program"]).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Definition(_)), "{error}");
    }
    bench.start("web-aaaaaa", &["sleep", "600"]).await.unwrap();
    let duplicate = bench.start("web-aaaaaa", &["sleep", "600"]).await.unwrap_err();
    assert!(matches!(duplicate, RuntimeError::Duplicate(_)), "{duplicate}");
    let mut directory = request("web-bbbbbb", &["sleep", "600"]);
    directory.run.directory = Some(Path::new("/no/such/folder").to_owned());
    assert!(matches!(bench.runtime.start(directory).await, Err(RuntimeError::System { .. })));
    let mut started = 1;
    let full = loop {
        match bench.start(&format!("web-{started}"), &["sleep", "600"]).await {
            Ok(_) => started += 1,
            Err(error) => break error,
        }
    };
    assert!(started <= 4 && matches!(full, RuntimeError::NoPort(_)), "{started} {full}");
    assert!(full.to_string().contains("29100-29103: widen node.port_range"), "{full}");
}

#[tokio::test]
async fn the_next_start_after_an_exit_takes_another_port() {
    let mut bench = Bench::new("ports");
    let first = bench.start("web-aaaaaa", &["true"]).await.unwrap();
    assert_eq!(bench.exit().await.1, Exit::Status(0));
    let second = bench.start("web-bbbbbb", &["true"]).await.unwrap();
    assert_ne!(first.ports, second.ports);
}

#[tokio::test]
async fn a_large_log_is_rotated_while_it_is_written() {
    let bench = Bench::new("logs");
    let script = "head -c 11000000 /dev/zero; echo end; sleep 600";
    bench.start("web-aaaaaa", &["sh", "-c", script]).await.unwrap();
    let paths = || bench.runtime.log_paths(&id("web-aaaaaa"));
    until("the large file was copied aside", || paths().len() == 3).await;
    until("the current file is small", || {
        paths()
            .iter()
            .any(|path| path.ends_with("web-aaaaaa.stdout.log") && fs::metadata(path).unwrap().len() < 1_000_000)
    })
    .await;
}
