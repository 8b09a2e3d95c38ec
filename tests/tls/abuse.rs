//! What attackers do to handshakes, while a neighbour is served.

use super::authority::Authority;
use super::client::Client;
use super::support::backend::answering;
use super::support::{eventually, within};
use super::{WAIT, World, folder};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn counted(world: &World, reason: &str, at_least: u64) {
    let line = format!("weir_tls_handshakes_total{{result=\"{reason}\",resumed=\"false\",version=\"none\"}}");
    let enough = || async { (world.metric(&line).await >= at_least).then_some(()) };
    eventually(reason, WAIT, enough).await;
}

async fn closes(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset is a close too.
    let _ = within("the connection is closed", WAIT, stream.read_to_end(&mut answer)).await;
    answer
}

async fn send(address: SocketAddr, octets: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(octets).await.unwrap();
    stream
}

#[tokio::test]
async fn what_is_no_handshake_is_closed_and_counted() {
    let (authority, files) = (Authority::new(), folder("tls-abuse"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let world = World::start("tls-abuse", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    let neighbour = Client::trusting(&authority);
    // A record that announces a ClientHello of 16 MiB, and its first octets.
    let mut huge = vec![22, 3, 1, 0x40, 0];
    huge.extend([1, 0xff, 0xff, 0xff]);
    huge.resize(5 + 0x4000, 0);
    // SSL 3.0 and a hello that ends within a field.
    let broken = [22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3];
    let cases: [(&str, &[u8], &str); 4] = [
        ("clear text", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not_tls"),
        ("noise", &[0xff; 64], "not_tls"),
        ("a huge hello", &huge, "bad_message"),
        ("a broken hello", &broken, "bad_message"),
    ];
    for (what, octets, reason) in cases {
        let answer = closes(send(world.https, octets).await).await;
        assert!(answer.len() <= 7 && !answer.starts_with(b"HTTP"), "{what}: at most an alert: {answer:?}");
        counted(&world, reason, 1).await;
        assert!(neighbour.get(world.https, "app.test", "/").await.unwrap().starts_with("HTTP/1.1 200 "), "{what}");
    }
    assert_eq!(world.metric("weir_panics_total").await, 0);
}

#[tokio::test]
async fn slow_handshakes_end_at_the_deadline_and_keep_nobody_out() {
    let (authority, files) = (Authority::new(), folder("tls-slow"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let bounds = "\n[proxy.limits]\nhandshakes = 8\n[proxy.timeouts]\nhandshake = \"2s\"\n";
    let world = World::start("tls-slow", answering("fine"), &format!("certificates = [{entry}]"), bounds).await;
    let neighbour = Client::trusting(&authority);
    let begun = Instant::now();
    // One octet of a record, and nothing more; then a trickle that never ends.
    let mut trickle = send(world.https, &[22]).await;
    let trickling = tokio::spawn(async move {
        for octet in [3u8, 1, 2, 0].into_iter().chain(std::iter::repeat(1)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if trickle.write_all(&[octet]).await.is_err() {
                return;
            }
        }
    });
    within("a trickle ends at the deadline", WAIT, trickling).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    counted(&world, "timeout", 1).await;
    // Far more than there is room for: the oldest go, the neighbour comes in.
    let mut flood = Vec::new();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..8 * workers + 40 {
        flood.push(send(world.https, &[22, 3, 1]).await);
    }
    let served = || async { neighbour.get(world.https, "app.test", "/").await.ok() };
    let answer = eventually("the neighbour is served", Duration::from_secs(1), served).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    counted(&world, "crowded", 20).await;
    assert_eq!(closes(flood.swap_remove(0)).await, b"");
}

#[tokio::test]
async fn a_client_cannot_renegotiate() {
    use tokio::process::Command;
    let (authority, files) = (Authority::new(), folder("tls-renegotiate"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let world = World::start("tls-renegotiate", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", &world.https.to_string(), "-servername", "app.test"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // `R` alone on a line asks for it.
    openssl.stdin.as_mut().unwrap().write_all(b"R\n").await.unwrap();
    let output = within("openssl ends", WAIT, openssl.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("RENEGOTIATING") && !output.status.success(), "{said}");
    assert!(Client::trusting(&authority).get(world.https, "app.test", "/").await.is_ok());
}
