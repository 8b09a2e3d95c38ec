//! nginx and HAProxy behind Weir.

use crate::course::{Course, Origin, websocket};
use crate::program::{Keys, World, haproxy, nginx};
use crate::support::http::Raw;
use crate::tunnel::upgrade;
use std::net::SocketAddr;
use std::time::Duration;

const VERSIONS: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];
/// How Weir speaks TLS to them.
const TLS: &str = "[service.tls]\nca = CA\nserver_name = \"app.test\"\n";

/// The whole course through Weir to an endpoint that passes it on to the origin, by clients of both versions.
async fn pass(keys: &Keys, origin: &Origin, endpoint: SocketAddr, service: &str) {
    let world = World::start(keys, endpoint, "", service).await;
    for version in VERSIONS {
        Course::plain(origin, world.weir.http, version).pass().await;
    }
    // nginx carries none over HTTP/2, and its settings say so; HAProxy does (RFC 8441).
    let carried = endpoint != origin.nginx.h2c;
    if carried {
        websocket(world.weir.http).await;
    }
    world.none_refused().await;
    if !carried {
        let answer = Raw::connect(world.weir.http).await.unwrap().exchange(upgrade("/ws")).await;
        assert_eq!((answer.status, answer.field("weir-reason")), (501, Some("no_websocket")));
    }
}

#[tokio::test]
async fn nginx_answers_through_weir_as_it_does_itself() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    pass(&keys, &origin, origin.nginx.plain, "").await;
    pass(&keys, &origin, origin.nginx.tls, TLS).await;
    pass(&keys, &origin, origin.nginx.h2c, "protocol = \"h2\"\n").await;
}

#[tokio::test]
async fn haproxy_answers_through_weir_as_it_does_itself() {
    let keys = Keys::new();
    let origin = Origin::start(&keys, "").await;
    let haproxy = haproxy(&keys, "", &format!("  server s {}", origin.nginx.plain)).await;
    pass(&keys, &origin, haproxy.plain, "").await;
    pass(&keys, &origin, haproxy.tls, TLS).await;
    pass(&keys, &origin, haproxy.h2c, "protocol = \"h2\"\n").await;
}

/// Requests that come about when an endpoint closes its idle connections: `pauses` in milliseconds from one to the next.
async fn requests_at_the_end_of_idle_connections(address: SocketAddr, pauses: impl Iterator<Item = u64>) -> usize {
    let mut clients = Vec::new();
    for pause in pauses {
        clients.push(tokio::spawn(async move {
            let mut raw = Raw::connect(address).await.unwrap();
            for turn in 0..3 {
                let answer = raw.exchange("GET /bytes/10 HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
                assert_eq!((answer.status, answer.body.len()), (200, 10), "{pause} ms, turn {turn}: {answer:?}");
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }));
    }
    let count = clients.len();
    for client in clients {
        client.await.unwrap();
    }
    count * 3
}

#[tokio::test]
async fn idle_connections_that_nginx_and_haproxy_close_cost_no_request() {
    let keys = Keys::new();
    // nginx closes after a second, and after each tenth request; HAProxy after a second.
    let origin = Origin::start(&keys, "keepalive_timeout 1s; keepalive_requests 10;").await;
    let defaults = "  timeout http-keep-alive 1s\n";
    let haproxy = haproxy(&keys, defaults, &format!("  server s {}", origin.whoami())).await;
    for endpoint in [origin.nginx.plain, haproxy.plain] {
        let world = World::start(&keys, endpoint, "", "").await;
        let made = requests_at_the_end_of_idle_connections(world.weir.http, (960..1040).step_by(2)).await;
        world.none_refused().await;
        println!("{made} requests around the end of idle connections of {endpoint}: 0 failed");
        // Many in a row: nginx ends a connection at each tenth, which it says.
        let mut raw = Raw::connect(world.weir.http).await.unwrap();
        for turn in 0..200 {
            let post = "POST /echo HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\nhello";
            let answer = raw.exchange(post).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{turn}: {answer:?}");
        }
        world.none_refused().await;
    }
}

#[tokio::test]
async fn an_endpoint_in_tls_that_is_not_trusted_is_not_spoken_to() {
    let (keys, others) = (Keys::new(), Keys::new());
    let server = "location / { return 200 secret; }";
    let nginx = nginx(&others, "", server).await;
    let world = World::start(&keys, nginx.tls, "", &format!("retries = 0\n{TLS}")).await;
    let mut raw = Raw::connect(world.weir.http).await.unwrap();
    let answer = raw.exchange("GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(!answer.text().contains("secret"));
}
