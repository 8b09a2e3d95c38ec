//! Transparent capture, each test in a network namespace of its own: needs root, `ip`, `nft` and `iptables`.

use crate::WAIT;
use crate::support::process::{Folder, WEIR};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whom clients run as: not Weir, which is root here.
const CLIENT: &str = "65534";

/// A network namespace with nothing but loopback and addresses on it.
#[derive(Clone)]
struct Space(Arc<File>);

impl Space {
    fn new(addresses: &[&str]) -> Self {
        let mut script = "ip link set lo up".to_owned();
        for address in addresses {
            script += &format!(" && ip addr add {address} dev lo");
        }
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &format!("{script} && echo up && exec sleep 600")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is installed and this runs as root");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "up", "needs root and `ip` (Debian: iproute2)");
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).unwrap();
        holder.kill().unwrap();
        holder.wait().unwrap();
        Self(Arc::new(file))
    }

    /// Does something inside, on a thread of its own; what it starts is inside too.
    fn inside<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let file = self.0.clone();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            body()
        });
        thread.join().unwrap()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        self.inside(move || {
            command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"))
        })
    }

    fn said(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn start(&self, program: &str, arguments: &[&str], log: File) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Running(self.inside(move || command.spawn().unwrap()))
    }

    /// Asks as a workload does; returns what it got, or nothing.
    fn ask(&self, url: &str) -> String {
        let curl = ["curl", "-s", "--noproxy", "*", "--max-time", "5", url];
        let who = ["--reuid", CLIENT, "--regid", CLIENT, "--clear-groups", "--"];
        self.said("setpriv", &[&who[..], &curl].concat())
    }

    fn rules(&self, words: &[&str]) {
        let output = self.run(WEIR, &[&["sidecar", "rules"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Every rule and chain that there is, but the empty chains and tables that iptables makes and keeps.
    fn ruleset(&self) -> String {
        let tables: String =
            ["iptables-save", "ip6tables-save"].iter().map(|program| self.said(program, &[])).collect();
        let is_made = |line: &&str| line.starts_with("-A") || line.starts_with(":WEIR");
        let rules: Vec<&str> = tables.lines().filter(is_made).collect();
        let own = self.said("nft", &["list", "tables"]);
        let own: Vec<&str> = own.lines().filter(|line| line.contains("inet")).collect();
        format!("{own:?}\n{}", rules.join("\n"))
    }
}

/// A program; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Killed, Weir's keeper would leave the process that serves behind.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

struct World {
    space: Space,
    folder: Folder,
    _running: Vec<Running>,
}

impl World {
    /// Weir as a sidecar that captures, and servers at many addresses.
    fn start(name: &str) -> Self {
        let own: Vec<String> = (1..=9).map(|n| format!("10.77.0.{n}/32")).collect();
        let own6: Vec<String> = (1..=9).map(|n| format!("fd77::{n}/128")).collect();
        let all: Vec<&str> = own.iter().chain(&own6).map(String::as_str).collect();
        let space = Space::new(&all);
        let folder = Folder::new(name);
        let log = |name: &str| File::create(folder.0.join(name)).unwrap();
        let mut running = Vec::new();
        for address in [
            "10.77.0.3:5432",
            "10.77.0.4:5432",
            "10.77.0.5:80",
            "10.77.0.6:80",
            "10.77.0.8:80",
            "10.77.0.9:80",
            "[fd77::3]:5432",
            "[fd77::8]:80",
        ] {
            let instance = format!("WEIR_INSTANCE={address}");
            running.push(space.start("env", &[&instance, WEIR, "whoami", "--listen", address], log("whoami")));
        }
        let text = format!(
            "[node]\nworkloads_on_exit = \"stop\"\n\n[store]\npath = \"{}\"\n\n[dns]\nlisten = [\"127.0.0.1:8600\"]\n
[[listener]]\nname = \"out\"\naddress = \":15001\"\nprotocol = \"tcp\"\n
[listener.capture]\nallow = [\"10.77.0.8/32\", \"fd77::8/128\"]\n
[[service]]\nname = \"db\"\npolicy = \"round-robin\"
[[service.endpoint]]\naddress = \"10.77.0.3:5432\"\n[[service.endpoint]]\naddress = \"10.77.0.4:5432\"\n
[[service]]\nname = \"site\"\npolicy = \"round-robin\"\n[[service.port]]\nname = \"http\"\nprotocol = \"http\"
[[service.endpoint]]\naddress = \"10.77.0.5:80\"\n[[service.endpoint]]\naddress = \"10.77.0.6:80\"\n
[[service]]\nname = \"six\"\n[[service.endpoint]]\naddress = \"[fd77::3]:5432\"\n",
            folder.0.join("state").display()
        );
        let file = folder.write("weir.toml", &text);
        running.push(space.start(WEIR, &["run", "--config", file.to_str().unwrap()], log("log")));
        let world = Self { space, folder, _running: running };
        world.until("weir is ready", || world.admin("/readyz").ends_with("200"));
        world.until("endpoints are ready", || {
            world.space.said(WEIR, &["--addr", "127.0.0.1:9600", "endpoints", "db"]).matches("10.77.0.").count() >= 2
        });
        world
    }

    fn admin(&self, path: &str) -> String {
        self.space.said("curl", &["-s", "-w", "%{http_code}", &format!("http://127.0.0.1:9600{path}")])
    }

    fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + WAIT;
        while !condition() {
            let log = std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: not within {WAIT:?}\n{log}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn refused(&self, reason: &str) -> bool {
        let line = format!("weir_refused_total{{reason=\"{reason}\"}} ");
        self.admin("/metrics").lines().any(|l| l.strip_prefix(&line).is_some_and(|count| count != "0"))
    }
}

/// The server that answered, as whoami says.
fn server(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("Instance: ")).unwrap_or(said)
}

fn capture_with(backend: &str) {
    let world = World::start(&format!("capture-{backend}"));
    let space = &world.space;
    assert_eq!(server(&space.ask("http://10.77.0.3:5432/")), "10.77.0.3:5432", "nothing is captured yet");
    space.rules(&["remove", "--backend", backend]);
    let before = space.ruleset();
    space.rules(&["install", "--user", "0", "--backend", backend]);
    let installed = space.ruleset();
    assert_ne!(before, installed);
    space.rules(&["install", "--user", "0", "--backend", backend]);
    assert_eq!(space.ruleset(), installed, "installing twice is as once");

    // A hard-coded address of a service leads to all of its endpoints.
    let seen: BTreeSet<String> = (0..16).map(|_| server(&space.ask("http://10.77.0.3:5432/")).to_owned()).collect();
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), ["10.77.0.3:5432", "10.77.0.4:5432"]);
    assert_eq!(server(&space.ask("http://[fd77::3]:5432/")), "[fd77::3]:5432");
    // Where HTTP is spoken each request finds its endpoint, on one connection.
    let both = space.ask("http://10.77.0.5:80/{1,2}");
    assert!(both.contains("10.77.0.5:80") && both.contains("10.77.0.6:80"), "{both}");
    // What is allowed goes where it was going; what is not known is closed.
    assert_eq!(server(&space.ask("http://10.77.0.8:80/")), "10.77.0.8:80");
    assert_eq!(server(&space.ask("http://[fd77::8]:80/")), "[fd77::8]:80");
    assert_eq!(space.ask("http://10.77.0.9:80/"), "");
    world.until("denied", || world.refused("capture_denied"));
    // Straight to the listener: it leads back to it.
    assert_eq!(space.ask("http://10.77.0.1:15001/"), "");
    world.until("a loop", || world.refused("capture_loop"));
    let metrics = world.admin("/metrics");
    assert!(metrics.contains("weir_streams_total{service=\"(original)\"} 2\n"), "{metrics}");

    space.rules(&["remove", "--backend", backend]);
    assert_eq!(space.ruleset(), before, "without a trace");
    assert_eq!(server(&space.ask("http://10.77.0.9:80/")), "10.77.0.9:80");
}

#[test]
fn what_a_workload_sends_is_captured_by_nftables_and_goes_where_it_was_going() {
    capture_with("nft");
}

#[test]
fn what_a_workload_sends_is_captured_by_iptables_and_goes_where_it_was_going() {
    capture_with("iptables");
}

#[test]
fn connections_of_weir_that_come_back_are_closed() {
    let world = World::start("capture-loop");
    // Rules that leave out somebody else: what Weir sends is captured too.
    world.space.rules(&["install", "--user", "4242"]);
    for _ in 0..3 {
        assert_eq!(world.space.ask("http://10.77.0.3:5432/"), "");
        // Also where each request finds its endpoint.
        let said = world.space.ask("http://10.77.0.5:80/");
        assert!(!said.contains("Instance: "), "{said}");
    }
    world.until("a loop", || world.refused("capture_loop"));
    assert!(world.admin("/readyz").ends_with("200"));
    let open = world.admin("/metrics");
    let open = open.lines().find_map(|line| line.strip_prefix("weir_connections_total ")).unwrap().to_owned();
    assert!(open.parse::<u64>().unwrap() < 60, "{open} connections");
}

/// Runs a program inside with the namespace of another as its argument `$0`.
fn link(one: &Space, other: &Space, script: &str) {
    use std::os::fd::AsRawFd;
    let place = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
    let made = one.run("sh", &["-c", script, &place]);
    assert!(made.status.success(), "{made:?}");
}

/// A client and a server with Weir on the way between them: what is routed through is taken as it is, and the server sees the
/// client's own address.
fn through_with(backend: &str) {
    let (client, weir, server) = (Space::new(&[]), Space::new(&[]), Space::new(&[]));
    let ends = "ip link add NAME type veth peer name eth0 netns $0 && ip addr add NET.1/24 dev NAME && \
                ip -6 addr add SIX::1/64 dev NAME nodad && ip link set NAME up";
    for (other, name, net, six) in [(&client, "side1", "10.78.1", "fd78:1"), (&server, "side2", "10.78.2", "fd78:2")] {
        link(&weir, other, &ends.replace("NAME", name).replace("NET", net).replace("SIX", six));
        let script = format!(
            "ip addr add {net}.2/24 dev eth0 && ip -6 addr add {six}::2/64 dev eth0 nodad && ip link set eth0 up && \
             ip route add default via {net}.1 && ip -6 route add default via {six}::1"
        );
        let led = other.run("sh", &["-c", &script]);
        assert!(led.status.success(), "{led:?}");
    }
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    // /proc shows the settings of the namespace of who opens them.
    assert!(weir.run("sh", &["-c", script]).status.success());
    let folder = Folder::new(&format!("through-{backend}"));
    let log = |name: &str| File::create(folder.0.join(name)).unwrap();
    let mut running = Vec::new();
    for address in ["10.78.2.2:80", "[fd78:2::2]:80"] {
        running.push(server.start(WEIR, &["whoami", "--listen", address], log("whoami")));
    }
    let text = format!(
        "[node]\nworkloads_on_exit = \"stop\"\n\n[store]\npath = \"{}\"\n\n[dns]\nlisten = [\"127.0.0.1:8600\"]\n
[[listener]]\nname = \"through\"\naddress = \":15002\"\nprotocol = \"tcp\"\n
[listener.capture]\nmode = \"tproxy\"\nto = \"original\"\nunknown = \"allow\"\nkeep_source = true\n",
        folder.0.join("state").display()
    );
    let file = folder.write("weir.toml", &text);
    running.push(weir.start(WEIR, &["run", "--config", file.to_str().unwrap()], log("log")));
    let ready = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9600/readyz"];
    let deadline = Instant::now() + WAIT;
    while weir.said("curl", &ready) != "200" {
        assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(folder.0.join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(30));
    }
    let streams = || {
        let metrics = weir.said("curl", &["-s", "http://127.0.0.1:9600/metrics"]);
        metrics.contains("weir_streams_total{service=\"(original)\"} 2\n")
    };
    let everything = || format!("{}{}{}", weir.ruleset(), weir.said("ip", &["rule"]), weir.said("ip", &["-6", "rule"]));
    weir.rules(&["remove", "--backend", backend]);
    let before = everything();
    weir.rules(&["install", "--user", "0", "--through", "15002", "--backend", backend]);
    let installed = everything();
    weir.rules(&["install", "--user", "0", "--through", "15002", "--backend", backend]);
    assert!(installed != before && installed == everything(), "installing twice is as once");
    for (url, source) in [("http://10.78.2.2/", "Remote: 10.78.1.2:"), ("http://[fd78:2::2]/", "Remote: [fd78:1::2]:")]
    {
        let said = client.ask(url);
        assert!(
            said.contains(source),
            "{backend} {url}: {said:?}\n{}",
            std::fs::read_to_string(folder.0.join("log")).unwrap()
        );
    }
    assert!(streams(), "they went through Weir");
    weir.rules(&["remove", "--backend", backend]);
    assert_eq!(everything(), before, "without a trace");
}

#[test]
fn what_is_routed_through_keeps_its_destination_and_its_source_by_nftables() {
    through_with("nft");
}

#[test]
fn what_is_routed_through_keeps_its_destination_and_its_source_by_iptables() {
    through_with("iptables");
}
