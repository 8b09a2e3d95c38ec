//! Certificates of clients, resumption, real clients, and what a plain listener does.

use super::authority::{Authority, Pair};
use super::client::{Client, ask};
use super::support::backend::answering;
use super::support::eventually;
use super::support::http::Raw;
use super::support::process::{Folder, free_address};
use super::{WAIT, World, folder};
use rcgen::PKCS_RSA_SHA256;
use rustls::version::{TLS12, TLS13};
use std::process::Stdio;
use tokio::process::Command;

/// A listener that asks its clients.
async fn asking(name: &str, files: &Folder, authority: &Authority, policy: &str, more: &str) -> World {
    let entry = authority.issue(&["app.test"]).write(files, "app");
    let ca = files.write("ca.pem", &authority.pem());
    let tls = format!("certificates = [{entry}]\nclient_certificate = \"{policy}\"\nclient_ca = {ca:?}\n{more}");
    World::start(name, answering("fine"), &tls, "").await
}

fn with(authority: &Authority, pair: &Pair) -> Client {
    Client::new(authority, rustls::ALL_VERSIONS, Some(pair))
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_by_nothing_that_it_says() {
    let (authority, files) = (Authority::new(), folder("tls-mutual"));
    let world = asking("tls-mutual", &files, &authority, "optional", "").await;
    let alice = with(&authority, &authority.issue_client("alice", 1));
    let lies = "Client-Cert: :forged:\r\nclient-cert-chain: :forged:\r\nX-CLIENT-CERT-SUBJECT: forged\r\nX-Client-Cert-San: forged\r\n\
                Connection: close\r\n";
    let mut stream = alice.connect(world.https, "app.test").await.unwrap();
    assert!(ask(&mut stream, "app.test", "/alice", lies).await.unwrap().starts_with("HTTP/1.1 200 "));
    let seen = world.backend.received_text();
    assert!(seen.contains("Client-Cert: :MII") && seen.contains("X-Client-Cert-Subject: CN=alice\r\n"), "{seen}");
    assert!(seen.contains("X-Client-Cert-San: URI:spiffe://tests/alice\r\n") && !seen.contains("forged"), "{seen}");
    // Without one nothing is said of it, whatever the client says; nor in clear text.
    let mut stream = Client::trusting(&authority).connect(world.https, "app.test").await.unwrap();
    assert!(ask(&mut stream, "app.test", "/nobody", lies).await.unwrap().starts_with("HTTP/1.1 200 "));
    let mut raw = Raw::connect(world.weir.http).await.unwrap();
    assert_eq!(raw.exchange(format!("GET /plain HTTP/1.1\r\nHost: a\r\n{lies}\r\n")).await.status, 200);
    let seen = world.backend.received_text().to_ascii_lowercase();
    assert!(seen.matches("client-cert:").count() == 1 && !seen.contains("forged"), "{seen}");
}

#[tokio::test]
async fn without_a_valid_certificate_nobody_comes_in_where_one_is_required() {
    let (authority, files) = (Authority::new(), folder("tls-required"));
    let crl = files.write("crl.pem", &authority.revoke(&[3]));
    let world = asking("tls-required", &files, &authority, "required", &format!("client_crl = {crl:?}")).await;
    let good = with(&authority, &authority.issue_client("good", 2));
    assert!(good.get(world.https, "app.test", "/").await.unwrap().starts_with("HTTP/1.1 200 "));
    let stranger = Authority::new();
    let cases = [
        ("certificate_missing", Client::trusting(&authority)),
        ("certificate_revoked", with(&authority, &authority.issue_client("revoked", 3))),
        ("certificate_invalid", with(&authority, &stranger.issue_client("stranger", 4))),
        ("certificate_expired", with(&authority, &authority.issue_expired(&["old.test"]))),
    ];
    for (reason, client) in cases {
        assert!(client.get(world.https, "app.test", "/").await.is_err(), "{reason}");
        let line = format!("weir_tls_handshakes_total{{result=\"{reason}\",resumed=\"false\",version=\"none\"}}");
        let counted = || async { (world.metric(&line).await == 1).then_some(()) };
        eventually(reason, WAIT, counted).await;
    }
    assert!(world.weir.log().contains("TLS handshake refused"), "{}", world.weir.log());
    // A new list counts from then on, also for who could have resumed.
    files.write("crl.pem", &authority.revoke(&[2, 3]));
    let out = || async { good.get(world.https, "app.test", "/").await.is_err().then_some(()) };
    eventually("the new list counts", WAIT, out).await;
}

#[tokio::test]
async fn sessions_are_resumed_by_tickets_whichever_worker_takes_the_connection() {
    let (authority, files) = (Authority::new(), folder("tls-resume"));
    let entry = authority.issue(&["app.test", "b.test"]).write(&files, "app");
    let world = World::start("tls-resume", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    for (versions, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let client = Client::new(&authority, &[versions], None);
        for _ in 0..12 {
            client.get(world.https, "app.test", "/").await.unwrap();
        }
        let line = format!("weir_tls_handshakes_total{{result=\"ok\",resumed=\"true\",version=\"{name}\"}}");
        assert_eq!(world.metric(&line).await, 11, "{name}");
    }
}

#[tokio::test]
async fn openssl_chooses_the_key_by_its_schemes_and_old_versions_are_refused() {
    let (authority, files) = (Authority::new(), folder("tls-openssl"));
    let elliptic = authority.issue(&["app.test"]).write(&files, "ec");
    let rsa = authority.issue_with(&["app.test"], &PKCS_RSA_SHA256, |_| {}).write(&files, "rsa");
    let tls = format!("certificates = [{elliptic}, {rsa}]\nminimum_version = \"1.3\"");
    let world = World::start("tls-openssl", answering("fine"), &tls, "").await;
    let ca = files.write("ca.pem", &authority.pem());
    let s_client = async |arguments: &[&str]| {
        let address = world.https.to_string();
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &address, "-servername", "app.test", "-CAfile"])
            .arg(&ca)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let said = s_client(&["-sigalgs", "ECDSA+SHA256"]).await;
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("id-ecPublicKey"), "{said}");
    let said = s_client(&["-sigalgs", "RSA-PSS+SHA256"]).await;
    assert!(said.contains("Verify return code: 0 (ok)") && said.contains("rsaEncryption"), "{said}");
    let said = s_client(&["-tls1_2"]).await;
    assert!(said.contains("protocol version"), "{said}");
    let line = "weir_tls_handshakes_total{result=\"version\",resumed=\"false\",version=\"none\"}";
    // The client is told before it is counted.
    eventually("it is counted", WAIT, || async { (world.metric(line).await == 1).then_some(()) }).await;
}

#[tokio::test]
async fn a_plain_listener_sends_everybody_to_https() {
    let (authority, files) = (Authority::new(), folder("tls-redirect"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let plain = free_address();
    let more = format!("\n[[listener]]\nname = \"plain\"\naddress = \"{plain}\"\nredirect_https = true\n");
    let world = World::start("tls-redirect", answering("fine"), &format!("certificates = [{entry}]"), &more).await;
    let mut raw = Raw::connect(plain).await.unwrap();
    for (host, target, location) in [
        ("app.test", "/a/b?c=d", "https://app.test/a/b?c=d"),
        ("app.test:8080", "/", "https://app.test/"),
        ("[::1]:80", "/", "https://[::1]/"),
        ("app.test", "http://other.test?x", "https://other.test/?x"),
    ] {
        let answer = raw.exchange(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!((answer.status, answer.field("location")), (308, Some(location)), "{}", answer.head);
    }
    assert_eq!(world.backend.received_text(), "");
}
