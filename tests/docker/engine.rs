//! A Docker Engine of one test: socket, data and state in a folder, no default bridge, no rules; nothing of it is left.

use crate::image;
use crate::support::process::Folder;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The image with both programs; it runs Weir.
pub(crate) const IMAGE: &str = "weir-test:1";
const DEADLINE: Duration = Duration::from_secs(60);

/// Engines that may run at a time; each has networks of its own to give away.
const ENGINES: usize = 3;
static TAKEN: Mutex<[bool; ENGINES]> = Mutex::new([false; ENGINES]);
static FREED: Condvar = Condvar::new();

/// Which of them an engine is.
struct Turn(usize);

impl Turn {
    fn wait() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(free) = taken.iter().position(|taken| !taken) {
                taken[free] = true;
                return Self(free);
            }
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner)[self.0] = false;
        FREED.notify_one();
    }
}

/// One engine.
pub(crate) struct Engine {
    folder: Folder,
    daemon: Option<Child>,
    live_restore: bool,
    is_bridged: bool,
    // Given back last, after the engine has ended.
    turn: Turn,
}

impl Engine {
    /// Starts an engine that has the image.
    pub(crate) fn start() -> Self {
        Self::with(false)
    }

    /// As [`Engine::start`]; with live restore containers outlive the engine.
    pub(crate) fn with(live_restore: bool) -> Self {
        let mut engine = Self::absent();
        engine.live_restore = live_restore;
        engine.up();
        engine.import(IMAGE, &[]);
        engine
    }

    /// As [`Engine::start`]; with a default network, on a bridge of its own.
    pub(crate) fn bridged() -> Self {
        let mut engine = Self::absent();
        engine.is_bridged = true;
        let (bridge, turn) = (engine.bridge(), engine.turn.0);
        let ip = |words: &str| Command::new("ip").args(words.split(' ')).status().unwrap().success();
        // Not told its hardware address, it takes a container's, and with each that ends another, which neighbours learn late.
        let added = ip(&format!("link add {bridge} address 02:42:ac:1e:4e:{turn:02x} type bridge"));
        assert!(added, "needs root and `ip` (Debian: iproute2)");
        let addressed = ip(&format!("addr add 172.30.{}.1/24 dev {bridge}", 80 + turn));
        assert!(addressed && ip(&format!("link set dev {bridge} up")));
        engine.up();
        engine.import(IMAGE, &[]);
        engine
    }

    /// Returns the bridge of its default network, or that it has none.
    fn bridge(&self) -> String {
        if self.is_bridged { format!("weir-test{}", self.turn.0) } else { "none".to_owned() }
    }

    /// Returns a range of addresses for services that no Weir at another engine has.
    pub(crate) fn service_addresses(&self) -> String {
        format!("198.19.{}.0/18", 64 * self.turn.0)
    }

    /// Takes the turn and the places; starts nothing.
    pub(crate) fn absent() -> Self {
        let turn = Turn::wait();
        Self { folder: Folder::new("docker"), daemon: None, live_restore: false, is_bridged: false, turn }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    /// Returns its address.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.place("docker.sock").display())
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.place("log")).unwrap();
        let mut command = Command::new("dockerd");
        command
            .arg(format!("--bridge={}", self.bridge()))
            .arg(format!("--default-address-pool=base=172.20.{}.0/20,size=24", 16 * self.turn.0))
            .args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"])
            .args(["--host", &self.host(), "--data-root"])
            .arg(self.place("data"))
            .arg("--exec-root")
            .arg(self.place("exec"))
            .arg("--pidfile")
            .arg(self.place("pid"));
        if self.live_restore {
            command.arg("--live-restore");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = command.spawn().expect("dockerd is installed (Debian: docker.io) and this runs as root");
        self.daemon = Some(daemon);
        let deadline = Instant::now() + DEADLINE;
        while !self.try_docker(&["version"]).0 {
            let ended = self.daemon.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "dockerd does not answer:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the daemon as a service manager does.
    pub(crate) fn down(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        signal(daemon.id(), "CONT");
        signal(daemon.id(), "TERM");
        daemon.wait().unwrap();
    }

    /// Sends a signal to the daemon.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.daemon.as_ref().unwrap().id(), name);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place("log")).unwrap_or_default()
    }

    /// Makes an image with both programs; `changes` are lines of a Dockerfile.
    pub(crate) fn import(&self, name: &str, changes: &[&str]) {
        let root = image::root(&self.folder.0);
        let own = ["ENTRYPOINT [\"/weir\"]", "CMD [\"whoami\", \"--listen\", \"0.0.0.0:8080\"]"];
        self.import_root(name, &root, &[&own[..], changes].concat());
    }

    /// Makes an image of a folder; `changes` are lines of a Dockerfile.
    pub(crate) fn import_root(&self, name: &str, root: &Path, changes: &[&str]) {
        let mut tar = Command::new("tar").arg("-C").arg(root).args(["-c", "."]).stdout(Stdio::piped()).spawn().unwrap();
        let mut import = self.command();
        import.arg("import");
        for change in changes {
            import.args(["-c", change]);
        }
        let import = import.args(["-", name]).stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        assert!(tar.wait().unwrap().success());
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.env_remove("DOCKER_CONTEXT").args(["--host", &self.host()]);
        command
    }

    /// Runs `docker` and returns what it printed; panics when it fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let (succeeded, text) = self.try_docker(arguments);
        assert!(succeeded, "docker {arguments:?}: {text}");
        text
    }

    /// Runs `docker`; returns whether it succeeded and what it printed.
    pub(crate) fn try_docker(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command().args(arguments).output().expect("docker is installed (Debian: docker.io)");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// Returns what `docker inspect` says by a template.
    pub(crate) fn inspect(&self, container: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, container])
    }

    /// Returns the names of all containers, running or not, in order.
    pub(crate) fn containers(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.docker(&["ps", "-a", "--format", "{{.Names}}"]).lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Returns the ids of running containers, in order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.docker(&["ps", "-q", "--no-trunc"]).lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }

    /// The folder of the test.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon {
            signal(daemon.id(), "CONT");
            let list = |arguments: &[&str]| self.try_docker(arguments).1;
            for id in list(&["ps", "-aq"]).lines() {
                self.try_docker(&["rm", "-f", id]);
            }
            for id in list(&["network", "ls", "-q", "--filter", "type=custom"]).lines() {
                self.try_docker(&["network", "rm", id]);
            }
        }
        self.down();
        // A Weir that a test killed leaves its route for the next one.
        let route = format!("route del local {} dev lo table local", self.service_addresses());
        let _ = Command::new("ip").args(route.split(' ')).stderr(Stdio::null()).status();
        if self.is_bridged {
            let _ = Command::new("ip").args(["link", "del", &self.bridge()]).status();
        }
        // The engine leaves its network namespaces mounted.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = |line: &str| {
            line.split(' ').nth(1).filter(|place| Path::new(place).starts_with(&self.folder.0)).map(str::to_owned)
        };
        for place in mounts.lines().filter_map(below) {
            let _ = Command::new("umount").arg(place).status();
        }
    }
}

fn signal(pid: u32, name: &str) {
    assert!(pid > 1);
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}
