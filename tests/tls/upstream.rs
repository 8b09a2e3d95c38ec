//! TLS towards endpoints: Weir in front of another Weir that speaks it.

use super::authority::{Authority, Pair};
use super::support::backend::answering;
use super::support::eventually;
use super::support::http::{Answer, Raw};
use super::support::process::{Folder, Weir, free_address};
use super::{WAIT, World, folder};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const HEALTH: &str = "[service.health]\ntype = \"http\"\ninterval = \"1s\"\n";

/// Asks for the host that the endpoint is for.
async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n");
    Raw::connect(address).await.unwrap().exchange(request).await
}

/// A Weir whose only endpoint is a listener with TLS.
async fn front(name: &str, endpoint: &World, tls: &str, health: &str) -> Weir {
    let toml = format!(
        "[[route]]\nname = \"app\"\nservice = \"secure\"\n\n[[service]]\nname = \"secure\"\n[service.tls]\n{tls}\n\
         {health}\n[[service.endpoint]]\naddress = \"{}\"\n",
        endpoint.https
    );
    Weir::start(name, &toml).await
}

async fn endpoint(name: &str, files: &Folder, pair: &Pair, more: &str) -> World {
    let entry = pair.write(files, "endpoint");
    World::start(name, answering("fine"), &format!("certificates = [{entry}]\n{more}"), "").await
}

#[tokio::test]
async fn an_endpoint_s_certificate_is_checked_and_connections_are_pooled() {
    let (authority, files) = (Authority::new(), folder("tls-up"));
    let ca = files.write("ca.pem", &authority.pem());
    let world = endpoint("tls-up-end", &files, &authority.issue(&["api.test"]), "").await;
    let tls = format!("ca = {ca:?}\nserver_name = \"api.test\"");
    let weir = front("tls-up-good", &world, &tls, HEALTH).await;
    weir.settled("secure", 1, WAIT).await;
    // Health checks have a connection for each attempt: requests are told apart by resumption of what they share.
    for _ in 0..20 {
        let answer = get(weir.http, "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{}", answer.head);
    }
    let seen = world.backend.received_text();
    assert!(seen.contains("X-Forwarded-Proto: https\r\n"), "{seen}");
    let handshakes = world.metric("weir_tls_handshakes_total{result=\"ok\",resumed=\"false\",version=\"1.3\"}").await;
    assert!(handshakes <= 6, "20 requests shared connections, but there were {handshakes} handshakes");

    // Another name, another authority: nothing is sent.
    let stranger = files.write("stranger.pem", &Authority::new().pem());
    for (i, tls) in [
        format!("ca = {ca:?}\nserver_name = \"other.test\""),
        format!("ca = {ca:?}"),
        format!("ca = {stranger:?}\nserver_name = \"api.test\""),
    ]
    .iter()
    .enumerate()
    {
        let weir = front(&format!("tls-up-bad-{i}"), &world, tls, "").await;
        weir.settled("secure", 1, WAIT).await;
        let answer = get(weir.http, "/bad").await;
        assert_eq!((answer.status, answer.field("weir-reason")), (502, Some("upstream_tls")), "{tls}");
    }
    let missing = front("tls-up-missing", &world, "ca = \"/nonexistent/ca.pem\"", "").await;
    missing.settled("secure", 1, WAIT).await;
    let answer = get(missing.http, "/bad").await;
    assert_eq!((answer.status, answer.field("weir-reason")), (503, Some("tls_unavailable")));
    assert!(!world.backend.received_text().contains("/bad"));

    // Off only in so many words, and said aloud.
    let off = front("tls-up-off", &world, "verify = \"off\"", "").await;
    off.settled("secure", 1, WAIT).await;
    assert_eq!(get(off.http, "/").await.status, 200);
    assert!(off.log().contains("certificates of endpoints are not checked"), "{}", off.log());
}

#[tokio::test]
async fn weir_shows_its_certificate_to_an_endpoint_that_asks() {
    let (authority, files) = (Authority::new(), folder("tls-up-client"));
    let ca = files.write("ca.pem", &authority.pem());
    let policy = format!("client_certificate = \"required\"\nclient_ca = {ca:?}");
    let world = endpoint("tls-up-ask", &files, &authority.issue(&["api.test"]), &policy).await;
    authority.issue_client("weir", 7).write(&files, "client");
    let own = format!("certificate = {:?}\nkey = {:?}", files.0.join("client.pem"), files.0.join("client.key"));
    let tls = format!("ca = {ca:?}\nserver_name = \"api.test\"\n{own}");
    let weir = front("tls-up-shown", &world, &tls, HEALTH).await;
    weir.settled("secure", 1, WAIT).await;
    assert_eq!(get(weir.http, "/").await.status, 200);
    assert!(world.backend.received_text().contains("X-Client-Cert-Subject: "), "{}", world.backend.received_text());
}

