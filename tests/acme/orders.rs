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

#[tokio::test]
async fn an_account_is_bound_to_a_key_of_the_authority_and_not_made_without() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let name = "bound.example.test";
    let ports = crate::proxy::Forwards::new().await;
    let pebble = Pebble::with_keys(ports.http.port(), ports.https.port(), &[("kid-1", KEY)]).await;
    let directory = pebble.directory();
    let folder = crate::support::process::Folder::new("eab");
    let (good, other) = (folder.write("good.key", &format!("{KEY}\n")), folder.write("other.key", &KEY[4..]));
    let tls = format!("acme = [\"{name}\"]");
    let bound = |id: &str, file: &std::path::Path| format!("eab_key_id = \"{id}\"\neab_key_file = {file:?}");
    for (i, acme) in [String::new(), bound("kid-1", &other), bound("kid-2", &good)].iter().enumerate() {
        let world = World::start(&format!("eab-bad-{i}"), Some((&directory, &pebble.own_root)), acme, &tls).await;
        let failed = || async { world.certificate(name).await["error"].as_str().map(str::to_owned) };
        let error = crate::support::eventually("the account is refused", crate::WAIT, failed).await;
        assert!(!error.is_empty() && !pebble.log().contains("Added order"), "{error}: {}", pebble.log());
    }
    let acme = bound("kid-1", &good);
    let world = World::start("eab-good", Some((&directory, &pebble.own_root)), &acme, &tls).await;
    ports.lead_to(world.weir.http, world.https);
    if world.certificate(name).await["issuer"].is_null() {
        assert_eq!(world.weir.cli(&["certificates", "renew", name]).await.code, 0);
    }
    world.shown(name, &pebble.root().await).await;

    // A key that is none is found by `weir check`, and the log says so.
    let config = world.weir.folder.0.join("weir.toml");
    let check = || async { crate::support::process::weir(&["check", config.to_str().unwrap()]).await };
    assert_eq!(check().await.code, 0);
    std::fs::write(&good, "not a key!").unwrap();
    let said = check().await;
    assert!(
        said.code == 2 && said.err.contains("acme.eab_key_file") && said.err.contains("is no base64url"),
        "{said:?}"
    );
}
