//! Transparent capture, each test in a network namespace of its own: needs root, `ip`, `nft` and `iptables`.

use crate::WAIT;
use crate::space::{Running, Space, pair, until, weir_file};
use crate::support::process::{Folder, WEIR};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const LISTENER: &str = "[log]
access = true

[[listener]]
name = \"out\"
address = \":15001\"
protocol = \"tcp\"

[listener.capture]
allow = [\"10.77.0.8/32\", \"fd77::8/128\"]

";

const SERVICES: &str = "[[service]]
name = \"db\"
policy = \"round-robin\"
drain_timeout = \"1s\"
[[service.endpoint]]
address = \"10.77.0.3:5432\"
[[service.endpoint]]
address = \"10.77.0.4:5432\"

[[service]]
name = \"site\"
policy = \"round-robin\"
[[service.port]]
name = \"http\"
protocol = \"http\"
[[service.endpoint]]
address = \"10.77.0.5:80\"
[[service.endpoint]]
address = \"10.77.0.6:80\"

[[service]]
name = \"six\"
[[service.endpoint]]
address = \"[fd77::3]:5432\"
";

pub(crate) struct World {
    pub(crate) space: Space,
    folder: Folder,
    _running: Vec<Running>,
}

impl World {
    /// Weir as a sidecar that captures, and servers at many addresses.
    pub(crate) fn start(name: &str) -> Self {
        let own: Vec<String> = (1..=9).map(|n| format!("10.77.0.{n}/32")).collect();
        let own6: Vec<String> = (1..=9).map(|n| format!("fd77::{n}/128")).collect();
        let all: Vec<&str> = own.iter().chain(&own6).map(String::as_str).collect();
        let space = Space::new(&all);
        let folder = Folder::new(name);
        let mut running: Vec<Running> = [
            "10.77.0.3:5432",
            "10.77.0.4:5432",
            "10.77.0.5:80",
            "10.77.0.6:80",
            "10.77.0.8:80",
            "10.77.0.9:80",
            "[fd77::3]:5432",
            "[fd77::8]:80",
        ]
        .iter()
        .map(|address| space.whoami(&folder, address))
        .collect();
        running.push(space.weir(&folder, &format!("{LISTENER}{SERVICES}")));
        let world = Self { space, folder, _running: running };
        world.until("endpoints are ready", || {
            world.space.said(WEIR, &["--addr", "127.0.0.1:9600", "endpoints", "db"]).matches("10.77.0.").count() >= 2
        });
        world
    }

    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        until(&self.folder, what, condition);
    }

    fn admin(&self, path: &str) -> String {
        self.space.admin(path)
    }

    fn refused(&self, reason: &str) -> bool {
        is_refused(&self.space, reason)
    }
}

fn is_refused(space: &Space, reason: &str) -> bool {
    let line = format!("weir_refused_total{{reason=\"{reason}\"}} ");
    space.admin("/metrics").lines().any(|l| l.strip_prefix(&line).is_some_and(|count| count != "0"))
}

/// Whether the log says why a connection was closed.
fn is_told(folder: &Folder, reason: &str) -> bool {
    log_of(folder).lines().any(|line| line.contains("connection closed") && line.contains(reason))
}

fn log_of(folder: &Folder) -> String {
    std::fs::read_to_string(folder.0.join("log")).unwrap_or_default()
}

/// The server that answered, as whoami says.
fn server(said: &str) -> &str {
    said.lines().find_map(|line| line.strip_prefix("Instance: ")).unwrap_or(said)
}

fn capture_with(backend: &str) {
    let world = World::start(&format!("capture-{backend}"));
    let space = &world.space;
    assert_eq!(server(&space.ask("http://10.77.0.3:5432/")), "10.77.0.3:5432", "nothing is captured yet");
    space.captured(backend, &["--user", "0"], || outbound(&world));
    assert_eq!(server(&space.ask("http://10.77.0.9:80/")), "10.77.0.9:80");
}

