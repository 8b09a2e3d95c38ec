//! Services' own addresses, each test in a network namespace of its own: needs root and `ip`; `tests/run` installs it.

use crate::support::process::{Folder, WEIR};
use crate::support::space::{Running, Space};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SETTLED: Duration = Duration::from_secs(30);

/// Where Weir answers DNS in each namespace, besides loopback.
const RESOLVER: &str = "10.77.0.1";

impl Space {
    /// Makes another namespace that is led through this one, as containers and virtual machines are.
    fn neighbour(&self) -> Self {
        let other = Self::new(&[RESOLVER]);
        let script = "ip link add weir0 type veth peer name weir1 && ip link set weir1 netns $0 \
                      && ip addr add 10.78.0.1/24 dev weir0 && ip link set dev weir0 up";
        self.link(&other, script);
        let script = "ip addr del $0/32 dev lo && ip addr add 10.78.0.2/24 dev weir1 && ip link set dev weir1 up \
                      && ip route add default via 10.78.0.1";
        let led = other.run("sh", &["-c", script, RESOLVER]);
        assert!(led.status.success(), "{led:?}");
        other
    }

    fn routes(&self) -> String {
        let all = self.said("ip", &["route", "show", "table", "local"]);
        all.lines().filter(|line| line.contains("198.18.")).collect::<Vec<_>>().join("\n")
    }

    /// Asks Weir, and returns what it answers.
    fn dig(&self, question: &[&str]) -> String {
        let server = format!("@{RESOLVER}");
        self.said("dig", &[&[&server, "-p", "8600", "+short", "+tries=1", "+time=2"], question].concat())
    }

    /// Resolves a name by Weir.
    fn resolve(&self, name: &str) -> String {
        self.dig(&[&format!("{name}.weir.internal"), "A"])
    }
}

/// Weir in a namespace, on its usual ports.
struct Weir {
    space: Space,
    folder: Folder,
    child: Running,
}

impl Weir {
    fn start(space: &Space, services: &str) -> Self {
        let folder = Folder::new("own-addresses");
        let state = folder.0.join("state");
        let text = format!(
            "[node]\nworkloads_on_exit = \"stop\"\n\n[store]\npath = \"{}\"\n\n[dns]\nlisten = [\"{RESOLVER}:8600\"]\nservice_addresses = \"198.18.0.0/16\"\n\n{services}",
            state.display()
        );
        folder.write("weir.toml", &text);
        let child = spawn(space, &folder);
        let weir = Self { space: space.clone(), folder, child };
        weir.ready();
        weir
    }

    fn restart(&mut self) {
        self.child = spawn(&self.space, &self.folder);
        self.ready();
    }

