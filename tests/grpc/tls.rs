//! HTTP/2 endpoints behind TLS: ALPN must select it, certificates are checked both ways, and so are health checks.

use crate::authority::Authority;
use crate::calls::LIMIT;
use crate::endpoint;
use crate::peer::{Client, Peer};
use crate::support::process::{Folder, Weir};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ProtocolVersion, ServerConfig};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::Request;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// A Weir in front of one HTTP/2 endpoint; `tls` is what stands in `[service.tls]`.
async fn front(name: &str, endpoint: SocketAddr, tls: &str, health: &str) -> Weir {
    let toml = format!(
        "[[route]]\nname = \"app\"\nservice = \"app\"\n\n[[service]]\nname = \"app\"\nprotocol = \"h2\"\n\
         [service.tls]\n{tls}\n{health}\n[[service.endpoint]]\naddress = \"{endpoint}\"\n"
    );
    Weir::start(name, &toml).await
}

fn trusting(ca: &Path) -> String {
    format!("ca = {ca:?}\nserver_name = \"peer.test\"")
}

/// Makes a call that Weir refuses: no endpoint may be spoken to.
async fn refused(weir: &Weir) {
    let client = endpoint::Client::connect(weir.http).await;
    let ended = client.call("/t.Peer/Unary", None, &[b"x"]).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("14", "upstream_tls"), "{}", weir.log());
}

/// An endpoint that speaks TLS, with these protocols, and nothing inside.
fn mute(authority: &Authority, protocols: &[&[u8]]) -> (SocketAddr, JoinHandle<()>) {
    let pair = authority.issue(&["peer.test"]);
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(session) = acceptor.accept(socket).await {
                assert_eq!(session.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn an_endpoint_that_does_not_select_http2_is_not_spoken_to() {
    let (authority, files) = (Authority::new(), Folder::new("grpc-alpn"));
    let ca = files.write("ca.pem", &authority.pem());
    // One knows nothing of ALPN, the other only HTTP/1.1: it says so in an alert.
    for (protocols, said) in [
        (&[][..], "it speaks TLS but does not select HTTP/2 (ALPN h2)"),
        (&[&b"http/1.1"[..]][..], "NoApplicationProtocol"),
    ] {
        let (address, task) = mute(&authority, protocols);
        let weir = front("grpc-alpn", address, &trusting(&ca), "").await;
        weir.settled("app", 1, LIMIT).await;
        refused(&weir).await;
        assert!(weir.log().contains(said), "{said}: {}", weir.log());
        task.abort();
    }
}

#[tokio::test]
async fn both_sides_show_certificates_and_health_checks_go_over_tls() {
    let (authority, files) = (Authority::new(), Folder::new("grpc-mtls"));
    let (ca, root) = (files.write("ca.pem", &authority.pem()), Certificate::from_pem(authority.pem()));
    let pair = authority.issue(&["peer.test"]);
    let identity = Identity::from_pem(&pair.certificate, &pair.key);
    let peer = Peer::start_with(Some(ServerTlsConfig::new().identity(identity).client_ca_root(root))).await;
    authority.issue_client("weir", 7).write(&files, "client");
    let own = format!("certificate = {:?}\nkey = {:?}", files.0.join("client.pem"), files.0.join("client.key"));
    let health = "[service.health]\ntype = \"grpc\"\ninterval = \"1s\"\n";

    let weir = front("grpc-mtls", peer.address, &format!("{}\n{own}", trusting(&ca)), health).await;
    weir.settled("app", 1, LIMIT).await;
    let mut client = Client::connect(weir.http).await;
    let answer = client.unary("/t.Peer/Unary", Request::new(Bytes::from_static(b"x"))).await.unwrap();
    assert_eq!(answer, "x");
    assert_eq!(peer.schemes(), ["https"]);

    // No certificate of our own, another name, an authority that nobody here knows: nothing is sent.
    let stranger = files.write("stranger.pem", &Authority::new().pem());
    for (index, tls) in [
        trusting(&ca),
        format!("ca = {ca:?}\nserver_name = \"other.test\"\n{own}"),
        format!("{}\n{own}", trusting(&stranger)),
    ]
    .iter()
    .enumerate()
    {
        let weir = front(&format!("grpc-mtls-{index}"), peer.address, tls, "").await;
        weir.settled("app", 1, LIMIT).await;
        let client = endpoint::Client::connect(weir.http).await;
        let ended = client.call("/t.Peer/Unary", None, &[b"x"]).await.unwrap();
        // In TLS 1.3 a client's certificate is asked for after its own side is done: the connection ends at its first use.
        let reasons: &[&str] =
            if index == 0 { &["upstream_tls", "upstream_reset", "connect_failed"] } else { &["upstream_tls"] };
        assert!(ended.status == "14" && reasons.contains(&ended.reason.as_str()), "{ended:?} {tls}");
    }
    assert_eq!(peer.calls(), 1);
}

#[tokio::test]
async fn a_health_check_over_tls_says_why_it_fails() {
    let (authority, files) = (Authority::new(), Folder::new("grpc-health"));
    let ca = files.write("ca.pem", &authority.pem());
    let (address, task) = mute(&authority, &[]);
    let health = "[service.health]\ntype = \"grpc\"\ninterval = \"1s\"\n";
    let weir = front("grpc-health", address, &trusting(&ca), health).await;
    let said = crate::support::eventually("the outcome of a check", LIMIT, async || {
        let all = weir.instances().await;
        let reason = all.first()?["reason"].as_str()?.to_owned();
        reason.contains("TLS").then_some(reason)
    })
    .await;
    assert!(said.contains("it speaks TLS but does not select HTTP/2 (ALPN h2)"), "{said}");
    task.abort();
}
