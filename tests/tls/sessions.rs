//! Sessions are resumed where they were made and nowhere else (CVE-2025-23419), and nothing is taken before the handshake
//! is done (RFC 8446 §8).

use super::authority::Authority;
use super::support::backend::{Backend, answering};
use super::support::process::{Weir, free_address, kill};
use super::support::{eventually, within};
use super::{WAIT, World, folder};
use std::net::SocketAddr;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Asks by openssl for `name`; returns all that it tells of the connection, and the answer.
async fn visit(address: SocketAddr, name: &str, arguments: &[&str]) -> String {
    let mut openssl = Command::new("openssl")
        .args(["s_client", "-ign_eof", "-connect", &address.to_string(), "-servername", name])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    // Where the handshake is refused nobody reads it.
    let _ = openssl.stdin.take().unwrap().write_all(request.as_bytes()).await;
    let output = within("openssl ends", WAIT, openssl.wait_with_output()).await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn a_session_is_resumed_only_for_its_name_and_where_the_same_certificate_is_asked_for() {
    let (authority, files) = (Authority::new(), folder("tls-sessions"));
    let [a, b] = ["a", "b"].map(|name| authority.issue(&[&format!("{name}.test")]).write(&files, name));
    let ca = files.write("ca.pem", &authority.pem());
    let (strict, twin) = (free_address(), free_address());
    let listener = |name: &str, address: SocketAddr, more: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n[listener.tls]\ncertificates = [{a}]\n{more}\n"
        )
    };
    let asking = format!("client_certificate = \"required\"\nclient_ca = {ca:?}");
    let more = listener("strict", strict, &asking) + &listener("twin", twin, "");
    let world = World::start("tls-sessions", answering("fine"), &format!("certificates = [{a}, {b}]"), &more).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let file = files.0.join(version).display().to_string();
        let said = visit(world.https, "a.test", &[version, "-sess_out", &file]).await;
        assert!(said.contains("New, TLSv1") && said.contains("fine"), "{said}");
        let again = [version, "-sess_in", &file];
        let said = visit(world.https, "a.test", &again).await;
        assert!(said.contains("Reused, TLSv1") && said.contains("fine"), "{said}");
        for (what, address, name) in [("another name", world.https, "b.test"), ("another listener", twin, "a.test")] {
            let said = visit(address, name, &again).await;
            assert!(said.contains("New, TLSv1") && said.contains("fine"), "{version}, {what}: {said}");
        }
        let said = visit(strict, "a.test", &again).await;
        assert!(!said.contains("Reused, TLSv1") && !said.contains("fine"), "{version}: {said}");
    }
    assert!(!world.backend.received_text().contains("Client-Cert"));
}

/// The keys of tickets go to the process that takes over. That a key is gone with the second change after it is shown where the
/// time is given (`src/net/tls/tickets.rs`).
#[tokio::test]
async fn sessions_outlive_an_upgrade_and_a_crash_of_the_serving_process() {
    let (authority, files) = (Authority::new(), folder("tls-tickets"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let (backend, https) = (Backend::start(answering("fine")).await, free_address());
    let services = format!(
        "[[listener]]\nname = \"secure\"\naddress = \"{https}\"\n[listener.tls]\ncertificates = [{entry}]\n
[[service]]\nname = \"app\"\n[[service.endpoint]]\naddress = \"{}\"\n\n[[route]]\nname = \"app\"\nservice = \"app\"\n",
        backend.address
    );
    let weir = Weir::start_keeping("tls-tickets", &services).await;
    let versions = ["-tls1_2", "-tls1_3"];
    let file = |version: &str| files.0.join(version).display().to_string();
    let visit_anew = async |version: &str| {
        let said = visit(https, "app.test", &[version, "-sess_out", &file(version)]).await;
        assert!(said.contains("New, TLSv1") && said.contains("fine"), "{version}: {said}");
    };
    let visit_again = async |version: &str, after: &str| {
        let said = eventually("an answer", WAIT, async || {
            let said = visit(https, "app.test", &[version, "-sess_in", &file(version)]).await;
            said.contains("fine").then_some(said)
        });
        let said = said.await;
        assert!(said.contains("Reused, TLSv1"), "{version} after {after}: {said}");
    };
    for version in versions {
        visit_anew(version).await;
    }
    let before = weir.serving();
    let upgraded = weir.cli(&["upgrade"]).await;
    assert_eq!(upgraded.code, 0, "{}", upgraded.err);
    eventually("another process", WAIT, async || (![0, before].contains(&weir.serving())).then_some(())).await;
    for version in versions {
        visit_again(version, "an upgrade").await;
        visit_anew(version).await;
    }
    let before = weir.serving();
    kill(before, "KILL").await;
    eventually("another process", WAIT, async || (![0, before].contains(&weir.serving())).then_some(())).await;
    for version in versions {
        visit_again(version, "a crash").await;
    }
}

#[tokio::test]
async fn early_data_is_not_offered() {
    let (authority, files) = (Authority::new(), folder("tls-early"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let world = World::start("tls-early", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    let said = visit(world.https, "app.test", &["-tls1_3"]).await;
    assert!(said.contains("Max Early Data: 0\n") && said.contains("fine"), "{said}");
}
