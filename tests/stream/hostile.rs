//! What must not get in before the traffic, and peers that hold on to what they have: told by its reason in the log and the
//! metrics, bounded in memory, and neighbours are served.

use crate::authority::Authority;
use crate::datagram::memory;
use crate::sni::hello;
use crate::support::process::{Weir, free_address};
use crate::support::{eventually, within};
use crate::{WAIT, metric, refused};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Octets of a connection to a service of its own: echoed, or without end.
async fn endpoint(endless: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let block = vec![7; 64 * 1024];
                if endless {
                    loop {
                        stream.write_all(&block).await?;
                    }
                }
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

fn listener(name: &str, address: SocketAddr, more: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\n{more}\n")
}

fn service(name: &str, endpoint: SocketAddr, more: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\n{more}\n[[service.endpoint]]\naddress = \"{endpoint}\"\n")
}

const TOLD: &str = "service = \"echo\"\n[listener.proxy_protocol]\nfrom = [\"127.0.0.1/32\"]\n";
const HOSTS: &str = "[[listener.sni]]\nnames = [\"a.test\"]\nservice = \"echo\"\n";
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 443\r\n";

/// A neighbour is served: what it says behind a good header comes back.
async fn is_served(told: SocketAddr) {
    let mut stream = within("a connection", WAIT, TcpStream::connect(told)).await.unwrap();
    stream.write_all(&[V1, b"hello"].concat()).await.unwrap();
    let mut said = [0; 5];
    within("an echo", WAIT, stream.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"hello");
}

#[tokio::test]
async fn every_refusal_before_the_traffic_has_its_reason_in_the_log_and_in_the_metrics() {
    let (told, strangers, hosts) = (free_address(), free_address(), free_address());
    let authority = Authority::new();
    let text = [
        listener("told", told, TOLD),
        listener("strangers", strangers, &TOLD.replace("127.0.0.1", "192.0.2.1")),
        listener("hosts", hosts, HOSTS),
        service("echo", endpoint(false).await, ""),
    ]
    .concat();
    let weir = Weir::start("hostile", &text).await;
    weir.settled("echo", 1, WAIT).await;
    let whole = hello(&authority, "a.test");
    let cases: [(SocketAddr, &[u8], &str); 10] = [
        (told, b"PROXY TCP4 1.2.3.4 nonsense\r\nx", "proxy_malformed"),
        (told, b"GET / HTTP/1.1\r\n\r\n", "proxy_absent"),
        (told, &V1[..20], "proxy_timeout"),
        (strangers, V1, "proxy_untrusted"),
        (hosts, b"\x16\x03\x01\x40\0\x01\0\x40\x01", "hello_too_large"),
        (hosts, b"\x16\x03\x01\0\x04\x02\0\0\0", "hello_malformed"),
        (hosts, &whole[..100], "hello_timeout"),
        (hosts, b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (hosts, &hello(&authority, "127.0.0.1"), "no_sni"),
        (hosts, &hello(&authority, "b.test"), "no_route"),
    ];
    for (address, octets, reason) in cases {
        // Of those of one second one is told.
        eventually(reason, WAIT, async || {
            let mut stream = TcpStream::connect(address).await.ok()?;
            let _ = stream.write_all(octets).await;
            let mut rest = Vec::new();
            let _ = within("the end", WAIT, stream.read_to_end(&mut rest)).await;
            let log = weir.log();
            log.lines().any(|line| line.contains("connection closed") && line.contains(reason)).then_some(())
        })
        .await;
        refused(&weir, reason, 1).await;
    }
    is_served(told).await;
}

#[tokio::test]
async fn a_flood_of_half_open_connections_holds_little_keeps_nobody_out_and_ends_in_time() {
    const EACH: usize = 250;
    let (told, hosts) = (free_address(), free_address());
    let text =
        [listener("told", told, TOLD), listener("hosts", hosts, HOSTS), service("echo", endpoint(false).await, "")]
            .concat();
    let weir = Weir::start("half-open", &text).await;
    weir.settled("echo", 1, WAIT).await;
    is_served(told).await;
    let before = memory(&weir);
    let whole = hello(&Authority::new(), "a.test");
    let mut held = Vec::new();
    for _ in 0..EACH {
        for (address, octets) in [(told, &V1[..0]), (told, &V1[..20]), (hosts, &whole[..0]), (hosts, &whole[..100])] {
            let mut stream = within("a connection", WAIT, TcpStream::connect(address)).await.unwrap();
            stream.write_all(octets).await.unwrap();
            held.push(stream);
        }
    }
    is_served(told).await;
    let grown = memory(&weir).saturating_sub(before);
    println!("{grown} KiB more for {} connections", held.len());
    assert!(grown < 24 * 1024, "{grown} KiB more");
    refused(&weir, "proxy_timeout", 2 * EACH as u64).await;
    refused(&weir, "hello_timeout", 2 * EACH as u64).await;
    let none = async || (metric(&weir, "weir_connections_open").await == 0).then_some(());
    eventually("none is open", WAIT, none).await;
    is_served(told).await;
}

#[tokio::test]
async fn peers_that_never_read_hold_little_and_are_let_go() {
    let (bulk, told) = (free_address(), free_address());
    let text = [
        listener("bulk", bulk, "service = \"bulk\"\n"),
        listener("told", told, TOLD),
        service("bulk", endpoint(true).await, "[service.timeouts]\ntunnel_idle = \"2s\"\n"),
        service("echo", endpoint(false).await, ""),
    ]
    .concat();
    let weir = Weir::start("never-reads", &text).await;
    for name in ["bulk", "echo"] {
        weir.settled(name, 1, WAIT).await;
    }
    is_served(told).await;
    let before = memory(&weir);
    let mut held = Vec::new();
    for _ in 0..50 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        held.push(within("a connection", WAIT, socket.connect(bulk)).await.unwrap());
    }
    let all = async || (metric(&weir, "weir_streams_total{service=\"bulk\"}").await == 50).then_some(());
    eventually("all are there", WAIT, all).await;
    is_served(told).await;
    let grown = memory(&weir).saturating_sub(before);
    println!("{grown} KiB more for {} connections", held.len());
    assert!(grown < 8 * 1024, "{grown} KiB more");
    let none = async || (metric(&weir, "weir_streams_open{service=\"bulk\"}").await == 0).then_some(());
    eventually("all are let go", WAIT, none).await;
    refused(&weir, "idle_timeout", 50).await;
    is_served(told).await;
}
