//! A Weir on a folder that stays: started, killed and started again. What runs is read from `/proc`, not asked of Weir.

use crate::support::process::{Finished, Folder, WEIR, port_range, weir};
use crate::support::{eventually, http::Raw};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// Longest wait for anything that takes milliseconds on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Returns a free address on loopback that stays free while nobody listens on it: below the ports that the system gives to
/// outgoing connections, one of which could else take it, or even connect to itself, while Weir is dead.
fn lasting_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = (std::process::id() % 89) as u16 * 100 + NEXT.fetch_add(1, Ordering::SeqCst);
        let address = SocketAddr::from(([127, 0, 0, 1], 11_000 + step % 8_900));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The folder, the addresses, and the process while it runs.
pub(crate) struct Node {
    pub(crate) folder: Folder,
    pub(crate) state: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    ports: String,
    on_exit: &'static str,
    child: Option<Child>,
}

impl Node {
    /// Makes the folder and writes the configuration; does not start it.
    pub(crate) fn new(name: &str, on_exit: &'static str, services: &str) -> Self {
        let folder = Folder::new(name);
        let state = folder.0.join("state");
        let (http, admin, ports) = (lasting_address(), lasting_address(), port_range());
        let node = Self { folder, state, http, admin, ports, on_exit, child: None };
        node.configure(services);
        node
    }

