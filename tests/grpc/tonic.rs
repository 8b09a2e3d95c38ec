//! tonic on both sides of Weir, in clear text and over TLS on both sides.

use crate::authority::Authority;
use crate::calls::LIMIT;
use crate::peer::{Client, Peer};
use crate::support::process::{Folder, Weir, free_address};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::tokio_stream::{self, StreamExt};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, ServerTlsConfig};
use tonic::{Code, Request, Status};
use weir::model::EndpointProtocol;

fn before(endpoints: &[SocketAddr]) -> Proxy {
    Setup::new(endpoints).with(|setup| setup.spec.protocol = EndpointProtocol::Http2).start()
}

/// A call with a time limit of its own.
fn limited(timeout: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from_static(b"x"));
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

async fn cancelled(peer: &Peer, count: usize) {
    eventually("the end of the call at the endpoint", LIMIT, async || (peer.cancelled() == count).then_some(())).await;
}

/// Makes calls of every kind through whatever is between.
async fn every_kind(client: &mut Client, peer: &Peer) -> Result<(), Status> {
    for size in [0, 1, 65_535, 3_000_000] {
        let message = Bytes::from(vec![b'x'; size]);
        assert_eq!(client.unary("/t.Peer/Unary", Request::new(message.clone())).await?, message);
    }
    let refused = client.unary("/t.Peer/Fails", Request::new(Bytes::new())).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no such thing: 100 % n\u{f6}"));
    let unknown = client.unary("/t.Peer/Other", Request::new(Bytes::new())).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);

    let joined = client.up("/t.Peer/Collects", tokio_stream::iter((0..100).map(|_| Bytes::from_static(b"a")))).await?;
    assert_eq!(joined, "a,".repeat(100));
    let counted = client.down("/t.Peer/Counts", Request::new("100".into())).await?;
    let counted = counted.collect::<Result<Vec<_>, _>>().await?;
    assert_eq!((counted.len(), counted.last().unwrap().as_ref()), (100, &b"99"[..]));

    let (asking, asked) = mpsc::channel(1);
    let mut answers = client.both("/t.Peer/Answers", ReceiverStream::new(asked)).await?;
    for turn in 0..100 {
        // Each question waits for the answer to the one before: both directions are open.
        asking.send(Bytes::from(turn.to_string())).await.unwrap();
        assert_eq!(answers.message().await?.unwrap(), format!("re:{turn}"));
    }
    drop(asking);
    assert_eq!(answers.message().await?, None);

    // tonic keeps the limit on both of its sides too, in words of its own: whoever is first.
    let late = client.unary("/t.Peer/Hangs", limited("200m")).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    cancelled(peer, 1).await;
    // Once the answer has begun only Weir keeps it: what came stays whole, and the status says why there is no more.
    let mut stalled = client.down("/t.Peer/Stalls", limited("300m")).await?;
    assert_eq!(stalled.message().await?.unwrap(), "x");
    let late = stalled.message().await.unwrap_err();
    assert_eq!((late.code(), late.message()), (Code::DeadlineExceeded, TOO_LATE));
    cancelled(peer, 2).await;

    let mut given_up = client.down("/t.Peer/Stalls", Request::new("y".into())).await?;
    assert_eq!(given_up.message().await?.unwrap(), "y");
    drop(given_up);
    cancelled(peer, 3).await;
    let mut other = client.clone();
    let hanging = tokio::spawn(async move { other.unary("/t.Peer/Hangs", Request::new(Bytes::new())).await });
    eventually("the call", LIMIT, async || (peer.calls() == CALLS).then_some(())).await;
    hanging.abort();
    cancelled(peer, 4).await;
    Ok(())
}

const TOO_LATE: &str = "the endpoint did not answer within the time limit of the call";
/// What [`every_kind`] makes.
const CALLS: usize = 13;

#[tokio::test]
async fn calls_of_every_kind_go_in_clear_text() {
    let peer = Peer::start().await;
    let proxy = before(&[peer.address]);
    let mut client = Client::connect(proxy.address).await;
    within("the calls", LIMIT, every_kind(&mut client, &peer)).await.unwrap();
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[tokio::test]
async fn calls_of_every_kind_go_over_tls_to_both_sides() {
    let (authority, files) = (Authority::new(), Folder::new("grpc-tls"));
    let ca = files.write("ca.pem", &authority.pem());
    let pair = authority.issue(&["peer.test"]);
    let identity = Identity::from_pem(&pair.certificate, &pair.key);
    let peer = Peer::start_with(Some(ServerTlsConfig::new().identity(identity))).await;
    let entry = authority.issue(&["a.test"]).write(&files, "weir");
    let https = free_address();
    let toml = format!(
        "[[listener]]\nname = \"https\"\naddress = \"{https}\"\n[listener.tls]\ncertificates = [{entry}]\n\n\
         [[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\nprotocol = \"h2\"\n\
         [service.tls]\nca = {ca:?}\nserver_name = \"peer.test\"\n[service.health]\ntype = \"grpc\"\n[[service.endpoint]]\naddress = \"{}\"\n",
        peer.address
    );
    let weir = Weir::start("grpc-tls", &toml).await;
    weir.settled("app", 1, LIMIT).await;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("a.test");
    let channel = Channel::from_shared(format!("https://{https}")).unwrap().tls_config(tls).unwrap();
    let mut client = Client::over(channel.origin("https://a.test".parse().unwrap()).connect().await.unwrap());
    within("the calls", LIMIT, every_kind(&mut client, &peer)).await.unwrap();
}

/// Calls through three servers while one is replaced.
async fn replaced(calls: usize) {
    let [a, b, c] = [Peer::start().await, Peer::start().await, Peer::start().await];
    let d = Peer::start().await;
    let mut proxy = before(&[a.address, b.address, c.address]);
    let client = Client::connect(proxy.address).await;
    let (mut running, mut failed) = (JoinSet::new(), Vec::new());
    for n in 0..calls {
        if running.len() >= 32 {
            failed.extend(running.join_next().await.unwrap().unwrap());
        }
        if n == calls / 2 {
            proxy.publish(&[b.address, c.address, d.address]);
        }
        let mut client = client.clone();
        running.spawn(async move {
            let wanted = Bytes::from(n.to_string());
            let mut request = Request::new(wanted.clone());
            request.set_timeout(Duration::from_secs(60));
            match client.unary("/t.Peer/Unary", request).await {
                Ok(answer) => (answer != wanted).then(|| format!("{answer:?} instead of {wanted:?}")),
                Err(status) => Some(status.to_string()),
            }
        });
    }
    while let Some(outcome) = running.join_next().await {
        failed.extend(outcome.unwrap());
    }
    let shares = [&a, &b, &c, &d].map(Peer::calls);
    println!("{calls} calls: {shares:?}, {} failed", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(shares.iter().sum::<usize>(), calls);
    // Round robin, for each call and not for each connection.
    assert!(shares[1].abs_diff(calls / 3) <= calls / 50 && shares[2].abs_diff(calls / 3) <= calls / 50, "{shares:?}");
    assert!(shares[0] >= calls / 8 && shares[3] >= calls / 8, "{shares:?}");
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
