//! A listener with certificates: which is shown, in which version, and what endpoints are told.

use super::authority::Authority;
use super::client::{Client, ask};
use super::support::backend::answering;
use super::{World, folder};
use rustls::version::{TLS12, TLS13};

#[tokio::test]
async fn answers_http_over_tls_and_tells_the_endpoint_so() {
    let (authority, files) = (Authority::new(), folder("tls-thin"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let world = World::start("tls-thin", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    for versions in [[&TLS12], [&TLS13]] {
        let client = Client::new(&authority, &versions, None);
        let answer = client.get(world.https, "app.test", "/path").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("fine"), "{answer}");
        assert!(!answer.contains("Strict-Transport-Security"), "{answer}");
    }
    let seen = world.backend.received_text();
    assert_eq!(seen.matches("X-Forwarded-Proto: https\r\n").count(), 2, "{seen}");
    assert!(!seen.contains("Client-Cert"), "{seen}");
    for version in ["1.2", "1.3"] {
        let line = format!("weir_tls_handshakes_total{{result=\"ok\",resumed=\"false\",version=\"{version}\"}}");
        assert_eq!(world.metric(&line).await, 1, "{version}");
    }
}

#[tokio::test]
async fn a_host_that_the_certificate_is_not_for_is_misdirected() {
    let (authority, files) = (Authority::new(), folder("tls-421"));
    let both = authority.issue(&["a.test", "*.a.test"]).write(&files, "a");
    let other = authority.issue(&["b.test"]).write(&files, "b");
    let tls = format!("certificates = [{both}, {other}]\nhsts = \"365d\"");
    let world = World::start("tls-421", answering("fine"), &tls, "").await;
    let client = Client::trusting(&authority);
    for (name, host, status) in [
        ("a.test", "a.test", 200),
        ("a.test", "A.TEST:8443", 200),
        ("a.test", "x.a.test", 200),
        ("a.test", "b.test", 421),
        ("b.test", "a.test", 421),
        ("b.test", "b.test", 200),
    ] {
        let mut stream = client.connect(world.https, name).await.unwrap();
        let answer = ask(&mut stream, host, "/", "Connection: close\r\n").await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name} {host}: {answer}");
        assert_eq!(answer.matches("Strict-Transport-Security: max-age=31536000\r\n").count(), 1, "{answer}");
    }
    assert_eq!(world.metric("weir_refused_total{reason=\"misdirected\"}").await, 2);
}

#[tokio::test]
async fn curl_speaks_http_2_where_both_can_and_http_1_where_it_will_not() {
    let (authority, files) = (Authority::new(), folder("tls-curl"));
    let entry = authority.issue(&["app.test"]).write(&files, "app");
    let ca = files.write("ca.pem", &authority.pem());
    let world = World::start("tls-curl", answering("fine"), &format!("certificates = [{entry}]"), "").await;
    for (flag, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let output = tokio::process::Command::new("curl")
            .args(["-sS", "--noproxy", "*", flag, "-w", " %{http_version} %{http_code}", "--cacert"])
            .arg(&ca)
            .args(["--resolve", &format!("app.test:{}:127.0.0.1", world.https.port())])
            .arg(format!("https://app.test:{}/", world.https.port()))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("fine {version} 200"), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
