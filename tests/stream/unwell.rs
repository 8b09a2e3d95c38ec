//! Flows while this machine is short of something, or has no way to an endpoint: nobody loses more than what was the matter with.

use crate::datagram::{ask, client, echo};
use crate::space::{Space, until, weir_file};
use crate::support::process::{Folder, WEIR, Weir, free_address, kill};
use crate::support::{http, within};
use crate::{WAIT, metric, refused};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const GAME: &str =
    "[[listener]]\nname = \"game\"\naddress = \"10.77.0.1:7000\"\nprotocol = \"udp\"\nservice = \"game\"\n
[[service]]\nname = \"game\"\n[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n";

/// A Weir in a namespace before servers of datagrams at these addresses, which say who they are.
fn world(name: &str, endpoints: &[&str], unreachable: &[&str]) -> (Space, Folder, Vec<crate::space::Running>) {
    let own: Vec<String> = (1..=9).map(|n| format!("10.77.0.{n}/32")).collect();
    let space = Space::new(&own.iter().map(String::as_str).collect::<Vec<_>>());
    let folder = Folder::new(name);
    let log = || std::fs::File::create(folder.0.join("whoami")).unwrap();
    let mut running: Vec<_> = endpoints
        .iter()
        .map(|address| {
            let instance = format!("WEIR_INSTANCE={address}");
            space.start("env", &[&instance, WEIR, "whoami", "--listen", "127.0.0.1:0", "--udp", address], log())
        })
        .collect();
    let all = endpoints.iter().chain(unreachable);
    let text: String = all.map(|address| format!("[[service.endpoint]]\naddress = \"{address}\"\n")).collect();
    weir_file(&folder, GAME);
    running.push(space.weir(&folder, &format!("{GAME}{text}")));
    for address in endpoints {
        until(&folder, "a server is there", || exchange(&space, None, address, b"there?").is_some());
    }
    (space, folder, running)
}

/// Sends a datagram from a port, or any, and returns what comes back within a moment.
fn exchange(space: &Space, socket: Option<&UdpSocket>, to: &str, text: &[u8]) -> Option<String> {
    let own;
    let socket = match socket {
        Some(socket) => socket,
        None => {
            own = socket_in(space);
            &own
        }
    };
    socket.send_to(text, to).unwrap();
    let mut octets = [0; 256];
    let length = socket.recv(&mut octets).ok()?;
    Some(String::from_utf8_lossy(&octets[..length]).into_owned())
}

