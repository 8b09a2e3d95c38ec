//! nginx and HAProxy in front of Weir.

use crate::course::{Course, Origin, websocket};
use crate::program::{Keys, Program, World, haproxy, haproxy_of_octets, nginx, run};
use std::net::SocketAddr;

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1/32\"]\n";
/// What makes nginx keep its connections, instead of its default: HTTP/1.0 and a connection for each request.
const KEEPING: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
const UPGRADING: &str =
    "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";

/// nginx in front of an address; `more` is added to its location.
async fn nginx_before(keys: &Keys, to: SocketAddr, more: &str) -> Program {
    let server = format!(
        "location / {{ proxy_pass http://be; proxy_request_buffering off; proxy_buffering off; proxy_set_header Host $http_host;
           proxy_set_header X-Forwarded-For $remote_addr; {more} }}"
    );
    nginx(keys, &format!("upstream be {{ server {to}; keepalive 8; }}"), &server).await
}

#[tokio::test]
async fn behind_nginx_everything_passes() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let world = World::start(&keys, origin.nginx.plain, TRUSTED, "").await;
    let old = nginx_before(&keys, world.weir.http, "").await;
    Course::plain(&origin, old.plain, "--http1.1").pass().await;
    let before = world.metric("weir_connections_total").await;
    let keeping = nginx_before(&keys, world.weir.http, KEEPING).await;
    Course::plain(&origin, keeping.plain, "--http1.1").pass().await;
    Course::plain(&origin, keeping.h2c, "--http2-prior-knowledge").pass().await;
    // Far fewer connections than requests.
    let opened = world.metric("weir_connections_total").await - before;
    assert!(opened <= 12, "{opened} connections");
    let upgrading = nginx_before(&keys, world.weir.http, UPGRADING).await;
    websocket(upgrading.plain).await;
    world.none_refused().await;
}

#[tokio::test]
async fn behind_haproxy_everything_passes() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let world = World::start(&keys, origin.nginx.plain, TRUSTED, "").await;
    for options in ["", "proto h2"] {
        let haproxy = haproxy(&keys, "", &format!("  server s {} {options}", world.weir.http)).await;
        Course::plain(&origin, haproxy.plain, "--http1.1").pass().await;
        Course::plain(&origin, haproxy.h2c, "--http2-prior-knowledge").pass().await;
        if options.is_empty() {
            websocket(haproxy.plain).await;
        }
    }
    // In TLS on the way, the version chosen by ALPN.
    for alpn in ["h2", "http/1.1"] {
        let server = format!(
            "  http-request set-header Host app.test\n  server s {} ssl verify required ca-file ca.pem sni str(app.test) \
             verifyhost app.test alpn {alpn}",
            world.https
        );
        let haproxy = haproxy(&keys, "", &server).await;
        Course::plain(&origin, haproxy.plain, "--http1.1").pass().await;
    }
    world.none_refused().await;
}

#[tokio::test]
async fn tls_that_haproxy_passes_through_is_weirs() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let world = World::start(&keys, origin.nginx.plain, "", "").await;
    let haproxy = haproxy_of_octets(world.https).await;
    for version in ["--http1.1", "--http2"] {
        Course::tls(&origin, &keys, haproxy.tls, version).pass().await;
    }
    world.none_refused().await;
}

/// What whoami saw of a client at 127.0.0.2 that claims to be another.
async fn seen(address: SocketAddr) -> Vec<String> {
    let url = format!("http://{address}/");
    let claims = ["-H", "X-Forwarded-For: 6.6.6.6", "-H", "X-Real-IP: 6.6.6.6", "-H", "Forwarded: for=6.6.6.6"];
    let client = ["-sS", "--noproxy", "*", "--interface", "127.0.0.2"];
    let said = run("curl", &[&client[..], &claims, &[&url]].concat()).await;
    said.lines().filter_map(|line| line.strip_prefix("Header: ").map(str::to_owned)).collect()
}

fn field<'a>(seen: &'a [String], name: &str) -> Option<&'a str> {
    seen.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn a_proxy_that_is_trusted_is_believed_and_no_other() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    for (listener, expected) in [(TRUSTED, "127.0.0.2, 127.0.0.1"), ("", "127.0.0.1")] {
        let world = World::start(&keys, origin.whoami(), listener, "").await;
        let nginx = nginx_before(&keys, world.weir.http, "").await;
        // HAProxy adds the client to what the client says, unless it is told to drop that.
        let backend = format!("  http-request del-header X-Forwarded-For\n  server s {}", world.weir.http);
        let haproxy = haproxy(&keys, "  option forwardfor\n", &backend).await;
        for front in [nginx.plain, haproxy.plain] {
            let seen = seen(front).await;
            assert_eq!(field(&seen, "x-forwarded-for"), Some(expected), "{seen:?}");
        }
        // A client that comes without a proxy cannot pretend to be one.
        let seen = seen(world.weir.http).await;
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.2"), "{seen:?}");
        assert!(!seen.iter().any(|line| line.contains("6.6.6.6")), "{seen:?}");
    }
}
