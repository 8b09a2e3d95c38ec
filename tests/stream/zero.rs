//! Datagrams to a service that has no replica: they wait for one within bounds, and start it. Checks are datagrams too.

use crate::support::process::{Weir, free_address};
use crate::support::{eventually, within};
use crate::{WAIT, metric, refused};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

const WHOAMI: &str = r#"["${WEIR}", "whoami", "--udp", "127.0.0.1:${PORT}"]"#;
/// Runs, and never listens.
const DEAF: &str = r#"["sleep", "600"]"#;

/// Weir before a service without a replica.
async fn start(name: &str, address: SocketAddr, command: &str, scale: &str) -> Weir {
    let weir = Weir::start(
        name,
        &format!(
            "[[listener]]\nname = \"game\"\naddress = \"{address}\"\nprotocol = \"udp\"\nservice = \"game\"\n
[listener.udp]\nidle = \"300ms\"\n
[[service]]\nname = \"game\"\nreplicas = 0\n
[service.run]\ncommand = {command}\n
[service.health]\ntype = \"udp\"\nsend = \"ping\"\nexpect = \"game-\"\ninterval = \"1s\"\n
[service.scale]\nmin = 0\nmax = 2\nzero_after = \"1s\"\nstabilization_window = \"1s\"\n{scale}
[service.limits]\nqueue = 60\n
[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n"
        ),
    )
    .await;
    eventually("the service is known", WAIT, async || {
        (weir.api("GET", "/v1/services/game/scale", None).await.1["replicas"] == 0).then_some(())
    })
    .await;
    weir
}

async fn client(address: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    client.connect(address).await.unwrap();
    client
}

/// Takes the next answer; returns what was sent.
async fn answer(client: &UdpSocket) -> String {
    let mut octets = [0; 256];
    let length = within("an answer", WAIT, client.recv(&mut octets)).await.unwrap();
    let text = std::str::from_utf8(&octets[..length]).unwrap();
    let (instance, text) = text.split_once(' ').unwrap();
    assert!(instance.starts_with("game-"), "{instance}");
    text.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_wait_for_a_first_replica_and_arrive_in_their_order() {
    let address = free_address();
    let weir = start("udp-zero", address, WHOAMI, "").await;
    for round in 1..=2 {
        let begin = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..20 {
            let client = client(address).await;
            for text in ["one", "two", "three"] {
                client.send(text.as_bytes()).await.unwrap();
            }
            clients.push(client);
        }
        for client in &clients {
            for text in ["one", "two", "three"] {
                assert_eq!(answer(client).await, text);
            }
        }
        println!("round {round}: 60 datagrams of 20 clients were answered after {:?}", begin.elapsed());
        assert_eq!(metric(&weir, "weir_scale_wakes_total{service=\"game\"}").await, round, "one order");
        // Nobody uses it any more.
        eventually("no replica", WAIT, async || {
            let none = weir.instances().await.iter().all(|instance| instance["state"] == "gone");
            (weir.api("GET", "/v1/services/game/scale", None).await.1["replicas"] == 0 && none).then_some(())
        })
        .await;
    }
    assert_eq!(metric(&weir, "weir_held_total{service=\"game\"}").await, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_bounded_and_is_dropped_with_a_reason() {
    let address = free_address();
    let weir = start("udp-vain", address, DEAF, "wake_timeout = \"3s\"\n").await;
    let begin = Instant::now();
    // One client has 16 datagrams, and 30 clients have a place: half of the queue, the rest is for who connects.
    let greedy = client(address).await;
    for _ in 0..20 {
        greedy.send(b"more").await.unwrap();
    }
    refused(&weir, "udp_held", 4).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        let client = client(address).await;
        client.send(b"hello").await.unwrap();
        clients.push(client);
    }
    refused(&weir, "queue_full", 3).await;
    assert_eq!(metric(&weir, "weir_held_total{service=\"game\"}").await, 30);
    // No replica passes its check, so that nothing is passed on.
    refused(&weir, "wake_timeout", 16 + 29).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(metric(&weir, "weir_refused_total{reason=\"wake_timeout\"}").await, 16 + 29);
    assert_eq!(metric(&weir, "weir_udp_datagrams_total{direction=\"in\",service=\"game\"}").await, 0);
    assert_eq!(metric(&weir, "weir_refused_total{reason=\"udp_held\"}").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_by_datagrams_tells_an_endpoint_that_answers_from_one_that_is_silent_or_gone() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (silent, address) = (UdpSocket::bind("127.0.0.1:0").await.unwrap(), server.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let mut octets = [0; 64];
        loop {
            let (length, from) = server.recv_from(&mut octets).await.unwrap();
            // A magic number that is no text, as games have.
            assert_eq!(octets[..length], *b"\xff\xffstatus");
            server.send_to(b"\xff\xff\x00up", from).await.unwrap();
        }
    });
    let gone = free_address();
    let endpoints = [address, silent.local_addr().unwrap(), gone];
    let endpoints = endpoints.map(|address| format!("[[service.endpoint]]\naddress = \"{address}\"\n")).concat();
    let weir = Weir::start(
        "udp-check",
        &format!(
            "[[service]]\nname = \"game\"\n
[service.health]\ntype = \"udp\"\nsend = \"hex:ffff737461747573\"\nexpect = \"hex:ffff00\"\ninterval = \"200ms\"\nfall = 2\n
[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n{endpoints}"
        ),
    )
    .await;
    let row = async || weir.api("GET", "/v1/services", None).await.1["services"][0].clone();
    eventually("the one that answers is used", WAIT, async || (row().await["usable"] == 1).then_some(())).await;
    assert_eq!(row().await["check"], "udp");
    let states = weir.instances().await;
    let of = |port: u16| states.iter().find(|instance| instance["ports"][0] == port).map(|i| i["state"].clone());
    assert_eq!(of(address.port()).unwrap(), "ready");
    for other in [silent.local_addr().unwrap(), gone] {
        assert_eq!(of(other.port()).unwrap(), "starting");
    }
    serving.abort();
    eventually("it is found dead", WAIT, async || (row().await["usable"] == 0).then_some(())).await;
}
