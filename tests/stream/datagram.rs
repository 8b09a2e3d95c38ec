//! UDP listeners: flows keep their endpoint, those of a dead one move and no others, floods are bounded.

use crate::support::process::{Weir, free_address, kill};
use crate::support::{eventually, within};
use crate::{WAIT, metric, refused};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use weir::sys::datagram::{Batch, Peer, receive_merged, send_merged};

/// A server that answers each datagram with its own letter and the datagram. Nobody is there when it is aborted.
pub(crate) async fn echo(letter: u8) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        loop {
            // An ICMP error about an answer is no end.
            let Ok((n, from)) = socket.recv_from(&mut buffer[1..]).await else { continue };
            buffer[0] = letter;
            let _ = socket.send_to(&buffer[..=n], from).await;
        }
    });
    (address, serving)
}

/// Weir in front of endpoints; `listener` and `service` are added to those sections.
pub(crate) async fn front(
    name: &str,
    address: SocketAddr,
    endpoints: &[SocketAddr],
    (listener, service): (&str, &str),
) -> Weir {
    let mut toml = format!(
        "[[listener]]\nname = \"game\"\naddress = \"{address}\"\nprotocol = \"udp\"\nservice = \"game\"\n{listener}\n\
         [[service]]\nname = \"game\"\n{service}\n[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n"
    );
    for endpoint in endpoints {
        toml += &format!("[[service.endpoint]]\naddress = \"{endpoint}\"\n");
    }
    let weir = Weir::start(name, &toml).await;
    weir.settled("game", endpoints.len(), WAIT).await;
    weir
}

/// A client with a port of its own.
pub(crate) async fn client(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.connect(address).await.unwrap();
    client
}

/// Clients send again after this: none waits so long on a busy machine for what was not lost.
const AGAIN: Duration = Duration::from_secs(3);

/// Sends a text until it is answered, as clients of UDP do; returns the letter of who answered, and how often it was sent.
pub(crate) async fn ask(client: &UdpSocket, text: &[u8]) -> (u8, u32) {
    let mut buffer = vec![0; 65536];
    for sent in 1..100 {
        client.send(text).await.unwrap();
        while let Ok(received) = tokio::time::timeout(AGAIN, client.recv(&mut buffer)).await {
            // Nobody may be there while Weir starts; older answers are not this one's.
            let Ok(n) = received else { break };
            if &buffer[1..n] == text {
                return (buffer[0], sent);
            }
        }
    }
    panic!("no answer");
}

#[tokio::test]
async fn flows_keep_their_endpoint_and_those_of_a_dead_one_move_and_no_others() {
    let (a, b, c) = tokio::join!(echo(b'a'), echo(b'b'), echo(b'c'));
    let address = free_address();
    let weir = front("udp", address, &[a.0, b.0, c.0], ("", "")).await;
    let mut flows = Vec::new();
    for _ in 0..60 {
        let client = client(address).await;
        let (letter, sent) = ask(&client, b"first").await;
        assert_eq!(sent, 1);
        flows.push((client, letter));
    }
    let mut counts = BTreeMap::new();
    for (_, letter) in &flows {
        *counts.entry(*letter).or_insert(0) += 1;
    }
    assert!(counts.len() == 3 && counts.values().all(|count| *count >= 3), "{counts:?}");
    for round in 0..3 {
        for (client, letter) in &flows {
            assert_eq!(ask(client, format!("round {round}").as_bytes()).await, (*letter, 1));
        }
    }
    assert_eq!(metric(&weir, "weir_streams_open{service=\"game\"}").await, 60);
    assert_eq!(metric(&weir, "weir_udp_datagrams_total{direction=\"in\",service=\"game\"}").await, 240);
    b.1.abort();
    let _ = b.1.await;
    for (client, letter) in &flows {
        let (now, sent) = ask(client, b"after").await;
        if *letter == b'b' {
            // The datagram that found nobody is lost; the next goes elsewhere, and so do those of the other flows.
            assert!(now != b'b' && sent <= 3, "sent {sent} times");
        } else {
            assert_eq!((now, sent), (*letter, 1));
        }
    }
    assert!(metric(&weir, "weir_ejections_total{service=\"game\"}").await >= 1);
}

