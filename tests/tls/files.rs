//! Files of certificates that change while they are served.

use super::authority::{Authority, Pair};
use super::client::Client;
use super::support::backend::answering;
use super::support::eventually;
use super::support::process::{Folder, weir};
use super::{WAIT, World, folder};
use rustls::pki_types::CertificateDer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Swaps in the short form and in the long one.
const SWAPS: [usize; 2] = [10, 100];

/// Replaces both files as tools do: each by a rename, so that for a moment they do not belong together.
fn swap(files: &Folder, pair: &Pair) {
    for (name, text) in [("app.pem", &pair.certificate), ("app.key", &pair.key)] {
        let fresh = files.write("next", text);
        std::fs::rename(fresh, files.0.join(name)).unwrap();
    }
}

async fn shown(client: &Client, world: &World) -> CertificateDer<'static> {
    let stream = client.connect(world.https, "app.test").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

async fn swapped_under_load(name: &str, swaps: usize) {
    let (authority, files) = (Authority::new(), folder(name));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let world = World::start(name, answering("fine"), &format!("certificates = [{entry}]"), "").await;
    let (ends, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (client, ends, passed, https) = (Client::fresh(&authority), ends.clone(), passed.clone(), world.https);
            tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    let answer = client.get(https, "app.test", "/").await.unwrap();
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    passed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let looker = Client::fresh(&authority);
    for _ in 0..swaps {
        let before = shown(&looker, &world).await;
        swap(&files, &authority.issue(&["app.test"]));
        let changed = || async { (shown(&looker, &world).await != before).then_some(()) };
        eventually("the new certificate is shown", WAIT, changed).await;
    }
    ends.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    println!("{swaps} swaps, {} handshakes with a request each, 0 failed", passed.load(Ordering::Relaxed));
    assert_eq!(world.metric("weir_certificates_refused").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_under_load_without_a_failed_handshake() {
    swapped_under_load("tls-swap", SWAPS[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "100 swaps: tests/run --long"]
async fn certificates_are_swapped_a_hundred_times_under_load_without_a_failed_handshake() {
    swapped_under_load("tls-swap-long", SWAPS[1]).await;
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_is_named() {
    let (authority, files) = (Authority::new(), folder("tls-bad"));
    let good = authority.issue(&["app.test"]);
    let entry = good.write(&files, "app");
    let world = World::start("tls-bad", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    let client = Client::fresh(&authority);
    let before = shown(&client, &world).await;
    let config = world.weir.folder.0.join("weir.toml");
    let config = config.to_str().unwrap();
    assert_eq!(weir(&["check", config]).await.code, 0);
    let other = authority.issue(&["app.test"]);
    let half = &good.certificate[..good.certificate.len() / 2];
    let expired = authority.issue_expired(&["app.test"]);
    for (what, certificate, key, said) in [
        ("half a file", half, &good.key, "no certificate in it"),
        ("another key", &good.certificate, &other.key, "does not belong to the certificate"),
        ("expired", &expired.certificate, &expired.key, "expired"),
        ("no key", &good.certificate, &good.certificate, "no private key in it"),
    ] {
        files.write("app.pem", certificate);
        files.write("app.key", key);
        let named = || async { world.weir.cli(&["status"]).await.out.contains(said).then_some(()) };
        eventually(what, WAIT, named).await;
        assert_eq!(shown(&client, &world).await, before, "{what}");
        assert!(world.weir.log().contains(said), "{what}: {}", world.weir.log());
        assert_eq!(world.metric("weir_certificates_refused").await, 1, "{what}");
        let check = weir(&["check", config]).await;
        assert!(check.code == 2 && check.err.contains(said), "{what}: {}", check.err);
        // And it is over with the right files.
        swap(&files, &good);
        let over = || async { (world.metric("weir_certificates_refused").await == 0).then_some(()) };
        eventually("the right files are there again", WAIT, over).await;
    }
    std::fs::remove_file(files.0.join("app.key")).unwrap();
    let named = || async { world.weir.cli(&["status"]).await.out.contains("No such file").then_some(()) };
    eventually("the missing file is named", WAIT, named).await;
    assert_eq!(shown(&client, &world).await, before);
}
