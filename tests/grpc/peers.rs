//! A gRPC implementation that others wrote on both sides of Weir: `peer.py`, on grpcio.

use crate::calls::LIMIT;
use crate::support::proxy::{Proxy, Setup};
use crate::support::within;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use weir::control::probe::{Network, Prober, Target};
use weir::model::{EndpointProtocol, Probe};

/// Debian's Python, for which `tests/run` installs the package.
fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc/peer.py")).args(arguments).kill_on_drop(true);
    command
}

/// A server that lives until it is dropped.
struct Server {
    address: SocketAddr,
    _child: Child,
}

impl Server {
    async fn start() -> Self {
        let mut child = python(&["server"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = within("its port", LIMIT, lines.next_line()).await.unwrap();
        let port = port.expect("no port: apt install python3-grpcio");
        Self { address: SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())), _child: child }
    }
}

fn before(endpoints: &[SocketAddr]) -> Proxy {
    Setup::new(endpoints).with(|setup| setup.spec.protocol = EndpointProtocol::Http2).start()
}

async fn client(arguments: &[&str]) -> String {
    let output = within("the client", LIMIT, python(arguments).output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[tokio::test]
async fn calls_of_every_kind_go_as_if_there_were_nothing_between() {
    let server = Server::start().await;
    let proxy = before(&[server.address]);
    let said = client(&["client", &proxy.address.to_string()]).await;
    let kinds = [
        "unary",
        "status",
        "client streaming",
        "server streaming",
        "bidirectional streaming",
        "deadline",
        "cancellation",
        "unknown method",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), kinds);
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[tokio::test]
async fn a_health_check_hears_what_a_server_says_of_itself() {
    let server = Server::start().await;
    for (service, expected) in [
        ("", Ok("grpc: SERVING")),
        ("sick", Err("grpc: NOT_SERVING")),
        ("other", Err("grpc: the server does not know the service")),
    ] {
        let probe = Probe::Grpc { service: service.into(), host: None };
        let target = Target {
            address: server.address,
            probe,
            timeout: Duration::from_secs(5),
            tls: None,
            tells: None,
            container: None,
        };
        let said = within("a check", LIMIT, Network::default().probe(&target)).await;
        assert_eq!(said.as_deref().map_err(String::as_str), expected, "{service:?}");
    }
}

/// Calls through three servers while one is replaced.
async fn replaced(calls: u32) {
    let [a, b, c] = [Server::start().await, Server::start().await, Server::start().await];
    let d = Server::start().await;
    let mut proxy = before(&[a.address, b.address, c.address]);
    let (address, calls) = (proxy.address.to_string(), calls.to_string());
    let arguments = ["load", &address, &calls];
    let loading = client(&arguments);
    let replacing = async {
        // Some calls have gone to each by now.
        let begun = async || (proxy.metric("weir_requests_total{code=\"2xx\",service=\"web\"}") > 100).then_some(());
        crate::support::eventually("calls", LIMIT, begun).await;
        proxy.publish(&[b.address, c.address, d.address]);
    };
    let (failed, ()) = tokio::join!(loading, replacing);
    assert_eq!(failed.trim(), "0");
}

#[tokio::test]
async fn no_call_fails_while_a_server_is_replaced() {
    replaced(1000).await;
}

#[tokio::test]
#[ignore = "long: ten thousand calls"]
async fn no_call_of_ten_thousand_fails_while_a_server_is_replaced() {
    replaced(10_000).await;
}
