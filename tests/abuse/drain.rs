//! SIGTERM by details 35, and the bound on connections.

use crate::support::backend::{Backend, Step, answering, send};
use crate::support::http::Raw;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_next_answer_says_close_and_idle_connections_end_after_their_time() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.drain_idle = Duration::from_secs(6)).start();
    let (mut busy, mut idle) = (Raw::connect(proxy.address).await.unwrap(), Raw::connect(proxy.address).await.unwrap());
    assert!(!busy.exchange(GET).await.closes());
    assert!(!idle.exchange(GET).await.closes());
    proxy.drain();
    let begun = Instant::now();
    let refused = async || tokio::net::TcpStream::connect(proxy.address).await.is_err().then_some(());
    eventually("a closed listener", LIMIT, refused).await;
    let last = busy.exchange(GET).await;
    assert_eq!((last.text().as_str(), last.closes()), ("fine", true));
    assert!(busy.rest().await.is_empty());
    assert!(begun.elapsed() < Duration::from_millis(5800), "closed after its answer, not later");
    assert!(idle.rest().await.is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(5800), "{:?}", begun.elapsed());
    within("the end of the workers", LIMIT, proxy.ended()).await;
}

#[tokio::test]
async fn whoever_waits_to_be_accepted_is_served() {
    let backend = Backend::start(answering("fine")).await;
    for _ in 0..10 {
        let proxy =
            Setup::new(&[backend.address]).with(|s| s.options.timeouts.drain_idle = Duration::from_secs(5)).start();
        let mut clients = Vec::new();
        for _ in 0..40 {
            let mut raw = Raw::connect(proxy.address).await.unwrap();
            raw.send(GET).await;
            clients.push(raw);
        }
        proxy.drain();
        for raw in &mut clients {
            assert_eq!(raw.answer().await.text(), "fine");
        }
        drop(clients);
        within("the end of the workers", LIMIT, proxy.ended()).await;
    }
}

#[tokio::test]
async fn what_is_under_way_is_finished() {
    let script = vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf"),
        Step::Wait(Duration::from_millis(400)),
        send("half"),
        Step::Hold,
    ];
    let backend = Backend::start(script).await;
    let proxy =
        Setup::new(&[backend.address]).with(|s| s.options.timeouts.drain_idle = Duration::from_millis(50)).start();
    let (mut answered, mut head) =
        (Raw::connect(proxy.address).await.unwrap(), Raw::connect(proxy.address).await.unwrap());
    answered.send(GET).await;
    head.send("GET / HTTP/1.1\r\nHo").await;
    eventually("the request", LIMIT, async || (backend.connections() == 1).then_some(())).await;
    proxy.drain();
    // The rest of a head that was begun may still come.
    tokio::time::sleep(Duration::from_millis(200)).await;
    head.send("st: a\r\n\r\n").await;
    assert_eq!(answered.answer().await.text(), "halfhalf");
    let late = head.answer().await;
    assert_eq!((late.text().as_str(), late.closes()), ("halfhalf", true));
    drop((answered, head));
    within("the end of the workers", LIMIT, proxy.ended()).await;
}

/// A client that sent more requests reads the last answer whole: the close is not a reset (RFC 9112 §9.6).
#[tokio::test]
async fn pipelined_requests_do_not_destroy_the_last_answer_rfc9112_9_6() {
    let body = "x".repeat(400_000);
    let backend = Backend::start(answering(&body)).await;
    for _ in 0..10 {
        let proxy = Setup::new(&[backend.address]).start();
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.body.len(), body.len());
        proxy.drain();
        let closed = async || tokio::net::TcpStream::connect(proxy.address).await.is_err().then_some(());
        eventually("a closed listener", LIMIT, closed).await;
        raw.send(GET.repeat(200)).await;
        let last = raw.answer().await;
        assert_eq!((last.body.len(), last.closes()), (body.len(), true));
    }
}

#[tokio::test]
async fn connections_above_the_bound_wait_their_turn() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address])
        .with(|s| {
            s.options.limits.connections = 2;
            s.options.timeouts.drain_idle = Duration::from_millis(100);
        })
        .start();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        assert_eq!(raw.exchange(GET).await.text(), "fine");
        clients.push(raw);
    }
    let mut third = Raw::connect(proxy.address).await.unwrap();
    third.send(GET).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), third.try_answer(false)).await.is_err());
    assert_eq!(proxy.metric("weir_connections_total"), 2);
    clients.pop();
    assert_eq!(third.answer().await.text(), "fine");
    // At the bound, a drain still empties the accept queue.
    let mut fourth = Raw::connect(proxy.address).await.unwrap();
    fourth.send(GET).await;
    proxy.drain();
    assert_eq!(fourth.answer().await.text(), "fine");
    drop((clients, third, fourth));
    within("the end of the workers", LIMIT, proxy.ended()).await;
}
