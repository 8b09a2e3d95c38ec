//! Names that nobody listed: ordered when a client asks, if whoever is asked allows it, and not too often.

use crate::proxy::Forwards;
use crate::support::eventually;
use crate::{Pebble, WAIT, World, leaf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers whether a name is welcome: those that begin with `good`, while `welcome`. Returns its URL and counts what it was
/// asked.
async fn asker(welcome: Arc<AtomicBool>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/allowed", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut head = vec![0; 4096];
            let Ok(n) = stream.read(&mut head).await else { continue };
            let line = String::from_utf8_lossy(&head[..n]).lines().next().unwrap_or_default().to_owned();
            let is_good = line.contains("/allowed?domain=good") && welcome.load(Ordering::SeqCst);
            let status = if is_good { "200 OK" } else { "403 Forbidden" };
            seen.lock().unwrap().push(line);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, asked)
}

#[tokio::test]
async fn a_welcome_name_gets_a_certificate_while_its_client_waits_and_others_are_refused() {
    let ports = Forwards::new().await;
    let pebble = Pebble::start(ports.http.port(), ports.https.port()).await;
    let (ask, asked) = asker(Arc::new(AtomicBool::new(true))).await;
    let acme = format!("on_demand_ask = \"{ask}\"\non_demand_per_hour = 3");
    let directory = pebble.directory();
    let world = World::start("on-demand", Some((&directory, &pebble.own_root)), &acme, "on_demand = true").await;
    ports.lead_to(world.weir.http, world.https);
    let root = pebble.root().await;
    // Two clients at once are one order.
    let name = "good.example.test";
    let both = tokio::join!(leaf(world.https, name, &root), leaf(world.https, name, &root));
    assert_eq!(both.0.unwrap(), both.1.unwrap());
    assert_eq!(pebble.log().matches("Added order").count(), 1, "{}", pebble.log());
    assert_eq!(world.certificate(name).await["on_demand"], true);

    for _ in 0..3 {
        assert!(leaf(world.https, "bad.example.test", &root).await.is_err());
    }
    for line in ["127.0.0.1", "nodots", "under_score.example.test"] {
        let _ = tokio::time::timeout(WAIT, leaf(world.https, line, &root)).await;
    }
    assert_eq!(asked.lock().unwrap().len(), 2, "once each: {asked:?}");
    assert_eq!(world.certificate("bad.example.test").await, serde_json::Value::Null);

    // The third of the hour is the last.
    assert!(leaf(world.https, "good-2.example.test", &root).await.is_ok());
    assert!(leaf(world.https, "good-3.example.test", &root).await.is_err());
    assert_eq!(asked.lock().unwrap().len(), 3, "{asked:?}");
    assert!(leaf(world.https, name, &root).await.is_ok(), "who has one is served on");
}

#[tokio::test]
async fn a_name_is_renewed_only_while_it_is_welcome() {
    let ports = Forwards::new().await;
    let pebble = Pebble::start(ports.http.port(), ports.https.port()).await;
    let welcome = Arc::new(AtomicBool::new(true));
    let (ask, asked) = asker(welcome.clone()).await;
    let acme = format!("on_demand_ask = \"{ask}\"");
    let directory = pebble.directory();
    let world = World::start("on-demand-renew", Some((&directory, &pebble.own_root)), &acme, "on_demand = true").await;
    ports.lead_to(world.weir.http, world.https);
    let root = pebble.root().await;
    let name = "good.example.test";
    let first = leaf(world.https, name, &root).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 1, "the first time it is asked about once: {asked:?}");

    welcome.store(false, Ordering::SeqCst);
    assert_eq!(world.weir.cli(&["certificates", "renew", name]).await.code, 0);
    let refused = || async {
        let error = world.certificate(name).await["error"].as_str().unwrap_or_default().to_owned();
        error.contains("answered 403").then_some(())
    };
    eventually("the renewal is refused", WAIT, refused).await;
    assert_eq!(asked.lock().unwrap().len(), 2, "{asked:?}");
    assert_eq!(pebble.log().matches("Added order").count(), 1, "nothing was ordered: {}", pebble.log());
    assert_eq!(leaf(world.https, name, &root).await.unwrap(), first, "what there is is served until it expires");

    welcome.store(true, Ordering::SeqCst);
    assert_eq!(world.weir.cli(&["certificates", "renew", name]).await.code, 0);
    assert_ne!(world.renewed(name, &root, &first).await, first);
    assert_eq!(asked.lock().unwrap().len(), 3, "{asked:?}");
}
