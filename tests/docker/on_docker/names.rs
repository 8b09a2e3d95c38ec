//! Containers and names: on the default network and on one that was made, with the resolvers of musl and of glibc, they find
//! each other by short names through Weir, and others through whom Weir asks; also while Weir does not answer.

use crate::engine::{Engine, IMAGE};
use crate::support::process::{Folder, WEIR, Weir, free_address, weir as weir_cli};
use crate::world::SETTLED;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// `/ask NAME` prints the addresses of a name, of both families, by getaddrinfo(3); `/ask NAME PORT` gets `/` there and prints
/// the service that answered; `/ask NAME PORT hold` gets it twice on one connection, the second time when a line comes on
/// standard input; `/ask NAME PORT loop` on new connections until then, and prints how many others than the first answered.
const PROGRAM: &str = r#"
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static const char *get(int fd) {
    static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    static char answer[4096];
    if (write(fd, request, sizeof request - 1) < 0) return "cut";
    ssize_t n = read(fd, answer, sizeof answer - 1);
    if (n <= 0) return "cut";
    answer[n] = 0;
    char *line = strstr(answer, "Service: ");
    if (!line) return "none";
    line[strcspn(line, "\r\n")] = 0;
    return line;
}
static int dial(struct addrinfo *to) {
    int fd = socket(to->ai_family, SOCK_STREAM, 0);
    if (connect(fd, to->ai_addr, to->ai_addrlen)) { perror("connect"); close(fd); return -1; }
    return fd;
}
static int loop(struct addrinfo *to, const char *first) {
    struct pollfd line = { 0, POLLIN, 0 };
    int asked = 0, failed = 0;
    while (poll(&line, 1, 5) == 0) {
        int fd = dial(to);
        asked++;
        failed += fd < 0 || strcmp(get(fd), first);
        if (fd >= 0) close(fd);
    }
    printf("%d asked, %d failed\n", asked, failed);
    return failed > 0;
}
int main(int count, char **words) {
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM }, *found;
    int error = getaddrinfo(words[1], count > 2 ? words[2] : 0, &hints, &found);
    if (error) { printf("%s: %s\n", words[1], gai_strerror(error)); return 1; }
    if (count < 3) {
        for (; found; found = found->ai_next) {
            char text[64];
            getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
            printf("%s\n", text);
        }
        return 0;
    }
    int fd = dial(found);
    if (fd < 0) return 1;
    char first[64];
    snprintf(first, sizeof first, "%s", get(fd));
    puts(first);
    fflush(stdout);
    if (count > 3 && !strcmp(words[3], "loop")) return loop(found, first);
    if (count > 3) { getchar(); puts(get(fd)); }
    return 0;
}
"#;

/// The second resolver: an address of this machine for the time of the test (RFC 5737).
const SECOND: &str = "203.0.113.53";
/// What the outside world answers, by whom it is asked.
const THROUGH_WEIR: [u8; 4] = [192, 0, 2, 7];
const BY_SECOND: [u8; 4] = [192, 0, 2, 8];

/// Makes an image FROM nothing with the program, linked to one library.
fn import(engine: &Engine, name: &str, musl: bool) {
    let root = engine.folder().join(name);
    fs::create_dir_all(root.join("etc")).unwrap();
    let (compiler, more): (_, &[&str]) = if musl { ("musl-gcc", &["-static"]) } else { ("cc", &[]) };
    let mut cc = Command::new(compiler);
    cc.args(more).args(["-O1", "-x", "c", "-", "-o"]).arg(root.join("ask")).stdin(Stdio::piped());
    let mut cc = cc.spawn().unwrap_or_else(|error| panic!("{compiler}: {error}; tests/run installs it"));
    cc.stdin.take().unwrap().write_all(PROGRAM.as_bytes()).unwrap();
    assert!(cc.wait().unwrap().success());
    if !musl {
        fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
        let listed = Command::new("ldd").arg(root.join("ask")).output().unwrap();
        for path in String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
            let place = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(path, place).unwrap();
        }
    }
    let mut tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).stdout(Stdio::piped()).spawn().unwrap();
    let mut import = Command::new("docker");
    import.args(["--host", &engine.host(), "import", "-c", "ENTRYPOINT [\"/ask\"]", "-", &format!("{name}:1")]);
    let import = import.stdin(tar.stdout.take().unwrap()).output().unwrap();
    assert!(tar.wait().unwrap().success());
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
}

