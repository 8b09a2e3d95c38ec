//! What waits at a follower, beside requests, wakes a service of the scheduler that has no replica: datagrams, and a program
//! that starts when its upstream is there.

use crate::sidecar::{Sidecar, ask};
use crate::support;
use crate::support::http::get;
use crate::support::process::{Weir, free_address};
use crate::world::{SETTLED, beside};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

const SCALE: &str = "[service.scale]\nmin = 0\nmax = 2\nzero_after = \"1s\"\nstabilization_window = \"1s\"\n";

/// Waits until the service has no replica.
async fn asleep(origin: &Weir, service: &str) {
    support::eventually("no replica", SETTLED, || async {
        let none = origin.instances().await.iter().all(|instance| instance["state"] == "gone");
        let scale = origin.api("GET", &format!("/v1/services/{service}/scale"), None).await.1;
        (scale["replicas"] == 0 && none).then_some(())
    })
    .await;
}

async fn wakes(origin: &Weir) -> String {
    let text = get(origin.admin, "/metrics").await.text();
    let line = text.lines().find(|line| line.starts_with("weir_scale_wakes_total{"));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or("none").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_at_a_follower_wake_a_service_and_flows_there_keep_it() {
    let _beside = beside().await;
    let service = format!(
        "[[service]]\nname = \"game\"\nreplicas = 0\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--udp\", \"127.0.0.1:${{PORT}}\"]\n
[service.health]\ntype = \"udp\"\nsend = \"ping\"\nexpect = \"game-\"\ninterval = \"1s\"\n
{SCALE}\n[[service.port]]\nname = \"game\"\nprotocol = \"udp\"\n"
    );
    let origin = Weir::start("game-origin", &service).await;
    asleep(&origin, "game").await;
    let address: SocketAddr = free_address();
    let edge = Weir::start(
        "game-edge",
        &format!(
            "[source.weir]\nfrom = \"{}\"\nname = \"game-edge\"\n
[[listener]]\nname = \"game\"\naddress = \"{address}\"\nprotocol = \"udp\"\nservice = \"game\"\n
[listener.udp]\nidle = \"2s\"\n",
            origin.admin
        ),
    )
    .await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let begin = Instant::now();
    for text in ["one", "two"] {
        client.send(text.as_bytes()).await.unwrap();
    }
    let mut octets = [0; 256];
    let mut answer = async || {
        let length = support::within("an answer", SETTLED, client.recv(&mut octets)).await.unwrap();
        String::from_utf8_lossy(&octets[..length]).into_owned()
    };
    let first = answer().await;
    let (who, one) = first.split_once(' ').unwrap();
    assert_eq!((one, answer().await.as_str()), ("one", format!("{who} two").as_str()), "{}", edge.log());
    println!("two datagrams at a follower were held and answered after {:?}", begin.elapsed());
    assert_eq!(wakes(&origin).await, "1");
    // The flow goes on for longer than a service that nobody uses has a replica.
    while begin.elapsed() < Duration::from_secs(5) {
        client.send(b"more").await.unwrap();
        assert_eq!(answer().await, format!("{who} more"), "the same replica");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    asleep(&origin, "game").await;
    assert_eq!(wakes(&origin).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_beside_a_sidecar_wakes_its_upstream_and_starts_then() {
    let _beside = beside().await;
    let service = format!(
        "[[service]]\nname = \"db\"\nreplicas = 0\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n\n{SCALE}"
    );
    let origin = Weir::start("exec-zero-origin", &service).await;
    asleep(&origin, "db").await;
    let port = free_address();
    let script = "echo begun; while :; do sleep 0.05; done";
    let upstream = format!("db={port}");
    let begin = Instant::now();
    let beside = Sidecar::start("exec-zero", &origin, &["exec", "--upstream", &upstream, "--", "sh", "-c", script]);
    support::eventually("it has begun", SETTLED, || async { beside.out().contains("begun").then_some(()) }).await;
    println!("the upstream was woken and the program began after {:?}", begin.elapsed());
    assert_eq!(wakes(&origin).await, "1");
    assert!(ask(port).await.is_ok(), "{}", beside.log());
    // Nothing waits any more: the upstream may sleep again.
    asleep(&origin, "db").await;
}
