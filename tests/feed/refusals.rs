//! What others send: a wrong token, another version, a stream that is cut or replayed. Nothing of it changes the table.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::{Folder, Weir, free_address};
use crate::world::{SETTLED, beside, has, service, table};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const TOKEN: &str = "0123456789abcdef-token";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_machines_need_the_token_and_tls_and_get_no_more_than_the_table() {
    let _beside = beside().await;
    let folder = Folder::new("feed-tokens");
    let token = folder.write("token", &format!("{TOKEN}\n"));
    let wrong = folder.write("wrong", "0123456789abcdef-other\n");
    let made = rcgen::generate_simple_self_signed(["weir.test".to_owned()]).unwrap();
    let certificate = folder.write("cert.pem", &made.cert.pem());
    let key = folder.write("key.pem", &made.signing_key.serialize_pem());
    let remote = free_address();
    let door = format!(
        "[admin.remote]\nlisten = \"{remote}\"\ntoken_file = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\n{}",
        token.display(),
        certificate.display(),
        key.display(),
        service(1)
    );
    let origin = Weir::start("remote-origin", &door).await;
    origin.settled("web", 1, SETTLED).await;
    let source = |name: &str, token: &std::path::Path| {
        format!(
            "[source.weir]\nfrom = \"{remote}\"\ntoken_file = \"{}\"\nca = \"{}\"\nserver_name = \"weir.test\"\nname = \"{name}\"\n",
            token.display(),
            certificate.display(),
        )
    };
    let good = Weir::start("remote-good", &source("remote-good", &token)).await;
    has(&good, 1).await;
    let bad = Weir::start("remote-bad", &source("remote-bad", &wrong)).await;
    support::eventually("the wrong token is told", SETTLED, || async {
        let table = table(&bad).await;
        let problem = table["sources"][0]["problem"].as_str().unwrap_or_default().to_owned();
        problem.contains("token is not taken").then_some(())
    })
    .await;
    assert_eq!(table(&bad).await["services"], 0);
    let metrics = bad.api("GET", "/metrics", None).await;
    assert_eq!(metrics.0, 200);
    // The token shows the table and no more.
    let client = tls_client(&certificate);
    for (path, expected) in
        [("/v1/table", 200), ("/v1/services", 403), ("/metrics", 403), ("/v1/events?follow=false", 403)]
    {
        assert_eq!(status(&client, remote, path, TOKEN).await, expected, "{path}");
    }
    assert_eq!(status(&client, remote, "/v1/table", "0123456789abcdef-other").await, 401);
    // In the clear there is no answer at all.
    let mut plain = Raw::connect(remote).await.unwrap();
    let _ = plain.stream.write_all(b"GET /v1/table HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut octets = Vec::new();
    let _ = plain.stream.read_to_end(&mut octets).await;
    assert!(!octets.starts_with(b"HTTP/"), "{octets:?}");
    support::eventually("it is in the log", SETTLED, || async {
        origin.log().contains("without a known token was refused").then_some(())
    })
    .await;
    let metrics = support::http::get(origin.admin, "/metrics").await.text();
    let refused = metrics.lines().find_map(|line| line.strip_prefix("weir_admin_remote_refused_total "));
    assert!(refused.is_some_and(|count| count != "0"), "{metrics}");
}

fn tls_client(certificate: &std::path::Path) -> tokio_rustls::TlsConnector {
    let spec = weir::model::UpstreamTlsSpec { ca: Some(certificate.to_owned()), ..Default::default() };
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(weir::net::tls::build_client(&spec).unwrap()))
}

async fn status(client: &tokio_rustls::TlsConnector, at: std::net::SocketAddr, path: &str, token: &str) -> u16 {
    let socket = tokio::net::TcpStream::connect(at).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("weir.test").unwrap();
    let mut stream = client.connect(name, socket).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: far\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut octets = Vec::new();
    let _ = stream.read_to_end(&mut octets).await;
    String::from_utf8_lossy(&octets).split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// Answers every stream with these lines, after a hello that repeats the session where `{session}` stands.
async fn impostor(lines: Vec<String>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let lines = lines.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(octet) = socket.read_u8().await else { return };
                    head.push(octet);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let session =
                    head.split("session=").nth(1).and_then(|rest| rest.split(['&', ' ']).next()).unwrap_or("");
                let body = lines.join("\n").replace("{session}", session);
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nConnection: close\r\n\r\n{body}");
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

fn hello(format: u32, session: &str) -> String {
    format!(
        "{{\"hello\":{{\"format\":{format},\"weir\":\"x\",\"node\":\"n\",\"epoch\":\"e\",\"session\":\"{session}\",\"heartbeat_ms\":1000}}}}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_is_cut_replayed_or_of_another_version_changes_nothing_and_is_told() {
    let web = "{\"service\":{\"definition\":{\"name\":\"web\"},\"endpoints\":[]}}".to_owned();
    let begin =
        |generation: u64, after: &str| format!("{{\"begin\":{{\"generation\":{generation},\"after\":{after}}}}}");
    let end = |generation: u64, lines: usize| format!("{{\"end\":{{\"generation\":{generation},\"lines\":{lines}}}}}");
    let own = hello(1, "{session}");
    let cases: [(&str, Vec<String>, &str); 8] = [
        (
            "version",
            vec![hello(2, "{session}"), begin(1, "null"), web.clone(), end(1, 1), String::new()],
            "speaks format 2",
        ),
        ("cut-line", vec![own.clone(), begin(1, "null"), "{\"servi".to_owned()], "ended inside of an update"),
        ("cut", vec![own.clone(), begin(1, "null"), web.clone(), String::new()], "ended inside of an update"),
        ("count", vec![own.clone(), begin(1, "null"), web.clone(), end(1, 2), String::new()], "and 1 came"),
        (
            "replayed",
            vec![hello(1, "0123"), begin(1, "null"), web.clone(), end(1, 1), String::new()],
            "another subscription",
        ),
        ("delta", vec![own.clone(), begin(9, "8"), web.clone(), end(9, 1), String::new()], "does not follow"),
        ("nonsense", vec!["<html>".to_owned(), String::new()], "is no feed"),
        ("headless", vec![begin(1, "null"), web, end(1, 1), String::new()], "is no feed"),
    ];
    for (name, lines, says) in cases {
        let reason = match name {
            "version" | "replayed" => name,
            "cut" | "cut-line" => "truncated",
            "delta" => "replayed",
            _ => "malformed",
        };
        let address = impostor(lines).await;
        let source = format!("[source.weir]\nfrom = \"{address}\"\nname = \"victim\"\n\n[[service]]\nname = \"own\"\n");
        let weir = Weir::start(&format!("refuses-{name}"), &source).await;
        support::eventually(&format!("{name} is told"), SETTLED, || async {
            let table = table(&weir).await;
            table["sources"][0]["problem"].as_str().unwrap_or_default().contains(says).then_some(())
        })
        .await;
        assert_eq!(table(&weir).await["services"], 1, "{name}: only its own");
        support::eventually(&format!("{name} is in the log"), SETTLED, || async {
            weir.log().contains(says).then_some(())
        })
        .await;
        let metrics = support::http::get(weir.admin, "/metrics").await.text();
        let lost = |line: &str| {
            line.starts_with("weir_source_losses_total{")
                && line.contains(&format!("reason=\"{reason}\""))
                && !line.ends_with(" 0")
        };
        assert!(metrics.lines().any(lost), "{name}: {metrics}");
    }
}