#[tokio::test]
async fn nginx_is_spoken_to_in_tls() {
    let (authority, files) = (Authority::new(), folder("tls-nginx"));
    let ca = files.write("ca.pem", &authority.pem());
    authority.issue(&["127.0.0.1"]).write(&files, "nginx");
    let port = free_address().port();
    let at = files.0.display();
    let conf = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {at}/b;\nproxy_temp_path {at}/p;\nfastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {at}/nginx.pem; ssl_certificate_key {at}/nginx.key;\n\
         location / {{ return 200 nginx; }} }} }}\n"
    );
    let conf = files.write("nginx.conf", &conf);
    let _nginx = tokio::process::Command::new("nginx").arg("-c").arg(conf).kill_on_drop(true).spawn().unwrap();
    let toml = format!(
        "[[route]]\nname = \"app\"\nservice = \"secure\"\n\n[[service]]\nname = \"secure\"\n[service.tls]\nca = {ca:?}\n\
         {HEALTH}\n[[service.endpoint]]\naddress = \"127.0.0.1:{port}\"\n"
    );
    let weir = Weir::start("tls-nginx", &toml).await;
    weir.settled("secure", 1, WAIT).await;
    for _ in 0..3 {
        let answer = get(weir.http, "/").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "nginx"), "{}", answer.head);
    }
}

#[tokio::test]
async fn a_tcp_service_s_endpoints_are_spoken_to_in_tls() {
    let (authority, files) = (Authority::new(), folder("tls-tcp"));
    let ca = files.write("ca.pem", &authority.pem());
    let world = endpoint("tls-tcp-end", &files, &authority.issue(&["api.test"]), "").await;
    let good = format!("ca = {ca:?}\nserver_name = \"api.test\"");
    let bad = format!("ca = {ca:?}\nserver_name = \"other.test\"");
    for (name, tls, served) in [("tls-tcp-good", good, true), ("tls-tcp-bad", bad, false)] {
        let raw = free_address();
        let toml = format!(
            "[[listener]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\nservice = \"secure\"\n\n\
             [[service]]\nname = \"secure\"\n[service.tls]\n{tls}\n[[service.endpoint]]\naddress = \"{}\"\n",
            world.https
        );
        let weir = Weir::start(name, &toml).await;
        weir.settled("secure", 1, WAIT).await;
        // What is passed on in clear text on this side is a request inside of TLS on the other.
        let mut client = Raw::connect(raw).await.unwrap();
        client.send(b"GET /raw HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n").await;
        if served {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{}", answer.head);
            assert!(client.rest().await.is_empty());
        } else {
            // Nobody may read it: the connection is reset, and the log says why.
            assert!(client.rest().await.is_empty());
            assert!(weir.log().contains("other.test"), "{}", weir.log());
        }
    }
    assert_eq!(world.backend.received_text().matches("GET /raw ").count(), 1);
}

#[tokio::test]
async fn an_authority_of_endpoints_that_cannot_be_used_changes_nothing_and_is_named() {
    let (authority, files) = (Authority::new(), folder("tls-up-reload"));
    let ca = files.write("ca.pem", &authority.pem());
    let world = endpoint("tls-up-reload-end", &files, &authority.issue(&["api.test"]), "").await;
    let tls = format!("ca = {ca:?}\nserver_name = \"api.test\"");
    let weir = front("tls-up-reload", &world, &tls, "").await;
    weir.settled("secure", 1, WAIT).await;
    assert_eq!(get(weir.http, "/").await.status, 200);
    files.write("ca.pem", "half of it");
    let named = || async {
        let status = weir.cli(&["status"]).await.out;
        status.contains("endpoints: ").then_some(status)
    };
    let status = eventually("the file is named", WAIT, named).await;
    assert!(status.contains("ca.pem: no certificate in it; what was read before stays in use"), "{status}");
    assert_eq!(get(weir.http, "/").await.status, 200);
    files.write("ca.pem", &authority.pem());
    let over = || async { (!weir.cli(&["status"]).await.out.contains("endpoints: ")).then_some(()) };
    eventually("the right file is there again", WAIT, over).await;
}

/// An endpoint that speaks TLS and ends its answer with the connection: in order, or by the end of the socket alone.
async fn ending(pair: &Pair, in_order: bool) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // Who only looks whether somebody is there says nothing.
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut head = [0; 4096];
            if stream.read(&mut head).await.unwrap_or(0) == 0 {
                continue;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await.unwrap();
            stream.flush().await.unwrap();
            match in_order {
                true => stream.shutdown().await.unwrap(),
                false => stream.get_mut().0.shutdown().await.unwrap(),
            }
            // Until the other side has gone, so that nothing is reset.
            let _ = stream.read(&mut head).await;
        }
    });
    address
}

#[tokio::test]
async fn a_body_that_ends_without_close_notify_is_truncated_rfc8446_6_1() {
    let (authority, files) = (Authority::new(), folder("tls-up-end"));
    let ca = files.write("ca.pem", &authority.pem());
    let pair = authority.issue(&["api.test"]);
    for in_order in [true, false] {
        let endpoint = ending(&pair, in_order).await;
        let toml = format!(
            "[[route]]\nname = \"app\"\nservice = \"secure\"\n\n[[service]]\nname = \"secure\"\n[service.tls]\n\
             ca = {ca:?}\nserver_name = \"api.test\"\n[[service.endpoint]]\naddress = \"{endpoint}\"\n"
        );
        let weir = Weir::start(&format!("tls-up-end-{in_order}"), &toml).await;
        weir.settled("secure", 1, WAIT).await;
        let mut client = Raw::connect(weir.http).await.unwrap();
        client.send("GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").await;
        match client.try_answer(false).await {
            Ok(answer) => assert!(in_order && answer.text() == "all of it", "{in_order}: {answer:?}"),
            Err(broken) => assert!(!in_order, "{broken:?}"),
        }
    }
}