/// A resolver that answers every question for an address with one of its own; it ends with the test's process.
fn resolver(at: &str, answer: [u8; 4]) -> SocketAddr {
    let socket = UdpSocket::bind(at).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut message = [0u8; 512];
        while let Ok((octets, peer)) = socket.recv_from(&mut message) {
            // The question ends behind its name, type and class; what follows (EDNS) is left out.
            let Some(name) = message[12..octets].iter().position(|octet| *octet == 0) else { continue };
            let end = 12 + name + 5;
            let is_a = message[end - 4..end - 2] == [0, 1];
            // Names of Weir's zone, and short ones, are none of its business: REFUSED.
            let is_foreign = message[12..end].windows(7).any(|part| part.eq_ignore_ascii_case(b"example"));
            let (code, answers) = if is_foreign { (0, u8::from(is_a)) } else { (5, 0) };
            let mut reply = message[..end].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80 | code]);
            reply[4..12].copy_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
            if answers == 1 {
                reply.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                reply.extend(answer);
            }
            let _ = socket.send_to(&reply, peer);
        }
    });
    address
}

/// An address of this machine that goes with this.
struct Address(&'static str);

impl Address {
    fn add(text: &'static str) -> Self {
        let _ = Command::new("ip").args(["addr", "add", &format!("{text}/32"), "dev", "lo"]).status();
        Self(text)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["addr", "del", &format!("{}/32", self.0), "dev", "lo"]).status();
    }
}

/// A container's place: its network and the gateway of that.
struct Place {
    network: &'static str,
    gateway: String,
}

/// Runs the program in a container; returns what it printed.
fn ask(engine: &Engine, image: &str, place: &Place, words: &[&str]) -> String {
    let names = ["--dns", &place.gateway, "--dns", SECOND, "--dns-search", "weir.internal", "--dns-option", "ndots:1"];
    let run = ["run", "--rm", "--network", place.network];
    let said = engine.try_docker(&[&run[..], &names, &[image], words].concat()).1;
    // The engine was told not to forward, and warns of that.
    said.lines().filter(|line| !line.starts_with("WARNING")).collect::<Vec<_>>().join("\n")
}

/// Returns the place of a container on a network.
fn place(engine: &Engine, network: &'static str) -> Place {
    let gateway = engine.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network]);
    Place { network, gateway }
}

/// Waits until Weir answers at the gateway of a place: it follows the engine's networks by itself.
async fn listens(weir: &Weir, place: &Place) {
    crate::world::logged(weir, &format!("answering DNS for containers address={}:53", place.gateway)).await;
}

/// The program in a container, which goes on until it is told.
struct Client {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Client {
    /// Starts the program, which asks Weir alone, and waits for its first line.
    fn start(engine: &Engine, image: &str, place: &Place, words: &[&str]) -> Self {
        let mut docker = Command::new("docker");
        docker.args([
            "--host",
            &engine.host(),
            "run",
            "--rm",
            "-i",
            "--network",
            place.network,
            "--dns",
            &place.gateway,
        ]);
        docker.args(["--dns-search", "weir.internal", "--dns-option", "ndots:1", image]).args(words);
        let mut child = docker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut client = Self { lines: BufReader::new(child.stdout.take().unwrap()), child };
        assert_eq!(client.line(), format!("Service: {}", words[0]));
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Tells it to end; returns its last line.
    fn end(mut self) -> String {
        self.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let last = self.line();
        assert!(self.child.wait().unwrap().success(), "{last}");
        last
    }
}

/// A service of two containers that is served at a number, by TCP or as `more` says.
fn service(name: &str, number: u16, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nreplicas = 2\n[service.run]\nimage = \"{IMAGE}\"\nstop_grace = \"1s\"\n\
         [service.rollout]\nmin_healthy = \"100ms\"\n[[service.port]]\nname = \"main\"\nserve = {number}\n{more}\n"
    )
}

fn web() -> String {
    service("web", 80, "protocol = \"http\"")
}

async fn start(engine: &Engine, upstream: SocketAddr, services: &str) -> Weir {
    let folder = Folder::new("names");
    let (http, dns, admin) = (free_address(), free_address(), free_address());
    let text = format!(
        "[node]\nworkloads_on_exit = \"stop\"\n[store]\npath = \"{}\"\n[admin]\nlisten = \"{admin}\"\n\
         [dns]\nlisten = [\"{dns}\", \"containers:53\"]\nservice_addresses = \"{}\"\n\
         [dns.forward]\nservers = [\"{upstream}\"]\n\
         [docker]\nhost = \"{}\"\nnetwork = \"weir-test\"\ncall_timeout = \"5s\"\ndns = [\"{SECOND}\"]\n\n\
         {services}",
        folder.0.join("state").display(),
        engine.service_addresses(),
        engine.host(),
    );
    let file = folder.write("weir.toml", &text);
    let log = fs::File::create(folder.0.join("log")).unwrap();
    let mut command = tokio::process::Command::new(WEIR);
    command.arg("run").arg("--config").arg(&file).stdin(Stdio::null());
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true).spawn().unwrap();
    let mut weir = Weir { child, http, dns, admin, folder };
    weir.ready().await;
    weir.settled("web", 2, SETTLED).await;
    weir
}

