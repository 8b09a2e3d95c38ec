//! What only some may see, and what others have to be told: tokens that are taken back, and authorities of endpoints.

use crate::support;
use crate::support::http::{Raw, get};
use crate::support::process::{Folder, Weir, free_address};
use crate::world::{SETTLED, beside, has, service, subscriber, table};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

const FIRST: &str = "0123456789abcdef-first";
const SECOND: &str = "0123456789abcdef-second";

/// Puts a file in the place of another.
fn replace(folder: &Folder, name: &str, text: &str) {
    folder.write("new", text);
    std::fs::rename(folder.0.join("new"), folder.0.join(name)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_taken_back_ends_what_followed_with_it() {
    let _beside = beside().await;
    let (here, there) = (Folder::new("taken-origin"), Folder::new("taken-edge"));
    let (known, shown) = (here.write("tokens", FIRST), there.write("token", FIRST));
    let remote = free_address();
    let door = format!("[admin.remote]\nlisten = \"{remote}\"\ntoken_file = \"{}\"\n\n", known.display());
    let origin = Weir::start("taken-origin", &format!("{door}{}", service(1))).await;
    origin.settled("web", 1, SETTLED).await;
    let source =
        format!("[source.weir]\nfrom = \"{remote}\"\ntoken_file = \"{}\"\nname = \"taken-edge\"\n", shown.display());
    let edge = Weir::start("taken-edge", &source).await;
    has(&edge, 1).await;
    subscriber(&origin, "taken-edge", "following").await;
    // One that acknowledges nothing, so that nothing of it is asked for its token any more.
    let mut onlooker = Raw::connect(remote).await.unwrap();
    let path = "/v1/table?watch&heartbeat_ms=50";
    onlooker.send(&format!("GET {path} HTTP/1.1\r\nHost: far\r\nAuthorization: Bearer {FIRST}\r\n\r\n")).await;
    assert!(onlooker.stream.read_u8().await.is_ok());

    replace(&here, "tokens", SECOND);
    let finished = origin.cli(&["reload"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert!(String::from_utf8_lossy(&onlooker.rest().await).contains("\"hello\""));
    let problem = support::eventually("the follower says why it is lost", SETTLED, || async {
        let source = table(&edge).await["sources"][0].clone();
        let problem = source["problem"].as_str().unwrap_or_default().to_owned();
        (source["state"] == "lost" && problem.contains("the token is not taken")).then_some(problem)
    })
    .await;
    println!("a token was taken back; the follower says: {problem}");
    assert!(edge.cli(&["status"]).await.out.contains("the token is not taken"));
    subscriber(&origin, "taken-edge", "silent").await;
    assert_eq!(get(edge.http, "/").await.status, 200, "it serves the table that it has");
    let metrics = get(origin.admin, "/metrics").await.text();
    let refused = metrics.lines().find_map(|line| line.strip_prefix("weir_admin_remote_refused_total "));
    assert!(refused.is_some_and(|count| count != "0"), "{metrics}");

    // With the new one it is back.
    replace(&there, "token", SECOND);
    subscriber(&origin, "taken-edge", "following").await;
    support::eventually("the source is used", SETTLED, || async {
        (table(&edge).await["sources"][0]["state"] == "used").then_some(())
    })
    .await;
}

/// A server that answers every request in TLS.
async fn secure(made: &rcgen::CertifiedKey<rcgen::KeyPair>) -> SocketAddr {
    let (chain, key) = (vec![made.cert.der().clone()], made.signing_key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key.try_into().unwrap());
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut octets = vec![0; 4096];
                while stream.read(&mut octets).await.is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_needs_no_file_of_the_authorities_that_a_told_service_names() {
    let _beside = beside().await;
    let make = || rcgen::generate_simple_self_signed(["app.test".to_owned()]).unwrap();
    let (first, second) = (make(), make());
    let folder = Folder::new("authorities");
    let ca = folder.write("ca.pem", &format!("{}{}", first.signing_key.serialize_pem(), first.cert.pem()));
    let (one, two) = (secure(&first).await, secure(&second).await);
    let text = format!(
        "[[route]]\nname = \"web\"\nservice = \"web\"\n\n[[service]]\nname = \"web\"\n
[service.tls]\nca = \"{}\"\nserver_name = \"app.test\"\n\n[[service.endpoint]]\naddress = \"{one}\"\n",
        ca.display()
    );
    let origin = Weir::start("ca-origin", &text).await;
    has(&origin, 1).await;
    let edge =
        Weir::start("ca-edge", &format!("[source.weir]\nfrom = \"{}\"\nname = \"ca-edge\"\n", origin.admin)).await;
    has(&edge, 1).await;
    let told = edge.folder.0.join("state/table.jsonl");
    // As on another machine: there is no such file.
    std::fs::rename(&ca, folder.0.join("away.pem")).unwrap();
    let answer = get(edge.http, "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{}", edge.log());
    support::eventually("it is kept", SETTLED, || async { told.exists().then_some(()) }).await;
    assert!(!std::fs::read_to_string(&told).unwrap().contains("PRIVATE KEY"), "certificates only are told");
    // Others are told when the file says so.
    replace(&folder, "ca.pem", &second.cert.pem());
    let path = origin.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace(&one.to_string(), &two.to_string());
    replace(&origin.folder, "weir.toml", &text);
    assert_eq!(origin.cli(&["reload"]).await.code, 0);
    support::eventually("the other authority is told", SETTLED, || async {
        (get(edge.http, "/").await.status == 200).then_some(())
    })
    .await;
    drop(path);
}