#[tokio::test]
async fn datagrams_of_every_size_come_back_in_their_order_and_from_the_address_that_was_asked() {
    let server = echo(b'x').await;
    let port = free_address().port();
    let weir = front("udp-sizes", SocketAddr::from(([0, 0, 0, 0], port)), &[server.0], ("", "")).await;
    let client = client(SocketAddr::from(([127, 0, 0, 9], port))).await;
    // Up to the longest that there is.
    for size in [0, 1, 100, 1200, 1472, 9000, 60_000, 65_506] {
        let text = vec![b'.'; size];
        assert_eq!(ask(&client, &text).await.0, b'x', "{size}");
    }
    let mut buffer = vec![0; 2048];
    for batch in 0..20u32 {
        for i in 0..40u32 {
            client.send(&(batch * 40 + i).to_be_bytes()).await.unwrap();
        }
        for i in 0..40u32 {
            let n = within("an answer", WAIT, client.recv(&mut buffer)).await.unwrap();
            assert_eq!(buffer[1..n], (batch * 40 + i).to_be_bytes());
        }
    }
    drop(weir);
}

/// Waits for so many datagrams of one sender; returns them in their order, and how many came in the largest train.
fn taken(socket: &std::net::UdpSocket, batch: &mut Batch, count: usize) -> (Vec<Vec<u8>>, usize, Peer) {
    socket.set_read_timeout(Some(WAIT)).unwrap();
    let (mut all, mut longest, mut from) = (Vec::new(), 0, None);
    while all.len() < count {
        let came = batch.receive(socket).unwrap();
        assert!(came > 0, "{} of {count} came", all.len());
        for index in 0..came {
            longest = longest.max(batch.pieces(index).count());
            all.extend(batch.pieces(index).map(<[u8]>::to_vec));
            from = batch.received(index).map(|(_, peer)| *peer);
        }
    }
    (all, longest, from.unwrap())
}

#[tokio::test]
async fn what_either_side_sends_together_stays_together_and_in_its_order() {
    let endpoint = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    receive_merged(&endpoint).unwrap();
    let address = free_address();
    let weir = front("udp-trains", address, &[endpoint.local_addr().unwrap()], ("", "")).await;
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    receive_merged(&client).unwrap();
    // More than pass at a time, of two lengths, with shorter ones between them and an empty one at the end.
    let lengths = [&[1200; 20][..], &[7], &[1200; 30], &[500; 9], &[0]].concat();
    let train: Vec<Vec<u8>> = lengths.iter().zip(0u8..).map(|(&length, i)| vec![i; length]).collect();
    let (mut batch, merges) = (Batch::new(1 << 16, 1), Cell::new(true));
    for _ in 0..3 {
        let datagrams: Vec<&[u8]> = train.iter().map(Vec::as_slice).collect();
        send_all(&client, &datagrams, None, &merges);
        let (came, longest, peer) = taken(&endpoint, &mut batch, train.len());
        assert!(came == train && longest >= 20, "the longest train of the client: {longest}");
        send_all(&endpoint, &datagrams, Some(&peer), &merges);
        let (came, longest, _) = taken(&client, &mut batch, train.len());
        assert!(came == train && longest >= 20, "the longest train of the endpoint: {longest}");
    }
    for direction in ["in", "out"] {
        let line = format!("weir_udp_datagrams_total{{direction=\"{direction}\",service=\"game\"}}");
        let all = 3 * train.len() as u64;
        eventually(&line, WAIT, async || (metric(&weir, &line).await == all).then_some(())).await;
    }
}

fn send_all(socket: &std::net::UdpSocket, datagrams: &[&[u8]], to: Option<&Peer>, merges: &Cell<bool>) {
    let mut left = datagrams;
    while !left.is_empty() {
        left = &left[send_merged(socket, left, to, merges).unwrap()..];
    }
}

#[tokio::test]
async fn a_flow_ends_when_nothing_comes_for_its_idle_time() {
    let server = echo(b'x').await;
    let address = free_address();
    let weir = front("udp-idle", address, &[server.0], ("[listener.udp]\nidle = \"200ms\"\n", "")).await;
    ask(&client(address).await, b"one").await;
    let none = async || (metric(&weir, "weir_streams_open{service=\"game\"}").await == 0).then_some(());
    eventually("the flow ends", WAIT, none).await;
    assert_eq!(metric(&weir, "weir_streams_total{service=\"game\"}").await, 1);
}

