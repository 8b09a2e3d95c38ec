//! Chromium as a client: a page with its requests and a WebSocket, all over HTTP/2 in TLS.

use crate::program::{Keys, WAIT, Whoami};
use crate::support::process::{Folder, Weir, free_address};
use crate::support::within;
use crate::tunnel::Endpoint;
use axum::Router;
use axum::extract::State;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The endpoint of the page, and what the page reports.
async fn pages() -> (SocketAddr, UnboundedReceiver<String>) {
    let (reports, received) = unbounded_channel::<String>();
    let report = async |State(reports): State<UnboundedSender<String>>, body: String| {
        reports.send(body).unwrap();
    };
    let page = async || Html(include_str!("page.html"));
    let router = Router::new().route("/", get(page)).route("/report", post(report)).with_state(reports);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, received)
}

/// The hash of a certificate's public key, as the browser wants to be told whom to trust.
async fn pin(certificate: &Path) -> String {
    let script = "openssl x509 -in \"$1\" -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(certificate).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Opens a page of `app.test` in a browser that knows nobody else; it lives until it is dropped.
fn open(folder: &Folder, address: SocketAddr, pin: &str) -> Child {
    let log = std::fs::File::create(folder.0.join("log")).unwrap();
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--no-proxy-server",
    ];
    Command::new("chromium")
        .args(flags)
        .arg(format!("--user-data-dir={}", folder.0.join("profile").display()))
        .arg(format!("--host-resolver-rules=MAP app.test {}, MAP * ~NOTFOUND", address.ip()))
        .arg(format!("--ignore-certificate-errors-spki-list={pin}"))
        // Without it headless mode prints nothing and ends at once.
        .arg("--remote-debugging-port=0")
        .arg(format!("https://app.test:{}/", address.port()))
        .env("HOME", &folder.0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .expect("apt install chromium")
}

#[tokio::test]
async fn chromium_loads_a_page_and_speaks_a_websocket_over_http_2() {
    let (keys, folder, https) = (Keys::new(), Folder::new("browser"), free_address());
    let entry = keys.pair.write(&folder, "app");
    let whoami = Whoami::start().await;
    let (pages, mut reports) = pages().await;
    let mut sockets = Endpoint::start().await;
    let service = |name: &str, address: SocketAddr| {
        format!("[[service]]\nname = \"{name}\"\n[[service.endpoint]]\naddress = \"{address}\"\n")
    };
    let route = |(path, service): (&str, &str)| {
        let name = if path == "/" { "page" } else { &path[1..] };
        format!("[[route]]\nname = \"{name}\"\npath = \"{path}\"\nservice = \"{service}\"\n")
    };
    let routes = [("/", "pages"), ("/ws", "sockets"), ("/bytes", "whoami"), ("/echo", "whoami"), ("/status", "whoami")]
        .map(route);
    let services = [("pages", pages), ("sockets", sockets.address), ("whoami", whoami.address)]
        .map(|(name, at)| service(name, at));
    let listener =
        format!("[[listener]]\nname = \"https\"\naddress = \"{https}\"\n[listener.tls]\ncertificates = [{entry}]\n");
    let weir = Weir::start("browser", &format!("{listener}{}{}", routes.concat(), services.concat())).await;
    for name in ["pages", "sockets", "whoami"] {
        weir.settled(name, 1, WAIT).await;
    }
    let mut browser = open(&folder, https, &pin(&folder.0.join("app.pem")).await);
    let report = within("the page's report", WAIT, reports.recv()).await.unwrap();
    // Its helpers are of its process group.
    let group = format!("-{}", browser.id().unwrap());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().await.unwrap().success());
    browser.wait().await.unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(
        report,
        json!({
            "get": true,
            "post": true,
            "many": true,
            "statuses": [204, 404],
            "socket": { "echoed": [1, 126, 70000, 1 << 20], "clean": true, "code": 1000 },
            "requests": report["requests"],
            "protocols": ["h2"],
        }),
        "{}",
        weir.log()
    );
    assert!(report["requests"].as_u64().unwrap() >= 65, "{report}");
    // The WebSocket too was a stream: over HTTP/1.1 the key would be the browser's, and the answer's proof wrong.
    let head = sockets.heads.recv().await.unwrap();
    assert!(head.starts_with("GET /ws HTTP/1.1\r\n") && head.contains("\r\nsec-websocket-key: "), "{head}");
    assert!(head.contains("X-Forwarded-Proto: https\r\n"), "{head}");
}
