//! `weir sidecar`: a workload registered and drained, a hard-coded port that survives replacements, a program run beside it.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::{Folder, WEIR, Weir, free_address, kill};
use crate::world::{SETTLED, beside, has, loaded, retries, subscriber, table};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A sidecar, ended with the test.
pub(crate) struct Sidecar {
    child: Child,
    folder: Folder,
}

impl Sidecar {
    pub(crate) fn start(name: &str, origin: &Weir, arguments: &[&str]) -> Self {
        let arguments = match arguments.split_first() {
            Some((&"exec", rest)) => [&["exec", "--dns", "off"], rest].concat(),
            _ => [&["--dns", "off"], arguments].concat(),
        };
        Self::follow(name, origin.admin, &arguments)
    }

    /// Starts one that follows a Weir at an address.
    pub(crate) fn follow(name: &str, from: SocketAddr, arguments: &[&str]) -> Self {
        let folder = Folder::new(name);
        let state = folder.0.join("state").display().to_string();
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        let out = std::fs::File::create(folder.0.join("out")).unwrap();
        let (command, rest) = match arguments.split_first() {
            Some((&"exec", rest)) => (vec!["sidecar", "exec"], rest),
            _ => (vec!["sidecar"], arguments),
        };
        let from = from.to_string();
        let child = Command::new(WEIR)
            .args(command)
            .args(["--from", &from, "--name", name, "--state", &state, "--drain", "20s"])
            .args(rest)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    pub(crate) fn out(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("out")).unwrap_or_default()
    }

