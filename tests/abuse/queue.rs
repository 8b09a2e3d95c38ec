//! Bounded concurrency and its wait queue (details 10, 42), and services without an endpoint.

use crate::support::backend::{Backend, Step, answering, send};
use crate::support::http::{Answer, Raw};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(10);

/// A backend that answers one request for each permit it is given, and knows how many it had at once.
struct Gate {
    address: std::net::SocketAddr,
    permits: Arc<Semaphore>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            permits: Arc::new(Semaphore::new(0)),
            now: Arc::default(),
            most: Arc::default(),
        };
        let (permits, now, most) = (gate.permits.clone(), gate.now.clone(), gate.most.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (permits, now, most) = (permits.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    let mut buffer = [0u8; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        permits.acquire().await.unwrap().forget();
                        now.fetch_sub(1, Ordering::SeqCst);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine").await;
                    }
                });
            }
        });
        gate
    }

    async fn holds(&self, count: usize) {
        eventually("requests at the backend", LIMIT, async || (self.now.load(Ordering::SeqCst) == count).then_some(()))
            .await;
    }
}

fn limited(gate: &Gate, queue: u32, timeout: Duration) -> Proxy {
    Setup::new(&[gate.address])
        .with(|s| {
            s.spec.limits.concurrency = Some(1);
            s.spec.limits.queue = queue;
            s.spec.limits.queue_timeout = timeout;
        })
        .start()
}

fn outcome(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.field("weir-reason"))
}

#[tokio::test]
async fn a_request_waits_for_its_turn_and_a_full_queue_is_a_503() {
    let gate = Gate::start().await;
    let proxy = limited(&gate, 1, LIMIT);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Raw::connect(proxy.address).await.unwrap());
    }
    clients[0].send(GET).await;
    gate.holds(1).await;
    clients[1].send(GET).await;
    eventually("a waiting request", LIMIT, async || (proxy.waiting() == 1).then_some(())).await;
    let full = clients[2].exchange(GET).await;
    assert_eq!(outcome(&full), (503, Some("queue_full")));
    assert!(full.field("retry-after").is_some() && !full.closes());
    gate.permits.add_permits(2);
    assert_eq!(clients[0].answer().await.status, 200);
    assert_eq!(clients[1].answer().await.status, 200);
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);
    eventually("no request", LIMIT, async || ((proxy.waiting(), proxy.in_flight()) == (0, 0)).then_some(())).await;
    assert_eq!(proxy.metric("weir_queued_total{service=\"web\"}"), 1, "only one request waited");
    // The connection of the refused one goes on.
    gate.permits.add_permits(1);
    assert_eq!(clients[2].exchange(GET).await.status, 200);
}

#[tokio::test]
async fn waiting_too_long_is_a_503() {
    let gate = Gate::start().await;
    let proxy = limited(&gate, 10, Duration::from_millis(200));
    let mut first = Raw::connect(proxy.address).await.unwrap();
    first.send(GET).await;
    gate.holds(1).await;
    let mut second = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(outcome(&second.exchange(GET).await), (503, Some("queue_timeout")));
    gate.permits.add_permits(2);
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(second.exchange(GET).await.status, 200);
}

#[tokio::test]
async fn many_requests_pass_a_narrow_service_one_at_a_time() {
    let gate = Gate::start().await;
    let proxy = limited(&gate, 100, LIMIT);
    gate.permits.add_permits(200);
    let mut tasks = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        tasks.push(tokio::spawn(async move {
            for _ in 0..10 {
                assert_eq!(raw.exchange(GET).await.status, 200);
            }
        }));
    }
    for task in tasks {
        within("every answer", LIMIT, task).await.unwrap();
    }
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);
    eventually("no request", LIMIT, async || ((proxy.waiting(), proxy.in_flight()) == (0, 0)).then_some(())).await;
}