fn signal(pids: &[u32], name: &str) {
    for pid in pids {
        assert!(*pid > 1);
        let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn containers_find_each_other_and_the_world_by_short_names() {
    let engine = Engine::bridged();
    for (name, musl) in [("ask-musl", true), ("ask-glibc", false)] {
        import(&engine, name, musl);
    }
    let _second = Address::add(SECOND);
    resolver(&format!("{SECOND}:53"), BY_SECOND);
    let weir = start(&engine, resolver("127.0.0.1:0", THROUGH_WEIR), &web()).await;
    let places = ["bridge", "weir-test"].map(|network| place(&engine, network));
    for place in &places {
        listens(&weir, place).await;
    }
    let [through, second] = [THROUGH_WEIR, BY_SECOND].map(|octets| IpAddr::from(octets).to_string());
    for image in ["ask-musl:1", "ask-glibc:1"] {
        for place in &places {
            let of = |words: &[&str]| ask(&engine, image, place, words);
            assert_eq!(of(&["web", "80"]), "Service: web", "{image} on {}\n{}", place.network, weir.log());
            assert!(of(&["web"]).starts_with("198.19."), "{image} on {}", place.network);
            // musl asks both resolvers at once, so either may have answered.
            let world = of(&["www.example.test"]);
            assert!(
                world == through || (world == second && image == "ask-musl:1"),
                "{image} on {}: {world}",
                place.network
            );
        }
    }
    // What Weir itself starts is told whom to ask.
    let web = weir.instances().await[0]["container"].as_str().unwrap().to_owned();
    let told = engine.inspect(&web, "{{.HostConfig.Dns}} {{.HostConfig.DnsSearch}} {{.HostConfig.DnsOptions}}");
    let gateway = &places[1].gateway;
    assert_eq!(told, format!("[{gateway} {SECOND}] [default.weir.internal weir.internal] [ndots:1]"));
    examined(&engine, &web, &places[0]).await;
    stopped(&engine, &weir, &places, &second);
}

/// What `weir doctor dns` says of containers: of one that Weir runs, also about a name that the engine answers, and of one
/// with two resolvers.
async fn examined(engine: &Engine, web: &str, place: &Place) {
    let host = engine.host();
    engine.docker(&["run", "-d", "--network", "weir-test", "--name", "db", IMAGE]);
    let names = ["--dns", &place.gateway, "--dns", SECOND, "--dns-search", "weir.internal"];
    let run = ["run", "-d", "-i", "--name", "two", "--network", place.network];
    engine.docker(&[&run[..], &names, &["ask-musl:1", "web", "80", "hold"]].concat());
    for (container, name, advice) in [
        (web, "web", "- Weir answers\n"),
        (web, "db", "db is answered by Docker's own resolver, with a TTL of 600 s"),
        ("two", "web", "musl asks all at once"),
    ] {
        let found = weir_cli(&["doctor", "dns", container, name, "--docker", &host]).await;
        assert!(found.code == 0 && found.out.contains(advice), "{container} {name}: {found:?}");
        let row = found.out.lines().any(|row| row.starts_with("web.weir.internal ") && row.contains("198.19."));
        assert!(row || name == "db", "{found:?}");
    }
    engine.docker(&["rm", "-f", "db", "two"]);
}

/// While Weir is stopped, names of the world come from the second resolver, and connections through it wait.
fn stopped(engine: &Engine, weir: &Weir, places: &[Place; 2], second: &str) {
    let held = Client::start(engine, "ask-musl:1", &places[1], &["web", "80", "hold"]);
    let pids = [weir.pid(), weir.serving()];
    signal(&pids, "STOP");
    let begun = std::time::Instant::now();
    let web = engine.docker(&["ps", "-q", "--filter", "label=weir.service"]);
    let mut doctor = Command::new(WEIR);
    doctor.args(["doctor", "dns", web.lines().next().unwrap(), "web.weir.internal.", "--docker", &engine.host()]);
    let doctor = doctor.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let asked: Vec<(String, String)> = std::thread::scope(|scope| {
        let each = ["ask-musl:1", "ask-glibc:1"].into_iter().flat_map(|image| places.iter().map(move |at| (image, at)));
        let threads: Vec<_> = each
            .map(|(image, place)| {
                let asking = move || ask(engine, image, place, &["other.example.test"]);
                (format!("{image} on {}", place.network), scope.spawn(asking))
            })
            .collect();
        threads.into_iter().map(|(what, thread)| (what, thread.join().unwrap())).collect()
    });
    println!("resolved by the second resolver in {:?}", begun.elapsed());
    let doctor = String::from_utf8(doctor.wait_with_output().unwrap().stdout).unwrap();
    std::thread::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed()));
    signal(&pids, "CONT");
    assert!(doctor.contains("does not answer in 2s: see whether Weir runs"), "{doctor}");
    for (what, address) in asked {
        assert_eq!(address, second, "{what}");
    }
    assert_eq!(held.end(), "Service: web", "a connection through Weir broke");
}