    fn ready(&self) {
        let deadline = Instant::now() + SETTLED;
        while self.space.said("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9600/readyz"])
            != "200"
        {
            assert!(Instant::now() < deadline, "weir is not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        self.space.run(WEIR, &[&["--addr", "127.0.0.1:9600"], arguments].concat())
    }

    /// Waits until a service has so many usable endpoints.
    fn settled(&self, service: &str, replicas: usize) {
        let deadline = Instant::now() + SETTLED;
        loop {
            let listed = String::from_utf8(self.cli(&["ps", service, "-o", "json"]).stdout).unwrap();
            let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
            let ready =
                listed["instances"].as_array().map_or(0, |all| all.iter().filter(|i| i["state"] == "ready").count());
            if ready == replicas {
                return;
            }
            assert!(Instant::now() < deadline, "{service} does not settle:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn spawn(space: &Space, folder: &Folder) -> Running {
    let log = File::options().create(true).append(true).open(folder.0.join("log")).unwrap();
    space.start(WEIR, &["run", "--config", folder.0.join("weir.toml").to_str().unwrap()], log)
}

fn service(name: &str, port: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nreplicas = 2\ndns_ttl = \"0s\"\n\
         [service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\nstop_grace = \"2s\"\n\
         [service.rollout]\nmin_healthy = \"100ms\"\n[[service.port]]\nname = \"main\"\n{port}\n\n"
    )
}

/// Two services that declare the same port, and one that declares HTTP.
fn services() -> String {
    [service("db", "serve = 5432"), service("log", "serve = 5432"), service("web", "serve = 80\nprotocol = \"http\"")]
        .concat()
}

/// Asks on a new connection; returns the service that answers.
fn ask(address: SocketAddr) -> Result<String, String> {
    let mut stream =
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).map_err(|e| format!("write: {e}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("read: {e}"))?;
    let service = answer.lines().find_map(|line| line.strip_prefix("Service: "));
    match service {
        Some(service) if answer.starts_with("HTTP/1.1 200") => Ok(service.to_owned()),
        _ => Err(format!("answer {answer:?}")),
    }
}

/// Clients that resolve once and make a new connection for each request, while every replica is replaced so often.
fn replaced_under_load(deploys: usize) {
    let space = Space::new(&[RESOLVER]);
    let weir = Weir::start(&space, &services());
    let places = [space.neighbour(), space.clone()];
    assert!(space.routes().starts_with("local 198.18.0.0/16 dev lo"), "{}", space.routes());
    let names = [("db", 5432u16), ("log", 5432), ("web", 80)];
    for (name, _) in names {
        weir.settled(name, 2);
    }
    let addresses = names.map(|(name, _)| space.resolve(name));
    assert_eq!(names.map(|(name, _)| places[0].resolve(name)), addresses);
    assert!(addresses.iter().all(|address| address.starts_with("198.18.")), "{addresses:?}");
    let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
    assert_eq!(distinct.len(), 3, "{addresses:?}");
    assert_eq!(space.dig(&["db.weir.internal", "AAAA"]), "");
    let names_back = [0, 1, 2].map(|n: usize| space.dig(&["-x", &addresses[n]]));
    assert_eq!(names_back, names.map(|(name, _)| format!("{name}.default.weir.internal.")));
    let listed = String::from_utf8(weir.cli(&["services"]).stdout).unwrap();
    let row = listed.lines().find(|line| line.starts_with("web ")).unwrap_or_else(|| panic!("{listed}"));
    assert!(row.contains("main:80/tcp") && row.contains(&addresses[2]), "{listed}");
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = names
        .iter()
        .zip(&addresses)
        .zip(places.iter().cycle())
        .map(|(((name, port), address), space)| {
            let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
            let (space, stop, asked, name) = (space.clone(), stop.clone(), asked.clone(), (*name).to_owned());
            std::thread::spawn(move || {
                space.inside(move || {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        match ask(address) {
                            Ok(service) if service == name => {}
                            other => failed.push(format!("{name}: {other:?}")),
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
        })
        .collect();
    for round in 0..deploys {
        for (name, _) in names {
            let done = weir.cli(&["deploy", name, "--env", &format!("ROUND={round}"), "--wait"]);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    stop.store(true, Ordering::Relaxed);
    let failed: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let asked = asked.load(Ordering::Relaxed);
    println!("{} replacements of each service, {asked} new connections, {} failed", 2 * deploys, failed.len());
    assert!(failed.is_empty() && asked > 100, "{asked} asked; {failed:?}\n{}", weir.log());
    assert_eq!(names.map(|(name, _)| space.resolve(name)), addresses);
    drop(weir);
    assert_eq!(space.routes(), "", "removed on stop");
}

#[test]
fn who_resolves_once_reaches_a_service_through_every_replacement() {
    replaced_under_load(2);
}

#[test]
#[ignore = "long: 20 replacements of each of three services"]
fn who_resolves_once_reaches_a_service_through_20_replacements() {
    replaced_under_load(10);
}

#[test]
fn what_a_killed_weir_left_is_taken_up_and_services_have_the_same_addresses() {
    let space = Space::new(&[RESOLVER]);
    let mut weir = Weir::start(&space, &services());
    weir.settled("db", 2);
    let before = space.resolve("db");
    let children = Command::new("pgrep").args(["-P", &weir.child.0.id().to_string()]).output().unwrap();
    weir.child.signal("KILL");
    weir.child.0.wait().unwrap();
    // The process that serves carries on without its keeper: that one too.
    for pid in String::from_utf8(children.stdout).unwrap().lines() {
        assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    }
    assert!(space.routes().contains("198.18.0.0/16"), "left behind");
    weir.restart();
    weir.settled("db", 2);
    assert!(weir.log().contains("the route was there"), "{}", weir.log());
    assert_eq!((space.resolve("db"), before.starts_with("198.18.")), (before.clone(), true));
    let address = format!("{before}:5432").parse().unwrap();
    assert_eq!(space.inside(move || ask(address)).unwrap(), "db");
    weir.child.signal("TERM");
    weir.child.0.wait().unwrap();
    assert_eq!(space.routes(), "");
}

#[test]
fn a_service_that_comes_is_served_and_one_that_goes_is_not() {
    let space = Space::new(&[RESOLVER]);
    let weir = Weir::start(&space, &service("db", "serve = 5432"));
    weir.settled("db", 2);
    let more = weir.folder.write("more.toml", &service("cache", "serve = 6379"));
    let done = weir.cli(&["deploy", "-f", more.to_str().unwrap(), "--wait"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    weir.settled("cache", 2);
    let address: SocketAddr = format!("{}:6379", space.resolve("cache")).parse().unwrap();
    let deadline = Instant::now() + SETTLED;
    while space.inside(move || ask(address)) != Ok("cache".to_owned()) {
        assert!(Instant::now() < deadline, "{}", weir.log());
    }
    assert!(weir.cli(&["remove", "cache"]).status.success());
    while space.inside(move || TcpStream::connect(address)).is_ok() {
        assert!(Instant::now() < deadline, "{}", weir.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_the_right_to_route_or_beside_anothers_route_weir_says_so() {
    let space = Space::new(&[RESOLVER]);
    let folder = Folder::new("no-route");
    let text = format!(
        "[store]\npath = \"{}\"\n\n[dns]\nservice_addresses = \"198.18.0.0/16\"\n",
        folder.0.join("state").display()
    );
    let file = folder.write("weir.toml", &text);
    let run = ["run", "--no-keeper", "--config", file.to_str().unwrap()];
    let bare = space.run("setpriv", &[&["--bounding-set=-net_admin", WEIR], &run[..]].concat());
    let said = String::from_utf8_lossy(&bare.stderr).into_owned();
    assert!(!bare.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");
    space.said("ip", &["route", "add", "local", "198.18.0.0/16", "dev", "lo"]);
    let taken = space.run(WEIR, &run);
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(!taken.status.success() && said.contains("is routed by something else"), "{said}");
    assert!(space.routes().contains("198.18.0.0/16"), "it is not ours");
}
