//! What protects an API without a password (web pages, other users, floods).

use crate::client::{change, eventually, get, raw, read, request};
use crate::fixture::start;
use std::os::unix::fs::PermissionsExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const JSON: (&str, &str) = ("content-type", "application/json");
const SCALE: &str = "{\"replicas\":2}";

#[tokio::test]
async fn a_rebound_name_gets_421_on_tcp_and_not_on_the_socket() {
    let weir = start("rebinding").await;
    for host in ["evil.example", "evil.example:9600", "10.1.2.3", "127.0.0.1.evil.example"] {
        let answer = raw(weir.address, &request("GET", "/v1/services", &[("host", host)], "")).await;
        assert_eq!((answer.status, answer.code().as_str()), (421, "foreign_host"), "{host}");
    }
    assert_eq!(raw(weir.address, b"GET /livez HTTP/1.0\r\n\r\n").await.status, 421);
    for host in ["localhost", "127.0.0.1:1", "[::1]:9600"] {
        assert_eq!(raw(weir.address, &request("GET", "/livez", &[("host", host)], "")).await.status, 200, "{host}");
    }
    let mut stream = UnixStream::connect(&weir.socket).await.unwrap();
    stream.write_all(&request("GET", "/livez", &[("host", "anything")], "")).await.unwrap();
    assert_eq!(read(stream).await.status, 200);
}

#[tokio::test]
async fn a_change_that_a_web_page_could_send_gets_403() {
    let weir = start("cross-site").await;
    let post = async |headers: &[(&str, &str)]| {
        raw(weir.address, &request("POST", "/v1/services/web/scale", headers, SCALE)).await
    };
    let forms: &[&[(&str, &str)]] = &[
        &[],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[JSON, ("origin", "http://evil.example")],
        &[JSON, ("origin", "null")],
        &[JSON, ("sec-fetch-site", "cross-site")],
        &[("x-requested-with", "weir"), ("origin", "https://localhost")],
    ];
    for headers in forms {
        let answer = post(headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "cross_site"), "{headers:?}");
    }
    // The same without what gives it away is understood.
    assert_ne!(post(&[JSON, ("origin", "http://localhost")]).await.status, 403);
    let preflight = [("origin", "http://evil.example"), ("access-control-request-method", "POST"), JSON];
    let answer = raw(weir.address, &request("OPTIONS", "/v1/services/web/scale", &preflight, "")).await;
    assert_eq!(answer.status, 405);
    assert!(!answer.head.to_lowercase().contains("access-control"), "no CORS: {}", answer.head);
}

#[tokio::test]
async fn answers_tell_a_browser_to_make_nothing_else_of_them() {
    let weir = start("headers").await;
    let head = get(weir.address, "/v1/services").await.head.to_lowercase();
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'self'"), "{head}");
    assert!(head.contains("cache-control: no-store"), "{head}");
}

#[tokio::test]
async fn a_body_above_the_limit_gets_413_announced_or_not() {
    let weir = start("body").await;
    let head =
        "POST /v1/instances HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let announced = format!("{head}content-length: 99999999\r\n\r\n");
    let answer = raw(weir.address, announced.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    let size = weir.body_bytes + 1;
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", " ".repeat(size));
    let answer = raw(weir.address, chunked.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "body_too_large"));
    let full = " ".repeat(weir.body_bytes);
    assert_eq!(change(weir.address, "POST", "/v1/instances", &full).await.code(), "invalid_request");
}

#[tokio::test]
async fn a_slow_head_or_body_is_cut_off_after_ten_seconds() {
    let weir = start("slow").await;
    let begun = tokio::time::Instant::now();
    let head = async {
        let mut stream = TcpStream::connect(weir.address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: loc").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    };
    let body = async {
        let mut stream = TcpStream::connect(weir.address).await.unwrap();
        let head = "POST /v1/instances HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                    content-type: application/json\r\ncontent-length: 9\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read(stream).await;
        assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    };
    tokio::join!(head, body);
    let took = begun.elapsed().as_secs_f64();
    assert!((9.0..15.0).contains(&took), "{took} s");
}

#[tokio::test]
async fn idle_connections_never_lock_out_the_socket() {
    let weir = start("connections").await;
    let mut idle = Vec::new();
    for _ in 0..weir.connections {
        idle.push(TcpStream::connect(weir.address).await.unwrap());
    }
    let mut stream = UnixStream::connect(&weir.socket).await.unwrap();
    stream.write_all(&request("GET", "/livez", &[], "")).await.unwrap();
    assert_eq!(read(stream).await.status, 200);
    drop(idle);
    eventually("TCP answers again", async || get(weir.address, "/livez").await.status == 200).await;
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_gone_at_the_end() {
    let weir = start("socket").await;
    assert_eq!(std::fs::metadata(&weir.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let socket = weir.socket.clone();
    weir.stop().await;
    assert!(!socket.exists());
}
