//! A certificate from its order to the client, and its renewal.

use crate::{Pebble, World, connect, curl, leaf};
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Starts a pebble that looks at the addresses of a Weir that is not started yet: the Weir asks again until it can be seen.
async fn obtain(challenge: &str) -> (Pebble, World, String, Vec<u8>) {
    let name = "shop.example.test";
    let ports = crate::proxy::Forwards::new().await;
    let pebble = Pebble::start(ports.http.port(), ports.https.port()).await;
    let directory = pebble.directory();
    let acme = format!("challenges = [\"{challenge}\"]\nemail = \"ops@example.test\"");
    let tls = format!("acme = [\"{name}\"]");
    let world = World::start(challenge, Some((&directory, &pebble.own_root)), &acme, &tls).await;
    ports.lead_to(world.weir.http, world.https);
    let root = pebble.root().await;
    // What was tried before the ports led anywhere.
    if world.certificate(name).await["issuer"].is_null() {
        assert_eq!(world.weir.cli(&["certificates", "renew", name]).await.code, 0);
    }
    let shown = world.shown(name, &root).await;
    (pebble, world, root, shown)
}

#[tokio::test]
async fn http_01_brings_a_certificate_that_is_served_without_a_restart_and_kept_across_one() {
    let (pebble, mut world, root, first) = obtain("http-01").await;
    assert_eq!(curl(&world, "shop.example.test", &root).await, "fine");
    let listed = world.certificate("shop.example.test").await;
    assert_eq!((&listed["source"], &listed["failures"]), (&"acme".into(), &0.into()), "{listed}");
    assert!(listed["issuer"].as_str().unwrap().contains("Pebble"), "{listed}");
    assert!(listed["next_unix_ms"].as_u64() < listed["not_after_unix_ms"].as_u64(), "{listed}");
    // A token that is not ours is a request like any other.
    let other = crate::support::http::get(world.weir.http, "/.well-known/acme-challenge/other").await;
    assert_eq!((other.status, other.text().as_str()), (200, "fine"));
    let log = world.weir.folder.0.join("state/weir.redb");
    assert_eq!(std::fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o600);

    world.weir.kill();
    world.weir.child.wait().await.unwrap();
    world.weir.respawn();
    world.weir.ready().await;
    assert_eq!(leaf(world.https, "shop.example.test", &root).await.unwrap(), first, "the stored one, from the start");
    // A renewal by the stored account, while a connection is open.
    let mut open = connect(world.https, "shop.example.test", &root).await.unwrap();
    assert_eq!(world.weir.cli(&["certificates", "renew", "shop.example.test"]).await.code, 0);
    world.renewed("shop.example.test", &root, &first).await;
    open.write_all(b"GET / HTTP/1.1\r\nHost: shop.example.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!pebble.log().contains("There are now 2 accounts"), "{}", pebble.log());
    assert!(pebble.log().contains("There are now 1 accounts"), "{}", pebble.log());
    assert_eq!(world.metric("weir_certificate_orders_total{origin=\"acme\",result=\"issued\"}").await, 1);
    let unknown = world.weir.cli(&["certificates", "renew", "other.example.test"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
}

#[tokio::test]
async fn tls_alpn_01_brings_a_certificate() {
    let (_pebble, world, root, _) = obtain("tls-alpn-01").await;
    assert_eq!(curl(&world, "shop.example.test", &root).await, "fine");
    let table = world.weir.cli(&["certificates"]).await;
    assert!(table.out.contains("shop.example.test  acme    Pebble"), "{}", table.out);
}
