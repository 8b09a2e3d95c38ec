//! `weir run` and `weir demo` as processes: what starts, what is refused, and what a user reads of it.

use crate::client::{eventually, get};
use crate::family;
use crate::ports::free_address;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A directory for one test.
fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("weir-startup-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

fn weir(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(args).env_clear().env("HOME", directory).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn configuration(admin: SocketAddr, listener: SocketAddr, state: &str) -> String {
    format!(
        "[store]\npath = \"{state}\"\n[admin]\nlisten = \"{admin}\"\n\
         [[listener]]\nname = \"web\"\naddress = \"{listener}\"\n"
    )
}

/// A running Weir; killed when dropped.
struct Running {
    child: Child,
    admin: SocketAddr,
    listener: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        family::end(self.child.id());
        let _ = self.child.wait();
    }
}

async fn start(directory: &Path) -> Running {
    let (admin, listener) = (free_address(), free_address());
    std::fs::write(directory.join("weir.toml"), configuration(admin, listener, "state")).unwrap();
    let child = weir(directory, &["run"]).stderr(Stdio::null()).spawn().unwrap();
    let running = Running { child, admin, listener };
    eventually("it is ready", async || is_ready(admin).await).await;
    running
}

async fn is_ready(admin: SocketAddr) -> bool {
    std::net::TcpStream::connect(admin).is_ok() && get(admin, "/readyz").await.status == 200
}

async fn run(mut command: Command) -> (Option<i32>, String) {
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn a_second_weir_on_a_taken_port_or_socket_is_refused_by_name_and_the_first_serves_on() {
    let directory = directory("second");
    let first = start(&directory).await;
    let held = format!("pid {}", first.child.id());
    for (name, admin, listener, state, expected) in [
        ("listener.toml", free_address(), first.listener, "other", held.as_str()),
        ("admin.toml", first.admin, free_address(), "other", held.as_str()),
        ("socket.toml", free_address(), free_address(), "state", "state/weir.sock"),
    ] {
        std::fs::write(directory.join(name), configuration(admin, listener, state)).unwrap();
        let (code, error) = run(weir(&directory, &["run", "--config", name])).await;
        let last = error.lines().last().unwrap_or_default().to_owned();
        assert_eq!(code, Some(1), "{name}: {error}");
        assert!(last.starts_with("weir: failed to ") && last.contains(expected), "{name}: {error}");
        assert!(is_ready(first.admin).await, "{name}: the first still answers");
    }
    assert!(directory.join("state/weir.sock").exists(), "its socket is still there");
}

#[tokio::test]
async fn a_refused_configuration_exits_2_with_every_problem() {
    let directory = directory("invalid");
    std::fs::write(
        directory.join("weir.toml"),
        "[admin]\nlisten = \"0.0.0.0:9600\"\n[[route]]\nname = \"r\"\nservice = \"none\"\n",
    )
    .unwrap();
    let (code, error) = run(weir(&directory, &["run"])).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("weir.toml:2") && error.contains("weir.toml:5"), "{error}");
    assert!(error.contains("3 problems"), "{error}");
    let (code, error) = run(weir(&directory, &["run", "--config", "none.toml"])).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("none.toml"), "{error}");
}

#[tokio::test]
async fn sigterm_ends_it_with_0_and_its_socket_is_gone() {
    let directory = directory("term");
    let mut first = start(&directory).await;
    let pid = first.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    eventually("it ends", async || first.child.try_wait().unwrap().is_some()).await;
    assert_eq!(first.child.wait().unwrap().code(), Some(0));
    assert!(!directory.join("state/weir.sock").exists());
}

#[tokio::test]
async fn the_demo_takes_free_ports_where_its_own_are_taken_and_says_by_whom() {
    let directory = directory("demo");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    let mut command = weir(&directory, &["demo"]);
    command.env("WEIR_ADMIN_LISTEN", wanted.to_string()).env("WEIR_DNS_LISTEN", "127.0.0.1:0");
    command.stderr(std::fs::File::create(directory.join("log")).unwrap());
    let running = Running { child: command.spawn().unwrap(), admin: wanted, listener: wanted };
    let log = || std::fs::read_to_string(directory.join("log")).unwrap();
    let holder = format!("pid {}", std::process::id());
    eventually("the demo says who holds its port", async || {
        log().lines().any(|line| line.contains(&wanted.to_string()) && line.contains(&holder))
    })
    .await;
    // The socket in the directory leads the command line to it all the same.
    eventually("the command line finds it", async || {
        let mut services = weir(&directory, &["services", "-o", "json"]);
        services.env("XDG_STATE_HOME", directory.join("nowhere"));
        let output = tokio::task::spawn_blocking(move || services.output().unwrap()).await.unwrap();
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("\"web\"")
    })
    .await;
    drop(running);
}

#[tokio::test]
async fn replicas_that_exit_at_once_or_never_pass_a_check_are_explained_and_harm_nobody() {
    let directory = directory("sick");
    let (admin, listener) = (free_address(), free_address());
    let services = r#"
        [[route]]
        name = "good"
        service = "good"
        [[service]]
        name = "good"
        replicas = 1
        [service.run]
        command = ["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}"]
        [[service]]
        name = "exits"
        replicas = 1
        [service.run]
        command = ["/bin/sh", "-c", "echo no database; exit 3"]
        [[service]]
        name = "sick"
        replicas = 1
        [service.run]
        command = ["${WEIR}", "whoami", "--listen", "127.0.0.1:${PORT}"]
        [service.health]
        type = "http"
        path = "/status/500"
        interval = "1s"
    "#;
    let text = configuration(admin, listener, "state") + services;
    std::fs::write(directory.join("weir.toml"), text).unwrap();
    let child = weir(&directory, &["run"]).stderr(Stdio::null()).spawn().unwrap();
    let running = Running { child, admin, listener };
    let ask = async |args: &[&str]| {
        let mut command = weir(&directory, args);
        command.env("WEIR_ADDR", admin.to_string());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shows = async |args: &[&str], parts: &[&str]| {
        ask(args).await.lines().any(|line| parts.iter().all(|part| line.contains(part)))
    };
    eventually("the exits are shown", async || shows(&["ps", "exits"], &["gone", "exited with status 3"]).await).await;
    eventually("the check is shown", async || shows(&["ps", "sick"], &["unhealthy", "/status/500: 500"]).await).await;
    let quarantined = async || shows(&["services"], &["exits", "0/1", "quarantined"]).await;
    eventually("the service is quarantined", quarantined).await;
    assert!(shows(&["events"], &["replica_quarantined", "exited with status 3"]).await);
    assert!(shows(&["services"], &["sick", "0/0", "unavailable"]).await);
    let listed: serde_json::Value = serde_json::from_str(&ask(&["ps", "exits", "-o", "json"]).await).unwrap();
    let id = listed["instances"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ask(&["logs", &id]).await, "no database\n");
    let answer = get(running.listener, "/").await;
    assert_eq!(answer.status, 200, "what works goes on: {answer:?}");
}
