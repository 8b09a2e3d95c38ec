//! Path confusion: routing decides by the same path that the endpoint gets, and what can be read in two ways goes nowhere.

use crate::support::backend::{Backend, answering};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, assert_refused};

async fn ask(proxy: &Proxy, target: &str) -> u16 {
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.exchange(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await.status
}

#[tokio::test]
async fn an_endpoint_gets_the_path_that_was_routed_rfc3986_6_2_2() {
    let backend = Backend::start(answering("ok")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (sent, seen) in [
        ("/public/../admin", "/admin"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/..;x/admin?q=/../", "/admin?q=/../"),
        ("//admin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/../../admin/.", "/admin/"),
        ("/caf%c3%a9/%252e", "/caf%C3%A9/%252e"),
        ("/plain/;v=1?a=%2f", "/plain/;v=1?a=%2f"),
        ("http://a//x/../admin", "/admin"),
    ] {
        assert_eq!(ask(&proxy, sent).await, 200, "{sent}");
        let received = backend.received_text();
        let last = received.lines().rfind(|line| line.starts_with("GET ")).unwrap();
        assert_eq!(last, format!("GET {seen} HTTP/1.1"), "{sent}");
    }
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_reaches_nobody_rfc3986_2_2() {
    let texts: Vec<(String, String)> = [
        "/a%2fb",
        "/a%2F..%2fadmin",
        "/a%5cb",
        "/..%5cadmin",
        "/a\\..\\admin",
        "/a%00.html",
        "/%c0%ae%c0%ae/admin",
        "/%e0%80%ae/admin",
        "/%",
        "/%zz",
        "/%2",
    ]
    .map(|target| (target.to_owned(), format!("GET {target}?evil HTTP/1.1\r\nHost: a\r\n\r\n")))
    .into();
    let cases: Vec<_> = texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes(), 400, "target")).collect();
    assert_refused(&cases).await;
}
