//! Fields that belong to one connection, and fields that say where a request came from (RFC 9110 §7.6, RFC 7239 §8.1).

use crate::support::backend::{Backend, Step, answering, send};
use crate::support::http::{Answer, Raw};
use crate::support::proxy::{Proxy, Setup};

/// Returns what the endpoint received for a request with these lines, as lower-case lines.
async fn forwarded(lines: &str, trusted: bool) -> Vec<String> {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address])
        .with(|s| s.trusted = if trusted { vec![("127.0.0.0".parse().unwrap(), 8)] } else { vec![] })
        .start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(format!("GET /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await.status, 200, "{lines}");
    backend.received_text().lines().map(str::to_ascii_lowercase).collect()
}

fn has(lines: &[String], line: &str) -> bool {
    lines.iter().any(|l| l == line)
}

fn named<'a>(lines: &'a [String], name: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|l| l.split_once(": ")).filter(|(n, _)| *n == name).map(|(_, v)| v).collect()
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_request_are_removed_rfc9110_7_6_1() {
    let lines = forwarded(
        "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Proxy-Authorization: Basic x\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nX-Stays: 1\r\n",
        false,
    )
    .await;
    assert!(has(&lines, "x-stays: 1"));
    for gone in [
        "connection",
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
    ] {
        assert!(named(&lines, gone).is_empty(), "{gone}: {lines:?}");
    }
}

#[tokio::test]
async fn every_connection_field_nominates_whatever_its_case_rfc9110_7_6_1() {
    let lines =
        forwarded("connection: x-a , X-B\r\nConnection:x-c\r\nX-A: 1\r\nx-b: 1\r\nX-C: 1\r\nX-D: 1\r\n", false).await;
    assert!(["x-a", "x-b", "x-c"].iter().all(|gone| named(&lines, gone).is_empty()), "{lines:?}");
    assert!(has(&lines, "x-d: 1"));
}

/// CVE-2022-31813, CVE-2024-45410: `Connection` cannot take away what the proxy says or what frames and routes.
#[tokio::test]
async fn connection_cannot_nominate_forwarding_framing_or_routing_fields() {
    let backend = Backend::start(vec![
        Step::ReadHead,
        Step::ReadBody(2),
        send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        Step::Repeat,
    ])
    .await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let nominated = "Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, X-Request-Id, Via, Host, Content-Length, close";
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{nominated}\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(raw.exchange(request).await.status, 200);
    let lines: Vec<String> = backend.received_text().lines().map(str::to_ascii_lowercase).collect();
    for stays in
        ["x-forwarded-for: 127.0.0.1", "x-forwarded-host: a", "x-forwarded-proto: http", "host: a", "content-length: 2"]
    {
        assert!(has(&lines, stays), "{stays}: {lines:?}");
    }
    assert!(has(&lines, "via: 1.1 weir") && named(&lines, "x-request-id").len() == 1);
}

#[tokio::test]
async fn an_untrusted_client_cannot_say_where_it_comes_from_rfc7239_8_1() {
    let lines = forwarded(
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Server: evil\r\nX-Request-Id: evil\r\n",
        false,
    )
    .await;
    let all = lines.join("\n");
    assert!(!all.contains("6.6.6.6") && !all.contains("7.7.7.7") && !all.contains("evil"), "{all}");
    assert_eq!(named(&lines, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(named(&lines, "x-forwarded-proto"), ["http"]);
    assert_eq!(named(&lines, "x-forwarded-host"), ["a"]);
    assert!(named(&lines, "x-forwarded-port").is_empty() && named(&lines, "forwarded").is_empty());
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_appended_to_rfc7239_8_1() {
    let lines = forwarded(
        "X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nX-Forwarded-For: 192.0.2.3\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shop\r\nX-Request-Id: known\r\n",
        true,
    )
    .await;
    assert_eq!(named(&lines, "x-forwarded-for"), ["192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"]);
    assert_eq!(named(&lines, "x-forwarded-proto"), ["https"]);
    assert_eq!(named(&lines, "x-forwarded-host"), ["shop"]);
    assert_eq!(named(&lines, "forwarded"), ["for=192.0.2.1"]);
    assert_eq!(named(&lines, "x-request-id"), ["known"]);
}

#[tokio::test]
async fn each_request_gets_an_id_of_its_own() {
    let (a, b) = (forwarded("", false).await, forwarded("", true).await);
    let ids: Vec<&str> = [named(&a, "x-request-id"), named(&b, "x-request-id")].concat();
    assert_eq!(ids.len(), 2);
    assert!(ids.iter().all(|id| id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit())), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn via_is_appended_with_the_version_received_rfc9110_7_6_3() {
    let lines = forwarded("Via: 1.0 first\r\n", false).await;
    assert_eq!(named(&lines, "via"), ["1.0 first", "1.1 weir"]);
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(backend.received_text().contains("\r\nVia: 1.0 weir\r\n"), "{}", backend.received_text());
}

/// Returns the answer to a GET when the endpoint sends these lines.
async fn relayed(lines: &str) -> Answer {
    let backend =
        Backend::start(vec![Step::ReadHead, send(&format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"))])
            .await;
    let proxy = Proxy::over(&[backend.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await
}

#[tokio::test]
async fn hop_by_hop_fields_of_an_answer_are_removed_rfc9110_7_6_1() {
    let answer = relayed(
        "Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\nX-Stays: 1\r\n",
    )
    .await;
    assert_eq!(answer.field("x-stays"), Some("1"));
    for gone in ["connection", "x-secret", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.field(gone), None, "{gone}: {}", answer.head);
    }
}

#[tokio::test]
async fn an_answer_passes_otherwise_as_it_is_rfc9110_7_7() {
    let answer =
        relayed("Server: S/1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX_Under: 1\r\nX-Odd: \u{e4}  b\r\n").await;
    assert!(
        answer.head.contains("Server: S/1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX_Under: 1\r\nX-Odd: \u{e4}  b\r\n"),
        "{}",
        answer.head
    );
}