fn socket_in(space: &Space) -> UdpSocket {
    let socket = space.inside(|| UdpSocket::bind("10.77.0.1:0").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

fn counted(space: &Space, line: &str) -> u64 {
    let metrics = space.admin("/metrics");
    metrics.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

#[test]
fn what_this_machine_drops_ejects_no_endpoint_and_moves_no_flow() {
    let (space, _folder, _running) = world("unwell-drop", &["10.77.0.3:7001", "10.77.0.4:7001"], &[]);
    let clients: Vec<(UdpSocket, String)> = (0..16)
        .map(|_| {
            let socket = socket_in(&space);
            let said = exchange(&space, Some(&socket), "10.77.0.1:7000", b"one").expect("an answer");
            (socket, said)
        })
        .collect();
    let of = |name: &str| clients.iter().filter(|(_, said)| said.starts_with(name)).count();
    assert!(of("10.77.0.3") > 0 && of("10.77.0.4") > 0);
    // As a table of connections that is full does: what is dropped on its way out is an error of the send.
    let rules = "nft 'add table inet full; add chain inet full out { type filter hook output priority 0; }; \
                 add rule inet full out udp dport 7001 udp length 12 drop'";
    assert!(space.run("sh", &["-c", rules]).status.success());
    for (socket, _) in &clients {
        socket.send_to(b"lost", "10.77.0.1:7000").unwrap();
    }
    let lost = "weir_refused_total{reason=\"udp_send\"}";
    until(&_folder, "all are lost", || counted(&space, lost) == 16);
    for (socket, before) in &clients {
        let said = exchange(&space, Some(socket), "10.77.0.1:7000", b"one").expect("an answer");
        assert_eq!(said, *before);
    }
    assert_eq!(counted(&space, "weir_ejections_total{service=\"game\"}"), 0);
    assert_eq!(counted(&space, "weir_streams_total{service=\"game\"}"), 16, "the same flows");
}

#[test]
fn an_endpoint_without_a_way_to_it_costs_no_datagram() {
    // Nothing routes there.
    let (space, folder, _running) = world("unwell-way", &["10.77.0.3:7001"], &["192.0.2.1:7001"]);
    for _ in 0..16 {
        let said = exchange(&space, None, "10.77.0.1:7000", b"one");
        let log = std::fs::read_to_string(folder.0.join("log")).unwrap_or_default();
        assert!(said.is_some_and(|said| said.starts_with("10.77.0.3")), "{log}");
    }
}

#[tokio::test]
async fn a_flood_of_datagrams_leaves_descriptors_for_everybody_else() {
    let server = echo(b'x').await;
    let web = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let behind = web.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = web.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let (udp, tcp) = (free_address(), free_address());
    let text = format!(
        "[[listener]]\nname = \"game\"\naddress = \"0.0.0.0:{}\"\nprotocol = \"udp\"\nservice = \"game\"\n
[[listener]]\nname = \"echo\"\naddress = \"{tcp}\"\nprotocol = \"tcp\"\nservice = \"echo\"\n
[[service]]\nname = \"game\"\n[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n
[[service.endpoint]]\naddress = \"{}\"\n
[[service]]\nname = \"echo\"\n[[service.endpoint]]\naddress = \"{behind}\"\n",
        udp.port(),
        server.0
    );
    let weir = Weir::start_poor("unwell-flood", 512, &text).await;
    weir.settled("game", 1, WAIT).await;
    weir.settled("echo", 1, WAIT).await;
    for source in 0..2000u32 {
        let ip = Ipv4Addr::from(0x7F02_0000 + source);
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.send_to(b"spoofed", SocketAddr::from(([127, 0, 0, 1], udp.port()))).unwrap();
        if source % 200 == 199 {
            let served = async {
                let mut stream = TcpStream::connect(tcp).await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                let mut said = [0; 5];
                stream.read_exact(&mut said).await.map(|_| said)
            };
            assert_eq!(within("a neighbour is served", Duration::from_secs(5), served).await.unwrap(), *b"hello");
        }
    }
    refused(&weir, "udp_flows", 500).await;
    assert_eq!(metric(&weir, "weir_accept_pauses_total").await, 0);
    assert_eq!(http::get(weir.admin, "/readyz").await.status, 200);
    assert_eq!(ask(&client(SocketAddr::from(([127, 0, 0, 1], udp.port()))).await, b"new").await.0, b'x');
}

/// The soft limit of descriptors of a process.
fn soft_limit(pid: u64) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// The soft limit is for programs that use select(2); Weir does not, and what it starts may.
#[tokio::test]
async fn weir_takes_the_hard_limit_of_descriptors_and_gives_what_it_runs_the_soft_one() {
    let text = "[[service]]\nname = \"app\"\n[service.run]\ncommand = [\"sleep\", \"600\"]\n";
    let weir = Weir::start_limited("unwell-limits", "-S -n 300 && ulimit -H -n 4000", text).await;
    assert_eq!(soft_limit(weir.serving().into()), "4000");
    let pid = within("the replica", WAIT, async {
        loop {
            let pids: Vec<_> = weir.instances().await.iter().filter_map(|instance| instance["pid"].as_u64()).collect();
            match pids.first() {
                Some(pid)
                    if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "sleep") =>
                {
                    return *pid;
                }
                _ => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    })
    .await;
    assert_eq!(soft_limit(pid), "300");
}

/// A server that answers with the port that it was asked from: whose flow it was.
async fn port_teller() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((_, from)) = socket.recv_from(&mut [0; 64]).await else { continue };
            let _ = socket.send_to(from.port().to_string().as_bytes(), from).await;
        }
    });
    address
}

/// Sends until there is an answer; returns it and how often that was.
async fn tell(client: &tokio::net::UdpSocket) -> (String, u32) {
    let mut octets = [0; 64];
    for sent in 1..60 {
        client.send(b"who?").await.unwrap();
        if let Ok(received) = tokio::time::timeout(Duration::from_secs(1), client.recv(&mut octets)).await {
            return (String::from_utf8_lossy(&octets[..received.unwrap()]).into_owned(), sent);
        }
    }
    panic!("no answer");
}

