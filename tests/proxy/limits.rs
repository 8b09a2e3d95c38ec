//! Limits on what a client may send, with their statuses; slow clients; keepalive.

use crate::front;
use crate::support::backend::{Backend, answering};
use crate::support::http::Raw;
use crate::support::{eventually, process::Weir};
use std::time::Duration;

const LIMITS: &str = "
[proxy.limits]
head = \"4KiB\"
header_fields = 20
uri = \"1KiB\"
body = \"10KiB\"

[proxy.timeouts]
head = \"300ms\"
keepalive = \"500ms\"
";

async fn limited(name: &str) -> (Weir, Backend) {
    let backend = Backend::start(answering("ok")).await;
    let weir = front(name, &[backend.address], "", LIMITS).await;
    (weir, backend)
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_own_status() {
    let (weir, backend) = limited("limits").await;
    let long = "x".repeat(1100);
    let cases = [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(5000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(25)), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10241\r\n\r\n".to_owned(), 413),
    ];
    for (request, status) in cases {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        let answer = raw.exchange(&request).await;
        assert_eq!(answer.status, status, "{}", answer.head);
        assert!(answer.field("weir-reason").is_some());
    }
    assert_eq!(backend.received_text(), "");
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let fits = format!("GET /{} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(900), "x".repeat(2000));
    assert_eq!(raw.exchange(fits).await.status, 200);
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_408_and_an_idle_connection_is_closed_silently() {
    let (weir, _backend) = limited("slow").await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHost:").await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.field("weir-reason")), (408, Some("head_timeout")));
    assert!(raw.rest().await.is_empty());

    let mut raw = Raw::connect(weir.http).await.unwrap();
    assert_eq!(raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    assert!(raw.rest().await.is_empty(), "closed without a word");
}

#[tokio::test]
async fn a_client_that_asks_for_close_or_speaks_1_0_is_closed_after_its_answer() {
    let backend = Backend::start(answering("ok")).await;
    let weir = front("close", &[backend.address], "", "").await;
    for request in ["GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"] {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        assert_eq!(raw.exchange(request).await.text(), "ok");
        assert!(raw.rest().await.is_empty());
    }
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for _ in 0..3 {
        assert_eq!(raw.exchange("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await.text(), "ok");
    }
    let workers = std::thread::available_parallelism().unwrap().get();
    assert!(backend.connections() <= workers, "one connection of each worker to the endpoint served them all");
}

#[tokio::test]
async fn a_full_service_queues_and_then_says_503() {
    use crate::support::backend::slow;
    let backend = Backend::start(slow(Duration::from_millis(400))).await;
    let limits = "limits = { concurrency = 1, queue = 1, queue_timeout = \"5s\" }";
    let weir = front("queue", &[backend.address], limits, "").await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        raw.send(get).await;
        clients.push(raw);
    }
    let mut statuses = Vec::new();
    for raw in &mut clients {
        let answer = raw.answer().await;
        statuses.push((answer.status, answer.field("weir-reason").map(str::to_owned)));
    }
    statuses.sort();
    assert_eq!(statuses, [(200, None), (200, None), (503, Some("queue_full".to_owned()))]);
    eventually("the endpoint is free again", Duration::from_secs(10), || async {
        let mut raw = Raw::connect(weir.http).await.unwrap();
        (raw.exchange(get).await.status == 200).then_some(())
    })
    .await;
}