    /// Writes the configuration with these services; read at the next start or reload.
    pub(crate) fn configure(&self, services: &str) {
        let text = format!(
            "[node]\nworkloads_on_exit = \"{}\"\nport_range = \"{}\"\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{}\"\nsocket = \"off\"\n
[[listener]]\nname = \"web\"\naddress = \"{}\"\n\n{services}",
            self.on_exit, self.ports, self.state.display(), self.admin, self.http,
        );
        // As an editor does: nobody sees half of it.
        let part = self.folder.write("weir.toml.part", &text);
        fs::rename(part, self.file()).unwrap();
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.0.join("weir.toml")
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.folder.0.join("log")).unwrap();
        let child = Command::new(WEIR)
            .args([Path::new("run"), Path::new("--config"), &self.file()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// Waits for the first answer through the proxy and returns its status; panics with the log when there is none.
    pub(crate) async fn first_answer(&mut self) -> u16 {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.get().await;
            if status != 0 {
                return status;
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("weir ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "no answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until `/readyz` says 200; panics with the log when Weir ends or it takes too long.
    pub(crate) async fn ready(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while !matches!(self.status("/readyz").await, Some(200)) {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("weir ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "weir is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn status(&self, path: &str) -> Option<u16> {
        let mut raw = Raw::connect(self.admin).await.ok()?;
        raw.try_send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await?;
        raw.try_answer(false).await.ok().map(|answer| answer.status)
    }

    /// Kills every process of Weir itself, the keeper and the one that serves, at once; returns when they are gone, with the
    /// replicas that ran at that moment.
    pub(crate) async fn kill(&mut self) -> BTreeMap<String, u32> {
        let pids = self.own();
        let mut child = self.child.take().unwrap();
        assert!(!pids.is_empty(), "weir does not run");
        // Stopped first, so that nobody starts anybody again in between.
        signal("-STOP", &pids).await;
        // What was just forked leads its session within microseconds.
        let mut replicas = eventually("every replica has a leader", LIMIT, || async { self.leaders() }).await;
        signal("-KILL", &pids).await;
        child.wait().await.unwrap();
        eventually("weir's processes are gone", LIMIT, || async {
            pids.iter().all(|pid| !is_alive(*pid)).then_some(())
        })
        .await;
        // A child that was forked a moment ago holds the sockets until it executes its program.
        eventually("nobody holds the addresses", LIMIT, || async {
            [self.http, self.admin].iter().all(|address| TcpListener::bind(address).is_ok()).then_some(())
        })
        .await;
        // Whoever had not even an output yet when it was looked is a replica by now.
        let now = eventually("every replica has a leader", LIMIT, || async { self.leaders() }).await;
        for (id, pid) in now {
            let before = replicas.insert(id.clone(), pid);
            assert!(before.is_none_or(|before| before == pid), "{id} was {before:?} and is {pid}");
        }
        replicas
    }

    /// Ends it by SIGTERM; returns its exit code.
    pub(crate) async fn terminate(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let pid = child.id().unwrap().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
        let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("weir ends").unwrap();
        status.code().unwrap_or(-1)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// Processes of Weir itself: they have its configuration on their command line and are nobody's replica.
    pub(crate) fn own(&self) -> Vec<u32> {
        let file = self.file().display().to_string();
        let parent = self.child.as_ref().and_then(Child::id);
        let is_own = |pid: &u32| {
            // What was forked a moment ago looks the same, but is a replica to be.
            if parent.is_some() && Some(*pid) != parent && ppid(*pid) != parent {
                return false;
            }
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == file.as_bytes()) && is_alive(*pid)
        };
        pids().into_iter().filter(is_own).collect()
    }

    /// Processes of replicas by instance: standard output is the log file in the state folder. Grandchildren too.
    pub(crate) fn members(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let logs = self.state.join("logs");
        let mut found: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for pid in pids() {
            let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/1")) else { continue };
            let Some(name) = target.strip_prefix(&logs).ok().and_then(|name| name.to_str()) else { continue };
            if let Some((id, _)) = name.split_once(".stdout.log").filter(|_| is_alive(pid)) {
                found.entry(id.to_owned()).or_default().insert(pid);
            }
        }
        found
    }

    /// The leader of each running replica; panics when one instance runs twice or something is left of one.
    pub(crate) fn replicas(&self) -> BTreeMap<String, u32> {
        self.leaders().unwrap_or_else(|| panic!("without a leader: {:?}", self.members()))
    }

    /// The leader of each running replica; `None` while one has none. Panics when one instance runs twice.
    pub(crate) fn leaders(&self) -> Option<BTreeMap<String, u32>> {
        let leads = |pid: &u32| session(*pid) == Some(*pid);
        let leaders = self.members().into_iter().map(|(id, pids)| {
            let leaders: Vec<u32> = pids.into_iter().filter(leads).collect();
            assert!(leaders.len() <= 1, "{id} has {leaders:?}");
            Some((id, *leaders.first()?))
        });
        leaders.collect()
    }

    /// Asks its admin API; returns status and JSON, status 0 when there was no answer.
    pub(crate) async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let Ok(mut raw) = Raw::connect(self.admin).await else { return (0, Value::Null) };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        if raw.try_send(head + &body).await.is_none() {
            return (0, Value::Null);
        }
        match raw.try_answer(method == "HEAD").await {
            Ok(answer) => (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    /// Its metrics as text.
    pub(crate) async fn metrics(&self) -> String {
        let mut raw = Raw::connect(self.admin).await.unwrap();
        raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        String::from_utf8(raw.try_answer(false).await.unwrap().body).unwrap()
    }

    /// The instances that Weir lists and that are not gone, by id.
    pub(crate) async fn instances(&self) -> BTreeMap<String, Value> {
        let (status, list) = self.api("GET", "/v1/instances", None).await;
        assert_eq!(status, 200, "{}", self.log());
        let all = list["instances"].as_array().cloned().unwrap_or_default();
        let living = all.into_iter().filter(|instance| instance["state"] != "gone");
        living.map(|instance| (instance["id"].as_str().unwrap().to_owned(), instance)).collect()
    }

    /// Waits until exactly `count` instances of a service are listed, all ready, and returns the processes by instance.
    pub(crate) async fn settled(&self, service: &str, count: usize) -> BTreeMap<String, u32> {
        let what = format!("{count} ready instances of {service}");
        eventually(&what, LIMIT, || async {
            let all = self.instances().await;
            let of: Vec<&Value> = all.values().filter(|instance| instance["service"] == service).collect();
            let ready = of.iter().filter(|instance| instance["state"] == "ready").count();
            (ready == count && of.len() == count).then(|| {
                let pid = |one: &&Value| Some((one["id"].as_str()?.to_owned(), one["pid"].as_u64()? as u32));
                of.iter().filter_map(pid).collect()
            })
        })
        .await
    }

    /// One request through the proxy; returns the status, 0 when there was no answer.
    pub(crate) async fn get(&self) -> u16 {
        get(self.http).await
    }

    /// Waits until so many instances are written down as serving: a kill from now on finds them.
    pub(crate) async fn noted(&self, serving: usize) {
        eventually("what serves is written down", LIMIT, || async {
            (self.api("GET", "/v1/status", None).await.1["store"]["serving"] == serving).then_some(())
        })
        .await;
    }

    /// Runs a command of its command line against it.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Finished {
        let address = self.admin.to_string();
        weir(&[&["--addr", &address], arguments].concat()).await
    }

    /// Runs `weir run` on the same configuration to its end: it must not get far.
    pub(crate) async fn second(&self) -> Finished {
        weir(&["run", "--config", &self.file().display().to_string()]).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever the test did: nothing of it stays. All of these were started by this node. They are stopped first, so
        // that the keeper starts nobody in the place of who is killed; twice for who was being started meanwhile.
        for signal in ["-STOP", "-STOP", "-KILL", "-KILL"] {
            let all = self.own().into_iter().chain(self.members().into_values().flatten());
            let all: Vec<String> = all.map(|pid| pid.to_string()).collect();
            if !all.is_empty() {
                let _ = std::process::Command::new("kill").arg(signal).args(all).stderr(Stdio::null()).status();
            }
        }
    }
}

/// One request on a connection of its own; returns the status, 0 when there was no answer.
pub(crate) async fn get(address: SocketAddr) -> u16 {
    let Ok(mut raw) = Raw::connect(address).await else { return 0 };
    match raw.try_send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await {
        Some(()) => raw.try_answer(false).await.map_or(0, |answer| answer.status),
        None => 0,
    }
}

async fn signal(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    Command::new("kill").arg(signal).args(pids).stderr(Stdio::null()).status().await.unwrap();
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Returns true while the process exists and is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

fn ppid(pid: u32) -> Option<u32> {
    stat(pid)?[1].parse().ok()
}

fn session(pid: u32) -> Option<u32> {
    stat(pid)?[3].parse().ok()
}

/// A service of `weir whoami` behind the listener, with quick checks.
pub(crate) fn web(replicas: usize) -> String {
    format!("[[route]]\nname = \"web\"\nservice = \"web\"\n\n{}", service("web", replicas))
}

/// A service of `weir whoami`, with quick checks.
pub(crate) fn service(name: &str, replicas: usize) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\ndrain_timeout = \"5s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n
[service.rollout]\nmin_healthy = \"100ms\"\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"500ms\"\n\n"
    )
}
