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
        ("half a file", half, &good.key, "is cut off"),
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
        let listed = world.weir.cli(&["certificates"]).await.out;
        assert!(listed.contains("listener https") && listed.contains(said), "{what}: {listed}");
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

/// The line of a refused file in the metrics.
fn refused(owner: &str, file: &std::path::Path) -> String {
    format!("weir_certificate_file_refused{{file=\"{}\",owner=\"{owner}\"}}", file.display())
}

#[tokio::test]
async fn authorities_and_lists_that_cannot_be_used_change_nothing_and_are_named() {
    let (authority, files) = (Authority::new(), folder("tls-bad-policy"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let (good_ca, good_crl) = (authority.pem(), authority.revoke(&[7]));
    let (ca, crl) = (files.write("ca.pem", &good_ca), files.write("crl.pem", &good_crl));
    let policy = format!(
        "certificates = [{entry}]\nclient_certificate = \"required\"\nclient_ca = {ca:?}\nclient_crl = {crl:?}"
    );
    let world = World::start("tls-bad-policy", answering("fine"), &policy, "").await;
    let config = world.weir.folder.0.join("weir.toml");
    let config = config.to_str().unwrap();
    let check = weir(&["check", config]).await;
    assert_eq!(check.code, 0, "{}", check.err);
    let allowed = Client::new(&authority, rustls::ALL_VERSIONS, Some(&authority.issue_client("good", 8)));
    let fine = || async { allowed.get(world.https, "app.test", "/").await.unwrap() };
    assert!(fine().await.starts_with("HTTP/1.1 200 "));
    let no_list = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n".to_owned();
    let no_authority = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_owned();
    for (file, key, good, bad, said) in [
        (&ca, "client_ca", &good_ca, &good_ca[..good_ca.len() / 2], "is cut off"),
        (&ca, "client_ca", &good_ca, "", "no certificate in it"),
        (&ca, "client_ca", &good_ca, &*no_authority, "its certificate 1 cannot be used"),
        (&crl, "client_crl", &good_crl, &good_crl[..good_crl.len() / 2], "is cut off"),
        (&crl, "client_crl", &good_crl, &*good_ca, "no list of revoked certificates in it"),
        (&crl, "client_crl", &good_crl, &*no_list, "its list 1 cannot be used"),
    ] {
        std::fs::write(file, bad).unwrap();
        let line = refused("listener https", file);
        eventually(said, WAIT, || async { (world.metric(&line).await == 1).then_some(()) }).await;
        let status = world.weir.cli(&["status"]).await.out;
        let sentence = format!("listener https: {}: {said}", file.display());
        assert!(status.contains(&sentence) && status.contains("what was read before stays in use"), "{status}");
        assert!(world.weir.cli(&["certificates"]).await.out.contains(said));
        assert!(world.weir.log().contains(said), "{said}: {}", world.weir.log());
        assert!(fine().await.starts_with("HTTP/1.1 200 "), "{said}");
        let check = weir(&["check", config]).await;
        assert!(check.code == 2 && check.err.contains(said) && check.err.contains(key), "{said}: {}", check.err);
        let next = files.write("next", good);
        std::fs::rename(next, file).unwrap();
        let over = || async { (world.metric("weir_certificates_refused").await == 0).then_some(()) };
        eventually("the right file is there again", WAIT, over).await;
    }
}

#[tokio::test]
async fn check_names_every_file_of_a_service_that_cannot_be_used() {
    let (authority, files) = (Authority::new(), folder("tls-check-service"));
    let ca = files.write("ca.pem", &authority.pem());
    let own = authority.issue_client("weir", 7);
    own.write(&files, "own");
    let other = files.write("other.key", &authority.issue_client("other", 8).key);
    let expired = files.write("expired.pem", &authority.issue_expired(&["weir"]).certificate);
    let half = files.write("half.pem", &own.certificate[..own.certificate.len() / 2]);
    let (certificate, key) = (files.0.join("own.pem"), files.0.join("own.key"));
    let (missing, folder) = (files.0.join("missing.pem"), files.0.clone());
    let toml = |ca: &std::path::Path, certificate: &std::path::Path, key: &std::path::Path| {
        let text = format!(
            "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:8080\"\n[[route]]\nname = \"a\"\nservice = \"a\"\n\
             [[service]]\nname = \"a\"\n[service.tls]\nca = {ca:?}\ncertificate = {certificate:?}\nkey = {key:?}\n\
             [[service.endpoint]]\naddress = \"127.0.0.1:9000\"\n"
        );
        files.write("weir.toml", &text)
    };
    let good = toml(&ca, &certificate, &key);
    let check = weir(&["check", good.to_str().unwrap()]).await;
    assert_eq!(check.code, 0, "{}", check.err);
    for (ca, certificate, key, named, said) in [
        (&missing, &certificate, &key, "service.a.tls.ca", "No such file"),
        (&folder, &certificate, &key, "service.a.tls.ca", "is no regular file"),
        (&expired, &certificate, &key, "service.a.tls.ca", "has expired"),
        (&ca, &half, &key, "service.a.tls.certificate", "is cut off"),
        (&ca, &key, &key, "service.a.tls.certificate", "no certificate in it"),
        (&ca, &certificate, &other, "service.a.tls.key", "does not belong to the certificate"),
        (&ca, &certificate, &certificate, "service.a.tls.key", "no private key in it"),
    ] {
        let path = toml(ca, certificate, key);
        let check = weir(&["check", path.to_str().unwrap()]).await;
        assert!(check.code == 2 && check.err.contains(named) && check.err.contains(said), "{said}: {}", check.err);
        assert!(check.err.contains("weir.toml:"), "{}", check.err);
    }
}
