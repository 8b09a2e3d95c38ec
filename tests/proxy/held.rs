//! Connections of a TCP listener whose service has no replica: held, bounded, and nothing of them lost.

use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use weir::model::{ListenerProtocol, RunSpec};

const LIMIT: Duration = Duration::from_secs(20);

/// A TCP listener before a service that Weir runs and that has no replica.
fn setup(timeout: Duration) -> Setup {
    Setup::tcp(&[]).with(|s| {
        s.spec.run = Some(RunSpec {
            command: vec!["app".to_owned()],
            env: Default::default(),
            directory: None,
            stop_grace: Duration::from_secs(1),
            replace_after: Duration::from_secs(1),
            container: None,
        });
        s.spec.replicas = 1;
        s.spec.limits.queue = 10;
        s.spec.limits.queue_timeout = timeout;
    })
}

/// Reads everything until the peer ends, sends back how much that was and its last octet, and ends.
async fn counting() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).await.is_ok() {
                    let is_whole = all.iter().enumerate().all(|(at, octet)| *octet == (at % 251) as u8);
                    let _ = stream.write_all(format!("{} {is_whole}", all.len()).as_bytes()).await;
                }
            });
        }
    });
    address
}

fn pattern(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|at| (at % 251) as u8).collect()
}

async fn waiting(proxy: &Proxy, count: u32) {
    eventually(&format!("{count} wait"), LIMIT, || async { (proxy.waiting() == count).then_some(()) }).await;
}

async fn rest(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut answer = String::new();
    within("the end of a stream", LIMIT, stream.read_to_string(&mut answer)).await?;
    Ok(answer)
}

#[tokio::test]
async fn what_the_client_sends_meanwhile_reaches_the_endpoint_with_its_end() {
    let mut proxy = setup(LIMIT).start();
    // One sends all and ends while it is held, one goes on afterwards.
    let mut early = TcpStream::connect(proxy.address).await.unwrap();
    early.write_all(&pattern(0, 50_000)).await.unwrap();
    early.shutdown().await.unwrap();
    waiting(&proxy, 1).await;
    let mut late = TcpStream::connect(proxy.address).await.unwrap();
    late.write_all(&pattern(0, 30_000)).await.unwrap();
    waiting(&proxy, 2).await;
    proxy.publish(&[counting().await]);
    proxy.wake(usize::MAX);
    assert_eq!(rest(&mut early).await.unwrap(), "50000 true");
    late.write_all(&pattern(30_000, 90_000)).await.unwrap();
    late.shutdown().await.unwrap();
    assert_eq!(rest(&mut late).await.unwrap(), "90000 true");
    assert_eq!(proxy.metric("weir_held_total{service=\"web\"}"), 2);
    assert_eq!(proxy.metric("weir_streams_total{service=\"web\"}"), 2);
}

#[tokio::test]
async fn it_rings_for_a_replica_once_it_waits() {
    let proxy = setup(LIMIT).start();
    let wake = proxy.table.load().services.iter().next().unwrap().wake.clone();
    let client = TcpStream::connect(proxy.address).await.unwrap();
    within("a ring", LIMIT, wake.rung()).await;
    assert_eq!(proxy.waiting(), 1, "whoever hears it sees what waits");
    drop(client);
}

#[tokio::test]
async fn a_stream_takes_no_wake_up_from_those_behind_it() {
    let mut proxy = setup(LIMIT).start();
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let address = proxy.address;
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.shutdown().await.unwrap();
            rest(&mut stream).await.unwrap()
        });
    }
    waiting(&proxy, 8).await;
    proxy.publish(&[counting().await]);
    // As for a replica that serves one request at a time.
    proxy.wake(1);
    assert!(clients.join_all().await.iter().all(|answer| answer == "0 true"));
}

#[tokio::test]
async fn the_hold_is_bounded_in_time_and_number() {
    const HOLD: Duration = Duration::from_secs(2);
    let proxy = setup(HOLD).with(|s| s.spec.limits.queue = 2).start();
    let begin = Instant::now();
    let mut held = [TcpStream::connect(proxy.address).await.unwrap(), TcpStream::connect(proxy.address).await.unwrap()];
    waiting(&proxy, 2).await;
    // The reset may come before the client has looked whether it is connected.
    if let Ok(mut third) = TcpStream::connect(proxy.address).await {
        assert!(rest(&mut third).await.is_err());
    }
    assert!(begin.elapsed() < HOLD, "at once");
    for stream in &mut held {
        assert!(rest(stream).await.is_err(), "an orderly end would look like an empty answer");
    }
    assert!(begin.elapsed() >= HOLD);
    assert_eq!(proxy.metric("weir_refused_total{reason=\"queue_full\"}"), 1);
    assert_eq!(proxy.metric("weir_refused_total{reason=\"wake_timeout\"}"), 2);
}

#[tokio::test]
async fn who_resets_the_connection_leaves_the_queue() {
    let mut proxy = setup(LIMIT).start();
    // Whatever came before, an orderly end too: the reset is told all the same.
    for (sent, ends) in [(1000, false), (0, false), (1000, true)] {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(&pattern(0, sent)).await.unwrap();
        if ends {
            client.shutdown().await.unwrap();
        }
        waiting(&proxy, 1).await;
        client.set_zero_linger().unwrap();
        drop(client);
        eventually("it leaves", LIMIT, || async {
            let snapshot = proxy.table.load();
            (snapshot.services.iter().next().unwrap().stats.still_waiting() == 0).then_some(())
        })
        .await;
    }
    assert_eq!(proxy.metric("weir_refused_total{reason=\"client_gone\"}"), 3);
    proxy.publish(&[counting().await]);
    proxy.wake(usize::MAX);
    assert_eq!(proxy.metric("weir_streams_total{service=\"web\"}"), 0, "no endpoint hears of it");
}

#[tokio::test]
async fn what_is_off_holds_nobody_and_lets_go_who_is_held() {
    for protocol in ["tcp", "http"] {
        let setup = setup(LIMIT);
        let http = |s: &mut Setup| s.protocol = ListenerProtocol::Http;
        let proxy = if protocol == "tcp" { setup } else { setup.with(http) }.start();
        let mut held = TcpStream::connect(proxy.address).await.unwrap();
        held.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
        waiting(&proxy, 1).await;
        let service = proxy.table.load().services.iter().next().unwrap().clone();
        assert!(service.wake.set_off(true));
        proxy.wake(usize::MAX);
        let begin = Instant::now();
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        let _ = next.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        for stream in [&mut held, &mut next] {
            match rest(stream).await {
                Ok(answer) => assert!(protocol == "http" && answer.contains("weir-reason: service_off"), "{answer}"),
                Err(error) => assert_eq!(protocol, "tcp", "{error}"),
            }
        }
        assert!(begin.elapsed() < LIMIT / 2);
        assert_eq!(proxy.metric("weir_refused_total{reason=\"service_off\"}"), 2);
    }
}