/// Memory of the serving process that is its own, KiB: what it maps of its program others have too, more or fewer each moment.
pub(crate) fn memory(weir: &Weir) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", weir.serving())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_flood_from_many_sources_holds_little_and_keeps_nobody_out_who_was_there() {
    let server = echo(b'x').await;
    let address = free_address();
    let listener = "[listener.udp]\nflows = 200\nflows_per_client = 20\n";
    let weir = front("udp-flood", SocketAddr::from(([0, 0, 0, 0], address.port())), &[server.0], (listener, "")).await;
    let regular = client(address).await;
    for text in [&b"one"[..], b"two", b"three"] {
        assert_eq!(ask(&regular, text).await.0, b'x');
    }
    let before = memory(&weir);
    // 5,000 sources, each with one datagram: a spoofed flood.
    for source in 0..5000u32 {
        let ip = Ipv4Addr::from(0x7F01_0000 + source);
        let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
        socket.send_to(b"spoofed", SocketAddr::from(([127, 0, 0, 1], address.port()))).unwrap();
        if source % 250 == 0 {
            assert_eq!(ask(&regular, format!("between {source}").as_bytes()).await.0, b'x');
        }
    }
    refused(&weir, "udp_flows", 1000).await;
    // Those that were ended a moment ago may still be there.
    let few = async || (metric(&weir, "weir_streams_open{service=\"game\"}").await <= 200).then_some(());
    eventually("no more flows than the bound", WAIT, few).await;
    let grown = memory(&weir).saturating_sub(before);
    println!("{grown} KiB more");
    assert!(grown < 8 * 1024, "{grown} KiB more");
    // Whoever comes now is served, and who was there was never moved.
    assert_eq!(ask(&client(address).await, b"new").await.0, b'x');
    assert_eq!(ask(&regular, b"still").await, (b'x', 1));
    // One source has its share at each worker: one of them gets more than that.
    let workers = std::thread::available_parallelism().unwrap().get();
    let many: Vec<_> = (0..=20 * workers).map(|_| std::net::UdpSocket::bind("127.9.9.9:0").unwrap()).collect();
    for socket in &many {
        socket.send_to(b"greedy", SocketAddr::from(([127, 0, 0, 1], address.port()))).unwrap();
    }
    refused(&weir, "udp_flows_per_client", 1).await;
    let log = weir.log();
    assert!(log.lines().any(|line| line.contains("datagram dropped") && line.contains("udp_flows")), "{log}");
}

#[tokio::test]
async fn flows_of_an_endpoint_that_is_taken_away_end_at_the_drain_deadline_and_go_elsewhere() {
    let (a, b) = tokio::join!(echo(b'a'), echo(b'b'));
    let address = free_address();
    let weir = front("udp-drain", address, &[a.0, b.0], ("", "drain_timeout = \"500ms\"\n")).await;
    let mut flows = Vec::new();
    for _ in 0..12 {
        let client = client(address).await;
        let letter = ask(&client, b"first").await.0;
        flows.push((client, letter));
    }
    assert!(flows.iter().any(|(_, letter)| *letter == b'b'));
    let file = weir.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let gone = format!("[[service.endpoint]]\naddress = \"{}\"\n", b.0);
    assert!(text.contains(&gone));
    std::fs::write(&file, text.replace(&gone, "")).unwrap();
    weir.settled("game", 1, WAIT).await;
    let moved = async || {
        let mut letters = Vec::new();
        for (client, before) in &flows {
            let (now, sent) = ask(client, b"after").await;
            assert!(*before == b'b' || (now, sent) == (b'a', 1), "a flow of the other moved");
            letters.push(now);
        }
        letters.iter().all(|letter| *letter == b'a').then_some(())
    };
    eventually("all flows are elsewhere", WAIT, moved).await;
    assert!(metric(&weir, "weir_streams_cut_total{service=\"game\"}").await >= 1);
}

#[tokio::test]
async fn pairs_of_datagrams_find_out_too_that_nobody_is_there() {
    let (a, b) = tokio::join!(echo(b'a'), echo(b'b'));
    let address = free_address();
    let weir = front("udp-pairs", address, &[a.0, b.0], ("", "")).await;
    let client = loop {
        let client = client(address).await;
        if ask(&client, b"first").await.0 == b'b' {
            break client;
        }
    };
    b.1.abort();
    let _ = b.1.await;
    let mut buffer = [0; 64];
    let mut pairs = 0;
    // The second of a pair is told of the ICMP error that the first met.
    while pairs < 10 {
        pairs += 1;
        kill(weir.serving(), "STOP").await;
        for text in [b"one", b"two"] {
            client.send(text).await.unwrap();
        }
        kill(weir.serving(), "CONT").await;
        if tokio::time::timeout(Duration::from_secs(1), client.recv(&mut buffer)).await.is_ok_and(|n| n.is_ok()) {
            break;
        }
    }
    assert_eq!(buffer[0], b'a', "{pairs} pairs");
}