fn outbound(world: &World) {
    let space = &world.space;
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
    for (reason, url) in [("capture_denied", "http://10.77.0.9:80/"), ("capture_loop", "http://10.77.0.1:15001/")] {
        // Of those of one second one is told.
        world.until(reason, || space.ask(url).is_empty() && is_told(&world.folder, reason));
    }
    // The log says which way each went.
    for (service, endpoint) in [("db", "10.77.0.3:5432"), ("six", "[fd77::3]:5432"), ("(original)", "10.77.0.8:80")] {
        let told = [format!("\"service\":\"{service}\""), format!("\"endpoint\":\"{endpoint}\"")];
        let is_told = |line: &str| line.contains("\"TCP\"") && told.iter().all(|word| line.contains(word));
        world.until(service, || log_of(&world.folder).lines().any(is_told));
    }
    let metrics = world.admin("/metrics");
    assert!(metrics.contains("weir_streams_total{service=\"(original)\"} 2\n"), "{metrics}");
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
        // A request that comes back is answered by whom it went to: nobody.
        let said = world.space.ask("http://10.77.0.5:80/");
        assert!(!said.contains("Instance: "), "{said}");
    }
    world.until("a loop", || world.refused("capture_loop"));
    assert!(world.admin("/readyz").ends_with("200"));
    let open = world.admin("/metrics");
    let open = open.lines().find_map(|line| line.strip_prefix("weir_connections_total ")).unwrap().to_owned();
    assert!(open.parse::<u64>().unwrap() < 60, "{open} connections");
}

/// A client and a server with Weir on the way between them: what is routed through is taken as it is, and the server sees the
/// client's own address.
fn through_with(backend: &str) {
    let (client, weir, behind) = (Space::new(&[]), Space::new(&[]), Space::new(&[]));
    pair((&weir, "side1"), &client, ("10.78.1", "fd78:1"));
    pair((&weir, "side2"), &behind, ("10.78.2", "fd78:2"));
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    // /proc shows the settings of the namespace of who opens them.
    assert!(weir.run("sh", &["-c", script]).status.success());
    let folder = Folder::new(&format!("through-{backend}"));
    let _servers = ["10.78.2.2:80", "10.78.2.2:81", "[fd78:2::2]:80"].map(|address| behind.whoami(&folder, address));
    let _weir = weir.weir(
        &folder,
        "[[listener]]\nname = \"through\"\naddress = \":15002\"\nprotocol = \"tcp\"\n
[listener.capture]\nmode = \"tproxy\"\nto = \"original\"\nunknown = \"allow\"\nkeep_source = true\n",
    );
    weir.captured(backend, &["--user", "0", "--through", "15002"], || {
        for (to, source) in [
            ("10.78.2.2:80", "Remote: 10.78.1.2:"),
            ("10.78.2.2:81", "Remote: 10.78.1.2:"),
            ("[fd78:2::2]:80", "Remote: [fd78:1::2]:"),
        ] {
            let said = client.ask(&format!("http://{to}/"));
            assert!(server(&said) == to && said.contains(source), "{backend} {to}: {said:?}\n{}", log_of(&folder));
        }
        assert!(weir.admin("/metrics").contains("weir_streams_total{service=\"(original)\"} 3\n"), "not through Weir");
    });
}

#[test]
fn what_is_routed_through_keeps_its_destination_and_its_source_by_nftables() {
    through_with("nft");
}

#[test]
fn what_is_routed_through_keeps_its_destination_and_its_source_by_iptables() {
    through_with("iptables");
}

