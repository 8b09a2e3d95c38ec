//! Clients that others wrote: curl, nghttp and h2load.

use crate::support::backend::{Backend, answering};
use crate::support::proxy::Proxy;
use crate::support::within;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a client; `tests/run` installs them.
async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    let output = within(program, LIMIT, command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; apt install nghttp2-client curl"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test]
async fn curl_gets_and_posts() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let url = format!("http://{}/path", proxy.address);
    let common = ["--http2-prior-knowledge", "-sS", "-w", " %{http_version} %{http_code}"];
    let said = run("curl", &[&common[..], &[&url]].concat()).await;
    assert_eq!(said, "fine 2 200");
    // The endpoint reads no body: it comes behind the head, and the connection is not used again.
    let said = run("curl", &[&common[..], &["-d", "hello", &url]].concat()).await;
    assert_eq!(said, "fine 2 200");
    let said = run("curl", &[&common[..], &["-I", &url]].concat()).await;
    assert!(said.starts_with("HTTP/2 200") && said.ends_with(" 2 200"), "{said}");
}

#[tokio::test]
async fn nghttp_gets() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let said = run("nghttp", &["-v", &format!("http://{}/path", proxy.address)]).await;
    assert!(said.contains(":status: 200") && said.contains("fine"), "{said}");
}

#[tokio::test]
async fn h2load_fails_no_request_of_thousands_on_few_connections() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let url = format!("http://{}/path", proxy.address);
    let said = run("h2load", &["-n", "4000", "-c", "8", "-m", "50", &url]).await;
    assert!(said.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    assert_eq!((proxy.metric("weir_connections_total"), proxy.metric("weir_panics_total")), (8, 0));
}