#[tokio::test]
async fn a_waiting_request_takes_an_endpoint_that_is_published() {
    let (gate, other) = (Gate::start().await, Backend::start(answering("other")).await);
    let mut proxy = limited(&gate, 10, LIMIT);
    let mut first = Raw::connect(proxy.address).await.unwrap();
    first.send(GET).await;
    gate.holds(1).await;
    let mut second = Raw::connect(proxy.address).await.unwrap();
    second.send(GET).await;
    eventually("a waiting request", LIMIT, async || (proxy.waiting() == 1).then_some(())).await;
    proxy.publish(&[gate.address, other.address]);
    assert_eq!(second.answer().await.text(), "other");
}

#[tokio::test]
async fn a_waiting_request_is_told_at_once_that_its_service_is_gone() {
    let gate = Gate::start().await;
    let mut proxy = limited(&gate, 10, Duration::from_secs(60));
    let mut first = Raw::connect(proxy.address).await.unwrap();
    first.send(GET).await;
    gate.holds(1).await;
    let mut second = Raw::connect(proxy.address).await.unwrap();
    second.send(GET).await;
    eventually("a waiting request", LIMIT, async || (proxy.waiting() == 1).then_some(())).await;
    proxy.remove();
    assert_eq!(outcome(&second.answer().await), (503, Some("no_service")));
    // What is in flight is finished.
    gate.permits.add_permits(1);
    assert_eq!(first.answer().await.status, 200);
}

/// Details 42: tunnels do not count against the limit.
#[tokio::test]
async fn a_tunnel_does_not_take_the_place_of_a_request() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let backend = Backend::start_each(vec![vec![Step::ReadHead, send(switch), Step::Hold], answering("fine")]).await;
    let proxy = Setup::new(&[backend.address])
        .with(|s| {
            s.spec.limits.concurrency = Some(1);
            s.spec.limits.queue_timeout = Duration::from_millis(300);
        })
        .start();
    let mut tunnel = Raw::connect(proxy.address).await.unwrap();
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(tunnel.exchange(upgrade).await.status, 101);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(GET).await.text(), "fine");
    eventually("the tunnel alone, for which a drain waits", LIMIT, async || (proxy.in_flight() == 1).then_some(()))
        .await;
    drop(tunnel);
    eventually("the end of the tunnel", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(raw.exchange(GET).await.text(), "fine");
}

#[tokio::test]
async fn no_endpoint_is_a_503_and_no_route_a_404() {
    let mut proxy = Setup::new(&[]).with(|s| s.path = "/api".into()).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let none = raw.exchange("GET /api HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(outcome(&none), (503, Some("no_endpoint")));
    assert!(none.field("retry-after").is_some() && !none.closes());
    let lost = raw.exchange("GET /apix HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(outcome(&lost), (404, Some("no_route")));
    assert!(!lost.closes());
    let head = raw.send("HEAD /apix HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let () = head;
    assert_eq!(raw.head_answer().await.status, 404);
    // The first endpoint is used as soon as it is published, over the same connection.
    let backend = Backend::start(answering("fine")).await;
    proxy.publish(&[backend.address]);
    assert_eq!(raw.exchange("GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n").await.text(), "fine");
    proxy.remove();
    let gone = raw.exchange("GET /api HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(gone.status, 503);
    // A body that nobody reads: the connection cannot go on.
    let refused = raw.exchange("POST /lost HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(outcome(&refused), (404, Some("no_route")));
    assert!(refused.closes() && raw.rest().await.is_empty());
}

/// The address of an endpoint changes: connections to the old one are not used for it.
#[tokio::test]
async fn an_endpoint_that_is_replaced_gets_no_more_requests() {
    let (old, new) = (Backend::start(answering("old")).await, Backend::start(answering("new")).await);
    let mut proxy = Proxy::over(&[old.address]);
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange(GET).await.text(), "old");
    proxy.publish(&[new.address]);
    for _ in 0..3 {
        assert_eq!(raw.exchange(GET).await.text(), "new");
    }
}