/// Clients in containers that resolve once and make a new connection for each request, while every replica is replaced.
async fn replaced_under_load(deploys: usize) {
    let engine = Engine::bridged();
    for (name, musl) in [("ask-musl", true), ("ask-glibc", false)] {
        import(&engine, name, musl);
    }
    let services = [service("db", 5432, ""), service("log", 5432, ""), web()].concat();
    let weir = start(&engine, resolver("127.0.0.1:0", THROUGH_WEIR), &services).await;
    let names = ["db", "log", "web"];
    for name in names {
        weir.settled(name, 2, SETTLED).await;
    }
    let [bridge, own] = ["bridge", "weir-test"].map(|network| place(&engine, network));
    for place in [&bridge, &own] {
        listens(&weir, place).await;
    }
    let clients = [
        ("db", "5432", "ask-musl:1", &own),
        ("log", "5432", "ask-glibc:1", &bridge),
        ("web", "80", "ask-musl:1", &bridge),
    ];
    let clients = clients.map(|(name, port, image, place)| Client::start(&engine, image, place, &[name, port, "loop"]));
    for round in 0..deploys {
        for name in names {
            let done = weir.cli(&["deploy", name, "--env", &format!("ROUND={round}"), "--wait"]).await;
            assert_eq!(done.code, 0, "{done:?}\n{}", weir.log());
        }
    }
    let said = clients.map(Client::end);
    println!("{} replacements of each of {names:?}: {said:?}", 2 * deploys);
    assert!(
        said.iter().all(|said| said.ends_with("asked, 0 failed") && !said.starts_with("0 ")),
        "{said:?}\n{}",
        weir.log()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn containers_that_resolve_once_reach_services_through_every_replacement() {
    replaced_under_load(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "long: 20 replacements of each of three services of containers; run by tests/run --long"]
async fn containers_that_resolve_once_reach_services_through_20_replacements() {
    replaced_under_load(10).await;
}

/// Networks that come are listened on, and those that go are not any more; who holds the port is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_followed_and_who_holds_the_port_is_named() {
    let engine = Engine::start();
    let weir = start(&engine, resolver("127.0.0.1:0", THROUGH_WEIR), &web()).await;
    engine.docker(&["network", "create", "--subnet", "172.30.77.0/24", "later"]);
    crate::world::logged(&weir, "answering DNS for containers address=172.30.77.1:53").await;
    let both = ["--ipv6", "--subnet", "172.30.76.0/24", "--subnet", "fd00:76::/64", "six"];
    engine.docker(&[&["network", "create"], &both[..]].concat());
    crate::world::logged(&weir, "answering DNS for containers address=[fd00:76::1]:53").await;
    import(&engine, "ask-musl", true);
    let six = Place { network: "six", gateway: "fd00:76::1".to_owned() };
    let found = ask(&engine, "ask-musl:1", &six, &["web"]);
    assert!(found.starts_with("198.19."), "{found}");
    engine.docker(&["network", "rm", "later"]);
    crate::world::logged(&weir, "containers ask here no more address=172.30.77.1:53").await;
    let own = fs::read_to_string("/proc/self/comm").unwrap();
    // Somebody takes the port before the network comes again.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_freebind_v4(true).unwrap();
    socket.bind(&"172.30.79.1:53".parse::<SocketAddr>().unwrap().into()).unwrap();
    engine.docker(&["network", "create", "--subnet", "172.30.79.0/24", "taken"]);
    crate::world::logged(
        &weir,
        &format!("containers cannot ask at 172.30.79.1: listen on 172.30.79.1:53, which {}", own.trim()),
    )
    .await;
    drop(socket);
    crate::world::logged(&weir, "answering DNS for containers address=172.30.79.1:53").await;
}
