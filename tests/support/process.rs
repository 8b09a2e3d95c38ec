//! Weir as a process: a temporary folder, free ports, a configuration, and its command line.

use super::family;
use super::http::{Answer, Raw};
pub use super::ports::{free_address, port_range};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};

/// The binary under test; a program that is no test finds it on the path.
pub const WEIR: &str = match option_env!("CARGO_BIN_EXE_weir") {
    Some(path) => path,
    None => "weir",
};

/// A temporary folder, removed at the end.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Makes an empty folder.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("weir-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file in it and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `weir` with arguments to its end.
pub async fn weir(arguments: &[&str]) -> Finished {
    let output =
        Command::new(WEIR).args(arguments).env_remove("WEIR_ADDR").stdin(Stdio::null()).output().await.unwrap();
    Finished {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running Weir.
#[derive(Debug)]
pub struct Weir {
    /// The process.
    pub child: Child,
    /// Its listener `web`.
    pub http: SocketAddr,
    /// Its DNS server.
    pub dns: SocketAddr,
    /// Its admin API.
    pub admin: SocketAddr,
    /// Its folder: configuration, state, log.
    pub folder: Folder,
}

impl Weir {
    /// Starts Weir with `services` (TOML: services and routes) behind one listener `web`, DNS and admin; waits until ready.
    pub async fn start(name: &str, services: &str) -> Self {
        let mut weir = Self::spawn(name, services);
        weir.ready().await;
        weir
    }

    /// As [`Weir::start`], with replicas that outlive it: whoever drops it ends them, unless it ended before.
    pub async fn start_keeping(name: &str, services: &str) -> Self {
        let mut weir = Self::spawn_with(name, "keep", services);
        weir.ready().await;
        weir
    }

    /// As [`Weir::start`], without waiting.
    pub fn spawn(name: &str, services: &str) -> Self {
        Self::spawn_with(name, "stop", services)
    }

    fn spawn_with(name: &str, workloads: &str, services: &str) -> Self {
        Self::written(name, workloads, services, |folder, file| run(Command::new(WEIR), folder, file))
    }

    fn written(name: &str, workloads: &str, services: &str, run: impl FnOnce(&Folder, &Path) -> Child) -> Self {
        let folder = Folder::new(name);
        let (http, dns, admin) = (free_address(), free_address(), free_address());
        let text = format!(
            "[node]\nworkloads_on_exit = \"{workloads}\"\nport_range = \"{}\"\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n\n[dns]\nlisten = [\"{dns}\"]\n
[[listener]]\nname = \"web\"\naddress = \"{http}\"\n\n{services}",
            port_range(),
            folder.0.join("state").display(),
        );
        let file = folder.write("weir.toml", &text);
        let child = run(&folder, &file);
        Self { child, http, dns, admin, folder }
    }

    /// As [`Weir::start`], with so many descriptors for each of its processes and more keys of the configuration.
    pub async fn start_poor(name: &str, descriptors: u32, services: &str) -> Self {
        Self::start_limited(name, &format!("-n {descriptors}"), services).await
    }

    /// As [`Weir::start`], with limits as ulimit(1) sets them.
    pub async fn start_limited(name: &str, limits: &str, services: &str) -> Self {
        let mut weir = Self::written(name, "stop", services, |folder, file| {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("ulimit {limits} && exec \"$0\" \"$@\"")).arg(WEIR);
            run(shell, folder, file)
        });
        weir.ready().await;
        weir
    }

    /// Starts it again after its end, with the same configuration and state.
    pub fn respawn(&mut self) {
        self.child = run(Command::new(WEIR), &self.folder, &self.folder.0.join("weir.toml"));
    }

    /// Waits until `/readyz` says 200; panics with the log when it does not.
    pub async fn ready(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(mut raw) = Raw::connect(self.admin).await {
                // The socket may be a last one of a Weir that was killed: then it is reset.
                let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                let _ = tokio::io::AsyncWriteExt::write_all(&mut raw.stream, request).await;
                if matches!(raw.try_answer(false).await, Ok(Answer { status: 200, .. })) {
                    return;
                }
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("weir ended with {status}:\n{}", self.log());
            }
            assert!(std::time::Instant::now() < deadline, "weir is not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns what it wrote to standard output and error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    /// Returns its process id: the keeper's.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// Returns the id of the process that serves; 0 while there is none.
    pub fn serving(&self) -> u32 {
        family::serving(self.pid()).last().copied().unwrap_or(0)
    }

    /// Runs a command of its command line against it.
    pub async fn cli(&self, arguments: &[&str]) -> Finished {
        let address = self.admin.to_string();
        weir(&[&["--addr", &address], arguments].concat()).await
    }

    /// Asks its admin API; returns status and JSON.
    pub async fn api(&self, method: &str, path: &str, body: Option<serde_json::Value>) -> (u16, serde_json::Value) {
        let mut raw = Raw::connect(self.admin).await.unwrap();
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let answer = raw
            .exchange(format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(serde_json::Value::Null))
    }

    /// Returns `weir ps -o json`'s list of instances.
    pub async fn instances(&self) -> Vec<serde_json::Value> {
        let finished = self.cli(&["ps", "-o", "json"]).await;
        assert_eq!(finished.code, 0, "{finished:?}\n{}", self.log());
        let value: serde_json::Value = serde_json::from_str(&finished.out).unwrap();
        value["instances"].as_array().cloned().unwrap_or_default()
    }

    /// Returns the ready instances of a service.
    pub async fn ready_instances(&self, service: &str) -> Vec<serde_json::Value> {
        let all = self.instances().await;
        all.into_iter().filter(|i| i["service"] == service && i["state"] == "ready").collect()
    }

    /// Waits until a service has exactly `count` ready instances and nothing else that runs.
    pub async fn settled(&self, service: &str, count: usize, limit: Duration) -> Vec<serde_json::Value> {
        self.settled_without("", service, count, limit).await
    }

    /// As [`Weir::settled`], and none of them is the instance `gone`.
    pub async fn settled_without(
        &self,
        gone: &str,
        service: &str,
        count: usize,
        limit: Duration,
    ) -> Vec<serde_json::Value> {
        let what = format!("{count} ready instances of {service} without {gone:?}");
        super::eventually(&what, limit, || async {
            let alive: Vec<_> = self
                .instances()
                .await
                .into_iter()
                .filter(|i| i["service"] == service && i["state"] != "gone")
                .collect();
            let ready = alive.iter().filter(|i| i["state"] == "ready").count();
            (ready == count && alive.len() == count && alive.iter().all(|i| i["id"] != gone)).then_some(alive)
        })
        .await
    }

    /// Kills the keeper and whoever serves, at one moment; their replicas live or die as they are told to.
    pub fn kill(&self) {
        let pid = self.pid();
        family::send(pid, "STOP");
        for serving in family::serving(pid) {
            family::send(serving, "KILL");
        }
        family::send(pid, "KILL");
    }

    /// Sends a signal to it: `TERM`, `INT`.
    pub async fn signal(&self, signal: &str) {
        kill(self.pid(), signal).await;
    }
}

/// Starts `weir run`; what it writes goes to the end of the log.
fn run(mut command: Command, folder: &Folder, file: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.0.join("log")).unwrap();
    command
        .args([Path::new("run"), Path::new("--config"), file])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Weir {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            family::end(pid);
        }
    }
}

/// Sends a signal to a process that this test knows to be its own or its Weir's.
pub async fn kill(pid: u32, signal: &str) {
    assert!(pid > 1);
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().await.unwrap();
    assert!(status.success(), "kill -{signal} {pid}");
}
