//! What tests of capture do in network namespaces: needs root, `ip`, `nft` and `iptables`.

use crate::WAIT;
use crate::support::process::{Folder, WEIR};
pub(crate) use crate::support::space::{Running, Space};
use rustix::process::Uid;
use rustix::thread::set_thread_uid;
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whom clients run as: not Weir, which is root here.
const CLIENT: &str = "65534";

impl Space {
    /// Asks as a workload does; returns what it got, or nothing.
    pub(crate) fn ask(&self, url: &str) -> String {
        let curl = ["curl", "-s", "--noproxy", "*", "--max-time", "5", url];
        let who = ["--reuid", CLIENT, "--regid", CLIENT, "--clear-groups", "--"];
        self.said("setpriv", &[&who[..], &curl].concat())
    }

    pub(crate) fn rules(&self, words: &[&str]) {
        let output = self.run(WEIR, &[&["sidecar", "rules"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Every rule and chain that there is, but the empty chains and tables that iptables makes and keeps.
    pub(crate) fn ruleset(&self) -> String {
        let tables: String =
            ["iptables-save", "ip6tables-save"].iter().map(|program| self.said(program, &[])).collect();
        let is_made = |line: &&str| line.starts_with("-A") || line.starts_with(":WEIR");
        let rules: Vec<&str> = tables.lines().filter(is_made).collect();
        let own = self.said("nft", &["list", "tables"]);
        let own: Vec<&str> = own.lines().filter(|line| line.contains("inet")).collect();
        let table = self.said("nft", &["list", "table", "inet", "weir"]);
        let routes = ["-4", "-6"].map(|family| {
            let rules = self.said("ip", &[family, "rule"]);
            format!("{rules}\n{}", self.said("ip", &[family, "route", "show", "table", "87"]))
        });
        format!("{own:?}\n{table}\n{}\n{}", rules.join("\n"), routes.concat())
    }

    /// Installs rules, which is the same twice as once, does something, and removes them, which leaves nothing.
    pub(crate) fn captured(&self, backend: &str, words: &[&str], meanwhile: impl FnOnce()) {
        // What iptables makes when it first looks stays.
        self.rules(&["remove", "--backend", backend]);
        let before = self.ruleset();
        let install = || self.rules(&[&["install", "--backend", backend], words].concat());
        install();
        let installed = self.ruleset();
        assert_ne!(before, installed);
        install();
        assert_eq!(self.ruleset(), installed, "installing twice is as once");
        meanwhile();
        self.rules(&["remove", "--backend", backend]);
        assert_eq!(self.ruleset(), before, "without a trace");
    }

    /// Connects as a workload does.
    pub(crate) fn connect(&self, to: &'static str) -> TcpStream {
        self.inside(move || {
            set_thread_uid(Uid::from_raw(CLIENT.parse().unwrap())).unwrap();
            TcpStream::connect(to).unwrap()
        })
    }

    /// What the Weir inside answers to a GET of its admin API, and the status.
    pub(crate) fn admin(&self, path: &str) -> String {
        self.said("curl", &["-s", "-w", "%{http_code}", &format!("http://127.0.0.1:9600{path}")])
    }

    /// Starts a Weir with these listeners and services, and waits until it is ready.
    pub(crate) fn weir(&self, folder: &Folder, text: &str) -> Running {
        let file = weir_file(folder, text);
        let log = File::create(folder.0.join("log")).unwrap();
        let running = self.start(WEIR, &["run", "--config", file.to_str().unwrap()], log);
        until(folder, "weir is ready", || self.admin("/readyz").ends_with("200"));
        running
    }

    /// Starts a server that says what it sees; it is its address that it is known by.
    pub(crate) fn whoami(&self, folder: &Folder, address: &str) -> Running {
        let log = File::create(folder.0.join("whoami")).unwrap();
        self.start("env", &[&format!("WEIR_INSTANCE={address}"), WEIR, "whoami", "--listen", address], log)
    }
}

/// Writes its file.
pub(crate) fn weir_file(folder: &Folder, text: &str) -> PathBuf {
    let state = folder.0.join("state");
    let text = format!(
        "[node]\nworkloads_on_exit = \"stop\"\n\n[store]\npath = \"{}\"\n\n[dns]\nlisten = [\"127.0.0.1:8600\"]\n\n{text}",
        state.display()
    );
    folder.write("weir.toml", &text)
}

/// Waits for something; says Weir's log when it does not come.
pub(crate) fn until(folder: &Folder, what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !condition() {
        let log = std::fs::read_to_string(folder.0.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{what}: not within {WAIT:?}\n{log}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Links two: `one` has the addresses NET.1 and SIX::1 at the device `name`, the other NET.2 and SIX::2 at eth0, and its way out.
pub(crate) fn pair((one, name): (&Space, &str), other: &Space, (net, six): (&str, &str)) {
    let script = format!(
        "ip link add {name} type veth peer name eth0 netns $0 && ip addr add {net}.1/24 dev {name} && \
         ip -6 addr add {six}::1/64 dev {name} nodad && ip link set {name} up"
    );
    one.link(other, &script);
    let script = format!(
        "ip addr add {net}.2/24 dev eth0 && ip -6 addr add {six}::2/64 dev eth0 nodad && ip link set eth0 up && \
         ip route add default via {net}.1 && ip -6 route add default via {six}::1"
    );
    let led = other.run("sh", &["-c", &script]);
    assert!(led.status.success(), "{led:?}");
}