    /// The text of its metrics, by its socket.
    pub(crate) async fn metrics(&self) -> String {
        let mut socket = UnixStream::connect(self.folder.0.join("state/weir.sock")).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        text
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn end(mut self) {
        kill(self.pid(), "TERM").await;
        assert_eq!(self.ends().await, 0, "{}", self.log());
    }

    /// Asks it to end again and again, at a person's pace, until it has; returns the exit code.
    async fn ends_when_asked_again(&mut self) -> Option<i32> {
        let pid = self.pid();
        let asked = async {
            loop {
                kill(pid, "TERM").await;
                if let Ok(status) = tokio::time::timeout(Duration::from_millis(300), self.child.wait()).await {
                    return status.unwrap().code();
                }
            }
        };
        support::within("the sidecar ends", SETTLED, asked).await
    }

    /// Waits for its end; returns the exit code.
    async fn ends(&mut self) -> i32 {
        let status = support::within("the sidecar ends", SETTLED, self.child.wait()).await.unwrap();
        status.code().unwrap_or(-1)
    }
}

/// Asks on a connection of its own who answers; an error is a failed connection.
pub(crate) async fn ask(address: SocketAddr) -> Result<String, String> {
    let exchange = async {
        let mut raw = Raw::connect(address).await.map_err(|error| error.to_string())?;
        raw.send("GET / HTTP/1.1\r\nHost: db\r\nConnection: close\r\n\r\n").await;
        let answer = raw.try_answer(false).await.map_err(|error| format!("{error:?}"))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let who = text.lines().find_map(|line| line.strip_prefix("Instance: ").map(str::to_owned));
        who.ok_or_else(|| format!("status {}", answer.status))
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.unwrap_or_else(|_| Err("late".to_owned()))
}

fn database(replicas: usize) -> String {
    format!(
        "[[service]]\nname = \"db\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n
[service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"20s\"\n"
    )
}

async fn replacements_fail_no_new_connection(replacements: usize) {
    let _loaded = loaded().await;
    let origin = Weir::start("legacy-origin", &database(1)).await;
    origin.settled("db", 1, SETTLED).await;
    let port = free_address();
    let sidecar = Sidecar::start("legacy", &origin, &["--upstream", &format!("db={port}")]);
    support::eventually("the port leads to the database", SETTLED, || async { ask(port).await.ok() }).await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    // The legacy program: an address in its code, a connection for each request.
    let program = tokio::spawn(async move {
        let (mut count, mut who, mut failed) = (0, std::collections::BTreeSet::new(), Vec::new());
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            count += 1;
            match ask(port).await {
                Ok(instance) => drop(who.insert(instance)),
                Err(error) => failed.push(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (count, who.len(), failed)
    });
    for number in 1..=replacements {
        let release = format!("RELEASE={number}");
        let finished = origin.cli(&["deploy", "db", "--wait", "--timeout", "2m", "--env", &release]).await;
        assert_eq!(finished.code, 0, "{finished:?}\n{}", origin.log());
    }
    origin.settled("db", 1, SETTLED).await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let (count, who, failed) = program.await.unwrap();
    println!("{replacements} replacements: {count} connections to {who} replicas, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}\n{}", sidecar.log());
    assert!(who > replacements, "{who} replicas were seen");
    assert_eq!(retries(&sidecar.metrics().await), 0, "none was led to a replica that was stopped already");
}

/// Starts a workload.
fn whoami(app: SocketAddr) -> Child {
    let listen = app.to_string();
    Command::new(WEIR).args(["whoami", "--listen", &listen]).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Asks for an answer that takes so many milliseconds; returns when the request is counted.
async fn in_flight(origin: &Weir, delay_ms: u32) -> JoinHandle<u16> {
    let http = origin.http;
    let slow = tokio::spawn(async move {
        let mut raw = Raw::connect(http).await.unwrap();
        let request = format!("GET /delay/{delay_ms} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        raw.exchange(request).await.status
    });
    support::eventually("it is in flight", SETTLED, || async {
        origin.instances().await.iter().any(|one| one["in_flight"] == 1).then_some(())
    })
    .await;
    slow
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_with_a_port_in_its_code_survives_replacements() {
    replacements_fail_no_new_connection(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 replacements; run by tests/run --long"]
async fn a_program_with_a_port_in_its_code_survives_twenty_replacements() {
    replacements_fail_no_new_connection(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_is_registered_while_it_answers_and_drained_at_the_end() {
    let _loaded = loaded().await;
    let origin = Weir::start(
        "beside-origin",
        "[[service]]\nname = \"web\"\ndns_ttl = \"0s\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n",
    )
    .await;
    let app = free_address();
    let mut sidecar = Sidecar::start("beside", &origin, &["--service", &format!("web={app}/health")]);
    subscriber(&origin, "beside", "following").await;
    assert!(origin.instances().await.is_empty(), "nothing answers yet");
    let mut workload = whoami(app);
    has(&origin, 1).await;
    assert!(ask(origin.http).await.is_ok());
    // A request is in flight when the end comes: it is waited for.
    let slow = in_flight(&origin, 6000).await;
    kill(sidecar.child.id().unwrap(), "TERM").await;
    assert_eq!(sidecar.ends().await, 0, "{}", sidecar.log());
    assert_eq!(slow.await.unwrap(), 200);
    assert!(sidecar.log().contains("nobody uses it any more"), "{}", sidecar.log());
    has(&origin, 0).await;
    assert_eq!(table(&origin).await["subscribers"].as_array().map(Vec::len), Some(0), "it said that it ends");
    workload.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_starts_when_its_upstreams_are_there_and_its_signals_and_code_are_the_sidecars() {
    let _beside = beside().await;
    let origin = Weir::start("exec-origin", "").await;
    let port = free_address();
    let upstream = format!("db={port}");
    let script = "echo begun; trap 'echo usr1' USR1; trap 'echo quit' QUIT; trap 'echo term; exit 7' TERM
        while :; do sleep 0.05; done";
    let mut beside = Sidecar::start("exec", &origin, &["exec", "--upstream", &upstream, "--", "sh", "-c", script]);
    support::eventually("it waits", SETTLED, || async {
        beside.log().contains("waits until they are reachable").then_some(())
    })
    .await;
    assert!(!beside.out().contains("begun"));
    let file = origin.folder.write("db.toml", &database(1)).display().to_string();
    let finished = origin.cli(&["deploy", "-f", &file, "--wait", "--timeout", "2m"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    support::eventually("it has begun", SETTLED, || async { beside.out().contains("begun").then_some(()) }).await;
    assert!(ask(port).await.is_ok());
    let pid = beside.child.id().unwrap();
    kill(pid, "USR1").await;
    support::eventually("the signal is passed", SETTLED, || async { beside.out().contains("usr1").then_some(()) })
        .await;
    // A program may go on after QUIT, however often it comes: it is told of TERM all the same.
    for times in 1..=2 {
        kill(pid, "QUIT").await;
        let told = || async { (beside.out().matches("quit").count() == times).then_some(()) };
        support::eventually("QUIT is passed", SETTLED, told).await;
    }
    kill(pid, "TERM").await;
    assert_eq!(beside.ends().await, 7, "{}", beside.log());
    assert!(beside.out().contains("term"));
    // It ends by itself: so does the sidecar.
    let mut short = Sidecar::start(
        "short",
        &origin,
        &["exec", "--upstream", &format!("db={}", free_address()), "--", "sh", "-c", "exit 3"],
    );
    assert_eq!(short.ends().await, 3, "{}", short.log());
    let mut none = Sidecar::start("none", &origin, &["exec", "--", "/no/such/program"]);
    assert_ne!(none.ends().await, 0);
    assert!(none.log().contains("/no/such/program"), "{}", none.log());
    // It does not listen to what it is told: whoever asks once more has it killed.
    let script = "trap '' QUIT TERM; echo deaf; while :; do sleep 0.05; done";
    let mut deaf = Sidecar::start("deaf", &origin, &["exec", "--", "sh", "-c", script]);
    support::eventually("it is there", SETTLED, || async { deaf.out().contains("deaf").then_some(()) }).await;
    assert_eq!(deaf.ends_when_asked_again().await, Some(128 + 9), "{}", deaf.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_ends_while_its_users_are_waited_for_ends_the_wait() {
    let _beside = beside().await;
    let text = "[[service]]\nname = \"web\"\ndns_ttl = \"0s\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n";
    let origin = Weir::start("ended-origin", text).await;
    let app = free_address();
    let mut workload = whoami(app);
    let service = format!("web={app}/health");
    let file = origin.folder.0.join("end").display().to_string();
    let script = format!("echo begun; while [ ! -e {file} ]; do sleep 0.05; done; exit 4");
    let mut beside = Sidecar::start("ended", &origin, &["exec", "--service", &service, "--", "sh", "-c", &script]);
    has(&origin, 1).await;
    support::eventually("it has begun", SETTLED, || async { beside.out().contains("begun").then_some(()) }).await;
    let slow = in_flight(&origin, 15_000).await;
    kill(beside.pid(), "TERM").await;
    support::eventually("it is withdrawn", SETTLED, || async {
        origin.instances().await.iter().any(|one| one["state"] == "draining").then_some(())
    })
    .await;
    std::fs::write(&file, "").unwrap();
    assert_eq!(beside.ends().await, 4, "{}", beside.log());
    assert!(!slow.is_finished(), "nothing was waited for");
    assert!(beside.log().contains("deregistered"), "{}", beside.log());
    has(&origin, 0).await;
    slow.abort();
    workload.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_wait_for_users_and_two_at_once_are_one() {
    let _beside = beside().await;
    let text = "[[service]]\nname = \"web\"\ndns_ttl = \"0s\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n";
    let origin = Weir::start("hurried-origin", text).await;
    let app = free_address();
    let mut workload = whoami(app);
    let mut sidecar = Sidecar::start("hurried", &origin, &["--service", &format!("web={app}/health")]);
    has(&origin, 1).await;
    let slow = in_flight(&origin, 15_000).await;
    // As by `timeout`.
    let pid = sidecar.pid();
    let twice = format!("kill -TERM {pid}; kill -INT {pid}");
    assert!(std::process::Command::new("sh").args(["-c", &twice]).status().unwrap().success());
    support::eventually("it is withdrawn", SETTLED, || async {
        origin.instances().await.iter().any(|one| one["state"] == "draining").then_some(())
    })
    .await;
    assert!(sidecar.child.try_wait().unwrap().is_none(), "two at once are one\n{}", sidecar.log());
    assert_eq!(sidecar.ends_when_asked_again().await, Some(1), "{}", sidecar.log());
    assert!(!slow.is_finished(), "nothing was waited for");
    slow.abort();
    workload.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_a_signal_keeps_from_starting_is_no_success() {
    let _beside = beside().await;
    let origin = Weir::start("unstarted-origin", "").await;
    for (signal, code) in [("TERM", 128 + 15), ("INT", 128 + 2), ("QUIT", 128 + 3)] {
        let upstream = format!("db={}", free_address());
        let mut beside = Sidecar::start("unstarted", &origin, &["exec", "--upstream", &upstream, "--", "true"]);
        support::eventually("it waits", SETTLED, || async {
            beside.log().contains("waits until they are reachable").then_some(())
        })
        .await;
        kill(beside.pid(), signal).await;
        assert_eq!(beside.ends().await, code, "{signal}: {}", beside.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_does_not_outlive_a_sidecar_that_is_killed() {
    let origin = Weir::start("killed-origin", "").await;
    let script = "echo $$; while :; do sleep 0.05; done";
    let mut beside = Sidecar::start("killed", &origin, &["exec", "--", "sh", "-c", script]);
    let program =
        support::eventually("it has begun", SETTLED, || async { beside.out().trim().parse::<u32>().ok() }).await;
    let lives = || std::fs::read_to_string(format!("/proc/{program}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(lives());
    kill(beside.pid(), "KILL").await;
    let _ = beside.child.wait().await;
    support::eventually("the program is gone", SETTLED, || async { (!lives()).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_that_cannot_be_written_is_told_with_the_flag_that_names_another() {
    let folder = Folder::new("no-state");
    let file = folder.write("file", "");
    let out = Command::new(WEIR)
        .args(["sidecar", "--from", "127.0.0.1:1", "--state"])
        .arg(file.join("below"))
        .output()
        .await
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("file/below") && said.contains("--state"), "{said}");
    let without = support::process::weir(&["sidecar"]).await;
    assert!(without.code == 2 && without.err.contains("name the Weir to follow: --from"), "{without:?}");
    // Where another one is.
    let state = folder.0.join("state");
    std::fs::create_dir(&state).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(state.join("weir.sock")).unwrap();
    let second =
        support::process::weir(&["sidecar", "--from", "127.0.0.1:1", "--state", state.to_str().unwrap()]).await;
    assert!(
        second.code == 1 && second.err.contains("another sidecar uses") && second.err.contains("--state"),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_answers_names_over_udp_and_tcp_as_the_scheduler_does() {
    let origin = Weir::start("names-origin", &database(2)).await;
    origin.settled("db", 2, SETTLED).await;
    let dns = free_address();
    let sidecar = Sidecar::follow("names", origin.admin, &["--dns", &dns.to_string()]);
    let dig = |server: SocketAddr, rest: &'static [&'static str]| async move {
        let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
        let arguments = [&[at.as_str(), "-p", &port, "+short", "+tries=1", "+time=2"], rest].concat();
        let out = Command::new("dig").args(arguments).output().await.expect("dig is installed");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let srv: &[&str] = &["_http._tcp.db.default.weir.internal", "SRV"];
    support::eventually("both replicas are named", SETTLED, || async {
        (dig(dns, srv).await.len() == 2).then_some(())
    })
    .await;
    for question in [
        srv,
        &["+tcp", "_http._tcp.db.default.weir.internal", "SRV"],
        &["db.weir.internal", "A"],
        &["+tcp", "db.default.weir.internal", "A"],
    ] {
        let (here, there) = (dig(dns, question).await, dig(origin.dns, question).await);
        assert!(!here.is_empty(), "{question:?}");
        assert_eq!(here, there, "{question:?}");
    }
    assert!(dig(dns, &["none.weir.internal", "A"]).await.is_empty());
    // Another one beside it, or beside the Weir that it follows.
    let (from, taken) = (origin.admin.to_string(), origin.dns.to_string());
    let state = Folder::new("names-taken");
    let state = state.0.to_str().unwrap();
    let second = support::process::weir(&["sidecar", "--from", &from, "--state", state, "--dns", &taken]).await;
    assert_eq!(second.code, 1);
    for part in [&taken, "--dns off", "which weir (pid "] {
        assert!(second.err.contains(part), "{second:?}");
    }
    sidecar.end().await;
}