#[tokio::test]
async fn a_flood_of_sources_that_send_again_keeps_nobody_out_for_long() {
    let (address, server) = (free_address(), port_teller().await);
    let weir = Weir::start(
        "unwell-again",
        &format!(
            "[[listener]]\nname = \"game\"\naddress = \"0.0.0.0:{}\"\nprotocol = \"udp\"\nservice = \"game\"\n
[listener.udp]\nflows = 100\nidle = \"18s\"\n
[[service]]\nname = \"game\"\n[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n[[service.endpoint]]\naddress = \"{server}\"\n",
            address.port()
        ),
    )
    .await;
    weir.settled("game", 1, WAIT).await;
    let to = SocketAddr::from(([127, 0, 0, 1], address.port()));
    let regular = client(to).await;
    let flow = tell(&regular).await.0;
    assert_eq!(tell(&regular).await.0, flow);
    for source in 0..300u32 {
        let socket = UdpSocket::bind((Ipv4Addr::from(0x7F03_0000 + source), 0)).unwrap();
        for _ in 0..3 {
            socket.send_to(b"spoofed", to).unwrap();
        }
    }
    refused(&weir, "udp_flows", 1).await;
    // None of them sent but one datagram; they are silent for a sixth of the idle time after three seconds.
    let begin = Instant::now();
    let fresh = client(to).await;
    let (mut sent, mut said) = (0, None);
    while said.is_none() {
        assert_eq!(tell(&regular).await.0, flow, "who goes on keeps his flow");
        fresh.send(b"who?").await.unwrap();
        sent += 1;
        said = tokio::time::timeout(Duration::from_millis(500), fresh.recv(&mut [0; 64])).await.ok();
    }
    println!("served after {:?}, {sent} datagrams", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(tell(&regular).await.0, flow);
}

/// A server as games are, a process of its own, that says who it is.
fn game(name: &str, address: SocketAddr) -> Child {
    let mut command = Command::new(WEIR);
    command.args(["whoami", "--listen", "127.0.0.1:0", "--udp", &address.to_string()]).env("WEIR_INSTANCE", name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

/// Sends a text and returns who answered it, if anybody did in a moment.
async fn who(client: &tokio::net::UdpSocket, text: &str) -> Option<String> {
    client.send(text.as_bytes()).await.unwrap();
    let mut octets = [0; 256];
    loop {
        let length = tokio::time::timeout(Duration::from_millis(100), client.recv(&mut octets)).await.ok()?.ok()?;
        let (name, said) = std::str::from_utf8(&octets[..length]).unwrap().split_once(' ').unwrap();
        // What was late is another's answer.
        if said == text {
            return Some(name.to_owned());
        }
    }
}

/// A machine that is gone says nothing, by ICMP neither: only the check tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_of_an_endpoint_that_falls_silent_move_with_its_check_and_no_others() {
    let address = free_address();
    let places = [free_address(), free_address(), free_address()];
    let servers: Vec<Child> =
        places.iter().zip(["game-a", "game-b", "game-c"]).map(|(a, name)| game(name, *a)).collect();
    let mut text = format!(
        "[[listener]]\nname = \"game\"\naddress = \"{address}\"\nprotocol = \"udp\"\nservice = \"game\"\n
[[service]]\nname = \"game\"\n[service.health]\ntype = \"udp\"\nsend = \"ping\"\nexpect = \"game-\"\ninterval = \"300ms\"\nfall = 2\n
[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n"
    );
    for place in places {
        text += &format!("[[service.endpoint]]\naddress = \"{place}\"\n");
    }
    let weir = Weir::start("unwell-silent", &text).await;
    weir.settled("game", 3, WAIT).await;
    let mut flows = Vec::new();
    for _ in 0..30 {
        let client = client(address).await;
        let name = loop {
            if let Some(name) = who(&client, "first").await {
                break name;
            }
        };
        flows.push((client, name));
    }
    let (lost, others): (Vec<_>, Vec<_>) = flows.into_iter().partition(|(_, name)| name == "game-b");
    assert!(!lost.is_empty() && others.iter().any(|(_, n)| n == "game-a") && others.iter().any(|(_, n)| n == "game-c"));
    let dead = servers[1].id().unwrap();
    kill(dead, "STOP").await;
    let begin = Instant::now();
    let mut moved = vec![None; lost.len()];
    while moved.contains(&None) {
        for ((client, _), moved) in lost.iter().zip(&mut moved).filter(|(_, moved)| moved.is_none()) {
            let text = format!("{:?}", begin.elapsed());
            *moved = who(client, &text).await.map(|name| (name, begin.elapsed()));
        }
        assert!(begin.elapsed() < WAIT, "{moved:?}\n{}", weir.log());
    }
    let last = moved.iter().flatten().map(|(_, after)| *after).max().unwrap();
    println!("{} flows moved, the last after {last:?}", moved.len());
    // Two checks of 300 ms that are each waited for, and what a busy machine adds.
    assert!(last < Duration::from_secs(4), "{moved:?}");
    for (client, name) in &others {
        for round in 0..3 {
            // A slow machine is given time; the answer is never another's.
            let said = loop {
                if let Some(said) = who(client, &format!("after {round}")).await {
                    break said;
                }
            };
            assert_eq!(said, *name, "a flow of another moved");
        }
    }
    assert_eq!(metric(&weir, "weir_ejections_total{service=\"game\"}").await, 0, "by its check alone");
    assert_eq!(metric(&weir, "weir_streams_total{service=\"game\"}").await, 30 + lost.len() as u64, "each moved once");
    kill(dead, "CONT").await;
}