/// A client and a workload that Weir stands beside, in the same namespace: what comes for the workload goes through Weir; by
/// TPROXY the workload sees its client, by REDIRECT its own address.
fn coming_with(backend: &str, mode: &str) {
    let (client, beside) = (Space::new(&[]), Space::new(&[]));
    pair((&beside, "side"), &client, ("10.79.1", "fd79:1"));
    let folder = Folder::new(&format!("coming-{backend}-{mode}"));
    let _servers = ["10.79.1.1:80", "[fd79:1::1]:80", "10.79.1.1:81"].map(|address| beside.whoami(&folder, address));
    let _other = ["10.79.1.2:80", "[fd79:1::2]:80"].map(|address| client.whoami(&folder, address));
    let kept = mode == "tproxy";
    let _weir = beside.weir(
        &folder,
        &format!(
            "[[listener]]\nname = \"in\"\naddress = \":15006\"\nprotocol = \"tcp\"\n
[listener.capture]\nmode = \"{mode}\"\nto = \"original\"\nunknown = \"allow\"\nkeep_source = {kept}\n"
        ),
    );
    let of = |ours: &str, theirs: &str| format!("Remote: {}:", if kept { theirs } else { ours });
    let each = [("10.79.1.1:80", of("10.79.1.1", "10.79.1.2")), ("[fd79:1::1]:80", of("[fd79:1::1]", "[fd79:1::2]"))];
    let words = ["--user", "0", "--inbound", "15006", "--inbound-mode", mode, "--exclude", "81"];
    beside.captured(backend, &words, || {
        for (to, source) in each.iter().cycle().take(10) {
            let said = client.ask(&format!("http://{to}/"));
            let right = server(&said) == *to && said.contains(source);
            assert!(right, "{to}: {said:?} from {source}\n{}\n{}", beside.ruleset(), log_of(&folder));
        }
        let streams = "weir_streams_total{service=\"(original)\"} 10\n";
        assert!(beside.admin("/metrics").contains(streams), "not through Weir");
        // What is left out does not go through Weir, nor what the workload sends.
        assert!(client.ask("http://10.79.1.1:81/").contains("Remote: 10.79.1.2:"));
        assert!(beside.ask("http://10.79.1.2/").contains("Remote: 10.79.1.1:"));
        assert!(beside.ask("http://[fd79:1::2]/").contains("Remote: [fd79:1::1]:"));
        assert!(beside.ask("http://10.79.1.1/").contains("Remote: 10.79.1.1:"), "to itself");
        assert!(beside.admin("/metrics").contains(streams), "through Weir");
        if !kept {
            // A client of another machine may have the port that Weir has just taken for the same destination.
            let said = client.ask("http://10.79.1.1/");
            let port = said.lines().find_map(|line| line.strip_prefix("Remote: 10.79.1.1:")).unwrap();
            let words = ["-s", "--noproxy", "*", "--max-time", "5", "--local-port", port, "http://10.79.1.1/"];
            let said = client.said("curl", &words);
            assert!(said.contains("Remote: 10.79.1.1:"), "from port {port}: {said:?}\n{}", log_of(&folder));
        }
        // Straight to the listener.
        assert_eq!(client.ask("http://10.79.1.1:15006/"), "");
        until(&folder, "a loop", || is_refused(&beside, "capture_loop"));
    });
    assert!(client.ask("http://10.79.1.1/").contains("Remote: 10.79.1.2:"));
}

#[test]
fn what_comes_to_a_workload_is_redirected_by_nftables() {
    coming_with("nft", "redirect");
}

#[test]
fn what_comes_to_a_workload_is_redirected_by_iptables() {
    coming_with("iptables", "redirect");
}

#[test]
fn what_comes_to_a_workload_keeps_its_source_by_nftables() {
    coming_with("nft", "tproxy");
}

#[test]
fn what_comes_to_a_workload_keeps_its_source_by_iptables() {
    coming_with("iptables", "tproxy");
}

/// Reads; a process that is stopped and continued interrupts that.
fn read(stream: &mut TcpStream, octets: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(octets) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Sends a request on a connection that is kept, and reads the head of its answer.
fn exchange(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    let mut octets = [0; 4096];
    while !answer.contains("Instance: ") {
        let read = read(stream, &mut octets).unwrap();
        assert!(read > 0, "{answer:?}");
        answer.push_str(&String::from_utf8_lossy(&octets[..read]));
    }
    answer
}

#[test]
fn captured_connections_end_when_their_service_is_removed() {
    let world = World::start("capture-removed");
    world.space.rules(&["install", "--user", "0"]);
    let connect = |to| {
        let stream = world.space.connect(to);
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    };
    let (mut idle, mut busy, mut raw) = (connect("10.77.0.5:80"), connect("10.77.0.5:80"), connect("10.77.0.3:5432"));
    for stream in [&mut idle, &mut busy, &mut raw] {
        exchange(stream, "/");
    }
    let answer = std::thread::spawn(move || (exchange(&mut busy, "/delay/3000"), read(&mut busy, &mut [0; 1])));
    world.until("a request is in flight", || world.admin("/v1/endpoints?service=site").contains("\"in_flight\":1"));
    let begun = Instant::now();
    weir_file(&world.folder, LISTENER);
    let reloaded = world.space.run(WEIR, &["--addr", "127.0.0.1:9600", "reload"]);
    assert!(reloaded.status.success(), "{reloaded:?}");
    // What is open to a service that is gone ends: orderly where HTTP is spoken, by its drain time else.
    assert_eq!(read(&mut idle, &mut [0; 1]).unwrap(), 0);
    assert!(read(&mut raw, &mut [0; 1]).is_err(), "a reset");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (answer, end) = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && end.is_ok_and(|read| read == 0), "{answer}");
}
